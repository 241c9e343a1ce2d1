//! What is particular to a log on a PostgreSQL server: many processes, a network that fails, a schema that others may have.

#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod cursors;
mod encryption;
mod holders;
mod hosts;
mod opening;
mod outages;
mod owners;
mod plans;
mod proxy;
mod selection;
mod sharing;
mod wake_ups;

//! Read models on the log's PostgreSQL server: R1 over restarts, lost connections and killed processes, D6 between two stores, D5 and D7.

mod child;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod fixture;
mod keeping;
mod outages;
#[path = "../postgres/proxy.rs"]
mod proxy;
mod random;
mod refusals;

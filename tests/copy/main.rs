//! A log is copied into another one, with everything that belongs to it. What both hold is compared in SQL.

#[path = "../common/mod.rs"]
mod common;
mod cut_off;
mod in_use;
mod place;
#[cfg(feature = "postgres")]
mod server;
mod whole;

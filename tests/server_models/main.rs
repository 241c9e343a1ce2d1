//! Read models on the log's PostgreSQL server: R1 over restarts, lost connections and killed processes, D6 between two stores, D5 and D7, R2 over rebuilds and versions, also those that are asked for from outside.

mod child;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod fixture;
mod keeping;
#[allow(dead_code, reason = "the other half is for files")]
#[path = "../views/naive.rs"]
mod naive;
mod operations;
mod outages;
#[path = "../postgres/proxy.rs"]
mod proxy;
mod random;
mod rebuilds;
mod refusals;
mod switching;
mod versions;
mod views;

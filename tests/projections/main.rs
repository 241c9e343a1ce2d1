//! R1, R2: read models in files of their own, and in the log's own file.

#[path = "../common/mod.rs"]
mod common;
mod failures;
mod fixture;
mod in_log;
mod in_log_failures;
mod in_log_rules;
mod keeping;
mod owners;
mod random;
mod refusals;
mod versions;

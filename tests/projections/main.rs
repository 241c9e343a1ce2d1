//! R1, R2: read models in files of their own.

#[path = "../common/mod.rs"]
mod common;
mod failures;
mod fixture;
mod keeping;
mod random;
mod refusals;
mod versions;

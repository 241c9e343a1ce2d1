//! Views: documents by key, kept exactly once (R1), rebuilt and versioned (R2), and read as their paths say.

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod keeping;
mod naive;
mod reading;
mod versions;

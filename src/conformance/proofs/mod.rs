//! The proofs, each a function of its own, by what they are about.

pub mod chains;
pub mod durable;
pub mod groups;
pub mod history;
pub mod keyed;
pub mod keyed_steering;
pub mod letters;
pub mod log;
pub mod mishaps;
pub mod once;
pub mod owners;
pub mod reactors;
pub mod requests;
pub mod retention;
pub mod retries;
pub mod steering;
pub mod steering_names;
pub mod streams;
pub mod takeover;
pub mod waiting;

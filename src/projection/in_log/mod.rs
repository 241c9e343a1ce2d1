//! Read models in the log's own file: what a projection writes, its position and the cursor of its stream are one transaction of that
//! file (R1), carried out by the committer.
//!
//! ```text
//!     stream ----> keeper: one at a time ----> committer, between two groups
//!                                                  |
//!                                                  +----> one transaction: the user's rows, position, cursor
//!     readers: connections to the log's file that cannot write
//! ```
//!
//! Invariants:
//! - the rows of a model, its position and the cursor move together or not at all; a batch at or before the position is never applied
//!   again, but for a dead letter, and that once;
//! - only the owner of the stream's name writes;
//! - no code of the user ends, stalls beyond its budget, or panics in the transaction of somebody's append;
//! - what a model may write is what its schema made, and nobody else writes there.
//!
//! In reading order: `options`, `task` (what is asked of the committer once), `rows` (what the file says of models), `step` (one transaction
//! of a projection), `keeper` (the handler of the stream), `readers`, `models` and `model` (the handles).

mod keeper;
pub(crate) mod model;
pub(crate) mod models;
pub(crate) mod options;
mod readers;
mod rows;
mod step;
mod task;

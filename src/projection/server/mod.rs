//! Read models on the log's PostgreSQL server: what a projection writes and its position are one transaction there (R1), on connections of
//! their own, so that no append waits for a projection.
//!
//! ```text
//!     stream ----> keeper: one at a time ----> link: a connection
//!                                                |
//!                                                +----> one transaction: the user's rows, position, a look at the owner
//!     readers: connections that cannot write
//! ```
//!
//! Invariants:
//! - the rows of a model and its position move together or not at all; a batch at or before the position is never applied again, but
//!   for a dead letter, and that once;
//! - the position is read in the transaction that applies, under the lock of the model's row, so it does not matter what became of a commit
//!   whose answer was lost;
//! - only the owner of the stream's name writes: the last that a transaction does before it commits is to lock the stream's row with
//!   its epoch;
//! - nobody but millstream ends such a transaction: as long as the model's row says that it is under way, its commit is refused by the server,
//!   and outside of a transaction the connection cannot write.
//!
//! In reading order: `projection` (what the user writes), `options`, `rows` (what the server says of models), `link` (the connection),
//! `hand` (the projection between its transactions), `step` (one transaction), `keeper` (the handler of the stream), `readers`, `models` and `model` (the handles);
//! and `view` (documents by key, a use of all this).

mod hand;
mod keeper;
mod link;
mod list;
pub(crate) mod model;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod projection;
mod readers;
mod rebuild;
mod rows;
mod shared;
mod step;
mod tables;
pub(crate) mod view;

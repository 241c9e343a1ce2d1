//! Read models on the log's PostgreSQL server: what a projection writes and its position are one transaction there (R1), on connections of
//! their own, so that no append waits for a projection.
//!
//! ```text
//!     stream, catch-up or rebuild ----> keeper: one at a time ----> link: a connection
//!                                                                     |
//!                                                                     +----> one transaction: the user's rows, position, a look at the owner
//!     list: which build serves <---- promoted, or rebuilt
//!         |
//!         +----> readers: connections that cannot write
//! ```
//!
//! A build, which is a version or a rebuild of it, has a schema of its own. That a build takes the place of another is one transaction of the list (R2).
//!
//! Invariants:
//! - the rows of a model and its position move together or not at all; a batch at or before the position is never applied again, but
//!   for a dead letter, and that once;
//! - the position is read in the transaction that applies, under the lock of the model's row, so it does not matter what became of a commit
//!   whose answer was lost;
//! - only the owner of the stream's name writes: the last that a transaction does before it commits is to lock the stream's row with
//!   its epoch;
//! - nobody but millstream ends such a transaction: as long as the model's row says that it is under way, its commit is refused by the server,
//!   and outside of a transaction the connection cannot write;
//! - whoever may write a build is named in its row, and in the switch the build that is replaced loses its owner: nobody goes on writing
//!   where nobody reads;
//! - no schema is removed that a reader has found to serve and still reads.
//!
//! In reading order: `projection` (what the user writes), `options`, `tables`, `list` (which builds there are, and which
//! serves), `rows` (one build), `link` (the connection), `hand` (the projection between its transactions), `step` (one transaction), `keeper` (who
//! has them made), `readers`, `shared`, `claim` (whose the model is) and `rebuild`, `models` and
//! `model` (the handles), `requests` and `operations` (what is asked from outside); and `view` (documents by key, a use of all this).

mod claim;
mod hand;
mod keeper;
mod link;
mod list;
pub(crate) mod model;
pub(crate) mod models;
mod operations;
pub(crate) mod options;
pub(crate) mod projection;
mod readers;
mod rebuild;
mod requests;
mod rows;
mod shared;
mod step;
mod tables;
pub(crate) mod view;

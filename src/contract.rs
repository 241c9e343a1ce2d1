//! What a log is, for whoever writes one: the feature `contract`.
//!
//! A [`Store`](crate::Store) keeps its promises on any log that keeps this contract. The logs of this crate, in memory, in an SQLite file
//! and on a PostgreSQL server, are three implementations of the same traits. The feature `conformance` has the proofs to run on another
//! one; `docs/conformance.md` goes through it step by step.
//!
//! A log is two halves. A store owns one [`LogWriter`], which lives on a thread of its own, the committer's: nothing else of the store
//! writes. It shares one [`LogReader`] with all of its threads. Both are given to [`StoreBuilder::open_log`](crate::StoreBuilder::open_log):
//!
//! ```
//! use millstream::contract::{Decoder, LogReader, LogWriter};
//! use millstream::{OpenError, StorageError, Store, StoreBuilder};
//!
//! # fn example<W: LogWriter + 'static, R: LogReader + 'static>(
//! #     halves: impl FnOnce(Decoder) -> Result<(W, R), StorageError>,
//! # ) -> Result<Store, OpenError> {
//! // The options come from the program, so they are taken and not made.
//! fn open<W: LogWriter + 'static, R: LogReader + 'static>(
//!     builder: StoreBuilder,
//!     halves: impl FnOnce(Decoder) -> Result<(W, R), StorageError>,
//! ) -> Result<Store, OpenError> {
//!     builder.open_log(halves)
//! }
//! # open(Store::builder(), halves) }
//! ```
//!
//! # What a log promises
//!
//! 1. **A transaction is all or nothing.** What is done between [`begin`](LogWriter::begin) and [`commit`](LogWriter::commit) is there for good
//!    when `commit` returned `Ok`, and none of it is after [`rollback`](LogWriter::rollback). When `commit` fails, `rollback` is called, and it
//!    is best when nothing was stored. What is read inside the transaction through the writer shows what it has written.
//! 2. **What was committed is seen** by every read of every reader that begins after `commit` returned, and by none before. Pages are read
//!    as of one moment.
//! 3. **Writers are one behind the other.** Where several stores may have the log open, `begin` waits until no other transaction is open, in
//!    whatever process. So sequences, which the committer gives, have no holes and are in the order of the commits.
//! 4. **Sequences are not given again.** [`Tail::head`] does not shrink, whatever is pruned or removed by hand.
//! 5. **A page is complete** up to the sequence that it names, in order, and no batch is cut in two by its end. [`PageBuilder`] makes such pages.
//! 6. **The epoch is a fence.** A position or an attempt is written when it names the stored epoch, and not otherwise.
//!    [`StoredCursor::moved`] and [`attempted`](StoredCursor::attempted) decide that.
//! 7. **Durable means durable.** A transaction that was begun with [`CommitSync::Durable`] survives whatever the log says that it does. One that
//!    was begun with [`CommitSync::Ordered`] may be lost in a crash together with everything after it, and never alone.
//! 8. **An instance is alive as long as its process.** [`ClaimWriter::enter`] holds something that ends with the process; what another
//!    store [sees of it](ClaimWriter::sign) is gone then, and the id is never used again.
//!
//! # When what is called
//!
//! The committer calls `begin`, then what requests need, then `commit`, or [`rollback`](LogWriter::rollback) when anything failed, `begin` and
//! `commit` among it: to roll back where nothing is open does nothing. Between two transactions, and never inside one, it calls
//! [`tail`](LogWriter::tail), [`data_version`](LogWriter::data_version), [`roll_call`](LogWriter::roll_call), [`beat`](ClaimWriter::beat)
//! and [`leave`](ClaimWriter::leave); [`page`](LogWriter::page), [`newest_epoch`](LogWriter::newest_epoch), [`enter`](ClaimWriter::enter),
//! [`sign`](ClaimWriter::sign) and [`contested`](ClaimWriter::contested) may come at either time. Everything else belongs to a transaction. When
//! the store is closed or dropped, the writer is dropped on the committer's thread, and [`release`](LogReader::release) tells the reader. A
//! writer that is dropped inside a transaction rolls it back.
//!
//! Calls may block: the committer has a thread to itself, and readers are called on threads that may wait where
//! [`is_blocking`](LogReader::is_blocking) says so. Readers are called by many threads at once, while a transaction is open. A call must not
//! panic: a committer that panics stops all streams of its store, and says so.
//!
//! # Errors
//!
//! Whatever fails is a [`StorageError`](crate::StorageError), made with [`of_log`](crate::StorageError::of_log). A failed transaction
//! fails its requests, with this error, and the next one is begun as if nothing had been. With
//! [`retryable`](crate::StorageError::retryable) the log says that nothing has happened and that the same may succeed later. A range that
//! begins before what pruning left is [`ReadError::Pruned`](crate::ReadError::Pruned).
//!
//! # What is not asked for
//!
//! Read models in the log's own file, backups, verification and copies belong to the logs of this crate; on another log they fail and say so.

pub use crate::clock::Timestamp;
pub use crate::event::batch::CommittedBatch;
pub use crate::log::contract::count::count;
pub use crate::log::contract::decode::Decoder;
pub use crate::log::contract::event::StoredEvent;
pub use crate::log::cursor::{CursorWrite, NamedCursor, RollCall, StoredCursor};
pub use crate::log::letter::{AttemptWrite, LetterCounts, LetterRange, LetterReader, LetterWriter};
pub use crate::log::once::{KeyWriter, StoredKey};
pub use crate::log::owner::{Claim, ClaimWriter, InstanceId, Sign};
pub use crate::log::page::{More, Page, PageBounds, PageBuilder, Range};
pub use crate::log::{Extent, LogReader, LogWriter, News, Pace, Sync as CommitSync, Tail};

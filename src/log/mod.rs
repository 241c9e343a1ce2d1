//! The log: where batches are committed, and where they are read from when memory does not hold them.
//!
//! A log is two halves. The [`LogWriter`] belongs to the committer and is the only one who writes; the
//! [`LogReader`] is shared and reads pages. Whatever implements them promises:
//!
//! - what was committed is seen by every read that begins afterwards, and by none before;
//! - a transaction is all or nothing, and requests inside it see each other;
//! - sequences grow in commit order, without holes and without repetition (L4);
//! - a page is examined completely up to the sequence that it names, and no batch is cut in two by its end.
//!
//! The log does not know the bus. What is committed leaves it through one closure.
//!
//! In reading order: `page` (what is read), `cursor` and `letter` (what is stored for a durable stream), `steer`, `retry_request` and `survey` (what
//! the person on duty may do with them, and sees of all), `prune` (what leaves), `reaction` (what handlers answer), `once` (what is appended once, however often it is asked for), `beside` (what else is written into the file), `opening`, `show` and `payload_path` (what logs that store rows have in common), `request`, `queue`, `crew` and `committer` (how it is written, and on which threads), `tempo` and
//! `trial` (how a caller waits for it), `handle` (what the rest of the crate holds), `owner` (who runs a stream), `shelf` and `shared` (the pages that several
//! streams read), `contract` (what a log of somebody else is written with), `statistics`, `verification`, `backup` and `copy` (what is said of a whole log, and how it moves), `location` (where it is), and the implementations.

#![cfg_attr(
    not(feature = "contract"),
    allow(
        unreachable_pub,
        reason = "what an implementation needs is exported with `contract`"
    )
)]

#[cfg(feature = "sqlite")]
pub(crate) mod backup;
#[cfg(feature = "sqlite")]
pub(crate) mod beside;
pub(crate) mod committer;
#[cfg(feature = "contract")]
pub(crate) mod contract;
#[cfg(feature = "sqlite")]
pub(crate) mod copy;
pub(crate) mod crew;
pub(crate) mod cursor;
pub(crate) mod handle;
pub(crate) mod letter;
#[cfg(feature = "sqlite")]
pub(crate) mod location;
pub(crate) mod once;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod opening;
pub(crate) mod owner;
pub(crate) mod page;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod payload_path;
pub(crate) mod prune;
pub(crate) mod queue;
pub(crate) mod reaction;
pub(crate) mod request;
pub(crate) mod retry_request;
pub(crate) mod shared;
pub(crate) mod shelf;
#[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "a log of somebody else needs half of it")
)]
mod show;
pub(crate) mod statistics;
pub(crate) mod steer;
pub(crate) mod survey;
pub(crate) mod tempo;
mod trial;
#[cfg(feature = "sqlite")]
pub(crate) mod verification;

#[cfg(feature = "internals")]
pub(crate) mod broken;
pub(crate) mod memory;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod pointer;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

use std::collections::HashMap;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::clock::Timestamp;
#[cfg(feature = "sqlite")]
use crate::error::{BackupError, VerifyError};
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
#[cfg(feature = "sqlite")]
use crate::log::backup::{BackedUp, BackupProgress};
#[cfg(feature = "sqlite")]
use crate::log::beside::{BesideWork, Written};
#[cfg(feature = "sqlite")]
use crate::log::copy::CopySource;
use crate::log::cursor::{CursorWrite, NamedCursor, RollCall, StoredCursor};
use crate::log::letter::{LetterReader, LetterWriter};
use crate::log::once::KeyWriter;
use crate::log::owner::{Claim, ClaimWriter};
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::prune::HeldBy;
use crate::log::statistics::LogStatistics;
use crate::log::survey::Survey;
#[cfg(feature = "sqlite")]
use crate::log::verification::Verification;

/// The newest end of a log.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// The last sequence that was ever given to an event, whether or not the event is still there.
    pub head: u64,
    /// The newest time that was recorded.
    pub recorded_at: Timestamp,
    /// Everything up to here was pruned; 0: nothing.
    pub pruned_through: u64,
}

/// What is new in a log.
#[derive(Debug)]
pub struct News {
    /// The `data_version`, as it was before or while everything else was looked at.
    pub version: i64,
    /// Where the log ends.
    pub tail: Tail,
    /// What comes first of the new batches, if that was asked for in one go with the rest.
    pub page: Option<Page>,
    /// The number that was given last.
    pub epoch: u64,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// Everything up to here was pruned; 0: nothing.
    pub pruned_through: u64,
    /// The last committed sequence.
    pub head: u64,
}

/// Whether a commit is to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// As the store's durability says.
    Durable,
    /// Only in the order of the write-ahead log: for cursors, whose loss means a repetition (D3).
    Ordered,
}

/// How much upkeep a log may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Only what cannot wait: requests may be queued.
    Busy,
    /// Whatever there is: nothing else is to be done.
    Idle,
}

/// The writing half of a log. Every method but `data_version`, `beside`, `tail`, `roll_call`, `newest_epoch`, `news`, `has_chore`, `tidy`
/// and `page` is called between `begin` and `commit` or `rollback`.
pub trait LogWriter: LetterWriter + KeyWriter + ClaimWriter + Send {
    /// Opens a transaction that nobody else writes beside, and says where the log ends.
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError>;

    /// Where the log ends, outside a transaction.
    fn tail(&mut self) -> Result<Tail, StorageError>;

    /// Adds one batch behind everything there is.
    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError>;

    /// The first event after `after` that `query` selects. Costs what lies behind `after`, not the whole log.
    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError>;

    /// Whether there is an event at `sequence` that `query` selects.
    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError>;

    /// The last sequence before the first event that was recorded at `time` or later.
    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError>;

    /// What is stored under a durable stream's name.
    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError>;

    /// The number that was given last.
    fn newest_epoch(&mut self) -> Result<u64, StorageError>;

    /// A number that was never given before, to a registration or to a word from outside.
    fn next_epoch(&mut self) -> Result<u64, StorageError>;

    /// Stores a durable stream's row under a new epoch, in place of an earlier one, of which it keeps what it does not name.
    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError>;

    /// Moves a cursor, and takes back what was noted of an attempt. `false`: the epoch is not the stored one, nothing was
    /// written (D6).
    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError>;

    /// The same for several, which says of each whether it was moved. When it fails, or what is written behind it, `undo_moves` lets the
    /// transaction go on without that.
    fn move_cursors(&mut self, writes: &[CursorWrite<'_>]) -> Result<Vec<bool>, StorageError> {
        writes.iter().map(|write| self.move_cursor(write)).collect()
    }

    /// Takes back what a log has to take back of the moves that failed, so that what the transaction did before can be committed.
    /// A move that was made may stay: it is right by itself.
    fn undo_moves(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Gives a durable stream's row, and what else is kept under its name, another name that is free.
    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError>;

    /// Removes a durable stream's row, and what else is kept under its name.
    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError>;

    /// The newest number that was given, and the rows of all durable streams at that time, outside a transaction.
    fn roll_call(&mut self) -> Result<RollCall, StorageError>;

    /// Of the cursors that belong to the log, the one that is furthest behind.
    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError>;

    /// The oldest batch of which an event is left.
    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError>;

    /// The batch of the newest event that is not after `sequence`.
    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError>;

    /// Prunes everything up to and with `through`, where a committed batch ends, with the idempotency keys of what it prunes, and
    /// says how many events that were.
    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError>;

    /// Does work of others in a transaction of its own, which neither `begin` nor `commit` belong to. Only a log in a file can.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "only a log in a file has it")]
    fn beside(&mut self, _: &mut dyn BesideWork) -> Result<Written, StorageError> {
        let problem = "this log is not in an SQLite file; keep the model in a file of its own";
        Err(StorageError::new(
            "write beside the log",
            std::io::Error::other(problem),
        ))
    }

    /// Makes the transaction permanent and visible.
    fn commit(&mut self) -> Result<(), StorageError>;

    /// Forgets the transaction.
    fn rollback(&mut self);

    /// Reads a page as the transaction, or the newest commit, shows it.
    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError>;

    /// Whether there is upkeep to do, a small piece of it at a time.
    fn has_chore(&mut self, _: Pace) -> bool {
        false
    }

    /// Does the piece that `has_chore` found, inside a transaction.
    fn do_chore(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
    /// Does a little of what keeps the log in order, between two transactions: so little that no append is held up by it.
    fn tidy(&mut self) {}

    /// When `tidy` has something to do although nothing is written.
    fn tidy_at(&self) -> Option<Instant> {
        None
    }

    /// A number that changes when somebody else commits.
    fn data_version(&mut self) -> Result<i64, StorageError>;

    /// What others committed after `after`, outside a transaction: for whoever was told that there is something. Costs a log that
    /// is far away one journey.
    fn news(&mut self, _after: u64, _bounds: PageBounds) -> Result<News, ReadError> {
        Ok(News {
            version: self.data_version()?,
            tail: self.tail()?,
            page: None,
            epoch: self.newest_epoch()?,
        })
    }

    /// Takes what is to be called when somebody else has committed, by a log that is told so. The others are asked for their
    /// `data_version` at the poll interval, and so is this one: a call that never comes delays, and loses nothing (D8).
    fn call_on_news(&mut self, _call: Arc<dyn Fn() + Send + std::marker::Sync>) {}
}

/// The reading half of a log, shared by all threads.
pub trait LogReader: LetterReader + Send + std::marker::Sync {
    /// Reads what `query` selects in `range`, as much as the bounds allow and at least one batch of it. A range that begins
    /// before what pruning left is refused: nobody passes over pruned events without being told.
    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError>;

    /// Reads page after page in one go, which costs less than one by one, until `take` wants no more. May end earlier; the
    /// last page says how far it got.
    fn pages(
        &self,
        query: &EventQuery,
        range: Range,
        bounds: PageBounds,
        take: &mut dyn FnMut(Page) -> More,
    ) -> Result<(), ReadError> {
        take(self.page(query, range, bounds)?);
        Ok(())
    }

    /// The last committed sequence.
    fn head(&self) -> Result<u64, StorageError>;

    /// What the log holds.
    fn extent(&self) -> Result<Extent, StorageError>;

    /// The rows of all durable streams, sorted by name.
    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError>;

    /// What is stored under a durable stream's name.
    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError>;

    /// The claims of living instances to one stream, or to all, sorted by stream.
    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError>;

    /// What is stored of all durable streams.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "what it gives is made of the other methods")]
    fn survey(&self) -> Result<Survey, StorageError> {
        let rows = self.cursors()?;
        let mut letters = HashMap::new();
        for row in &rows {
            letters.insert(Arc::clone(&row.name), self.counts(&row.name)?);
        }
        let head = self.head()?;
        let claims = self.claims(None)?;
        Ok(Survey {
            head,
            rows,
            letters,
            claims,
        })
    }

    /// For each position, when the first event after it was recorded. Nothing: there is none, or pruning has passed the position.
    fn recorded_after(&self, positions: &[u64]) -> Result<Vec<Option<Timestamp>>, StorageError> {
        let through = self.head()?;
        let one = PageBounds {
            batches_max: 1,
            bytes_max: 1,
        };
        let recorded_at = |&after: &u64| {
            let range = Range {
                after: after.min(through),
                through,
            };
            match self.page(&EventQuery::all(), range, one) {
                Ok(page) => Ok(page.batches.first().map(|batch| batch.recorded_at)),
                Err(ReadError::Storage(error)) => Err(error),
                Err(_) => Ok(None),
            }
        };
        positions.iter().map(recorded_at).collect()
    }

    /// How many bytes are free where the log lies, for those without privileges. Nothing: it lies in memory.
    fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }

    /// The id that was made with the log.
    fn log_id(&self) -> &str;

    /// The SQLite file of the log. Nothing: it has none.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    fn file(&self) -> Option<&Path> {
        None
    }

    /// Lets go of what is kept for the next read. The store is closed.
    fn release(&self);

    /// Whether reading may wait for a disk, so that it belongs on a thread of its own.
    fn is_blocking(&self) -> bool;

    /// The last sequence before the first event that was recorded at `time` or later.
    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError>;

    /// What the log holds, counted.
    fn statistics(&self) -> Result<LogStatistics, StorageError>;

    /// The same log, as a copy is made from it. Nothing: it cannot be copied.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "only the logs of this crate are copied")]
    fn copy_source(&self) -> Option<&dyn CopySource> {
        None
    }

    /// Checks every invariant of the file, as long as `is_wanted` says so. A log in memory has no file.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    fn verify(&self, _is_wanted: &mut dyn FnMut() -> More) -> Result<Verification, VerifyError> {
        Err(VerifyError::NotAFile)
    }

    /// Copies the log into a new file, as long as `tell` wants more. A log in memory has no file.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    fn backup_to(
        &self,
        _target: &Path,
        _tell: &mut dyn FnMut(BackupProgress) -> More,
    ) -> Result<BackedUp, BackupError> {
        Err(BackupError::NotAFile)
    }

    /// The end of the batch that `sequence` lies in, or `sequence` itself, when it lies in none.
    fn batch_end(&self, sequence: u64) -> Result<u64, StorageError> {
        Ok(sequence)
    }

    /// Whether an index serves the query, so that its pages cost less than those with all events.
    fn is_indexed(&self, _query: &EventQuery) -> bool {
        false
    }
}

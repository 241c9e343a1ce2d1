//! A log copied into another one, with whatever stands beside the events: cursors, dead letters, idempotency keys.
//!
//! The copy is the same log at another place: it keeps the id, the sequences, the boundaries of the batches, the times, and what is
//! missing. Nothing here knows what kind of log either side is; both are asked through traits.
//!
//! - The target says in itself that it is a copy in the making, and of which log, from the transaction on that makes it. Whoever
//!   opens it as a log is refused until the copy has ended, and a copy goes on only where it belongs.
//! - Events are copied page by page, each in a transaction of the target, with the keys of their batches. So the head of the
//!   target says how far the copy is, and a process that died in the middle is followed by one that goes on there.
//! - The source is in use meanwhile. Events never change, so they may be copied one after the other; what does change is read in one
//!   snapshot at the end, and the events up to that snapshot's head are copied then. What the source prunes on the way leaves the
//!   target too.
//! - Before the target becomes a log, both sides are read again and compared: every event by checksum and count, everything else row
//!   by row.
//!
//! In reading order: `mod` (what a log has to offer to be copied, or to be copied to), `checksum` (what two logs have in
//! common), `standing` (what is copied of streams), both pure, and `run` (what is done).

pub(crate) mod checksum;
pub(crate) mod run;
pub(crate) mod standing;

use crate::error::{ReadError, StorageError};
use crate::log::LogWriter;
use crate::log::copy::standing::Standing;
use crate::log::once::KeyReader;
use crate::log::page::{Page, PageBounds, Range};

/// How far a copy is; what [`copy_with_progress`](crate::Store::copy_with_progress) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// What is being done.
    pub phase: CopyPhase,
    /// How many sequences are done with in this phase, of those that the log has an event at or once had.
    pub done_sequences: u64,
    /// How many there are, as far as that is known: the log may grow meanwhile.
    pub total_sequences: u64,
}

/// What a copy is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyPhase {
    /// Events go over.
    Copying,
    /// The events of both sides are read and compared.
    Verifying,
}

/// What a copy holds. All of it was compared with the source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The id of the log, which the copy keeps.
    pub log_id: String,
    /// The last sequence in the copy: the source as it was when the last of it was read.
    pub head: u64,
    /// Everything up to this sequence was pruned, in the source and so in the copy; 0: nothing.
    pub pruned_through: u64,
    /// How many events it holds.
    pub events: u64,
    /// How many batches they make.
    pub batches: u64,
    /// How many idempotency keys are remembered.
    pub idempotency_keys: u64,
    /// How many durable streams have a cursor.
    pub streams: u64,
    /// How many dead letters they have.
    pub dead_letters: u64,
    /// A checksum over all events, in order, and their idempotency keys: the same for both sides.
    pub checksum: u128,
    /// Where an earlier copy had got to that did not end, and this one went on; nothing: it began anew.
    pub resumed_after: Option<u64>,
}

/// The half of a log's reader that a copy is made from.
pub(crate) trait CopySource: KeyReader {
    /// Reads a page of all events as [`page`](crate::log::LogReader::page) does, each as it is stored, whatever upcasters this reader has.
    fn stored_page(&self, range: Range, bounds: PageBounds) -> Result<Page, ReadError>;

    /// What stands beside the events, and where they end, all of it at one moment.
    fn standing(&self) -> Result<Standing, StorageError>;

    /// The paths into the payload that are indexed, as JSON pointers. A log without such an index has none.
    fn indexed_paths(&self) -> Result<Vec<String>, StorageError> {
        Ok(Vec::new())
    }
}

/// The writing half of a log that is a copy in the making. Every method is called between `begin` and `commit`.
///
/// Batches come in the order of the source, with its sequences, which may leave holes. One of which events were removed by hand comes
/// with the rest of them, and with the range that it had; one that was removed as a whole may have left its key. [`remove_through`](LogWriter::remove_through) may be told of a place that lies
/// behind the head, which it moves there.
pub(crate) trait CopyTarget: LogWriter {
    /// The id of the log of which this is a copy that has not ended; nothing: this is a whole log.
    fn copy_of(&mut self) -> Result<Option<String>, StorageError>;

    /// Puts this in place of whatever stands beside the events: it was read at the head that the target has.
    fn put_standing(&mut self, standing: &Standing) -> Result<(), StorageError>;

    /// Ends the copy: this is a whole log from now on.
    fn end_copy(&mut self) -> Result<(), StorageError>;
}

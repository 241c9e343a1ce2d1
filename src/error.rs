//! One error type per operation.
//!
//! Messages are lower case and without a full stop, name the value and the limit, and say what to do next. Causes are
//! kept as the source. An error that several waiters receive is shared, so all of them are cheap to clone.

mod failure;
mod steer;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub(crate) use crate::error::failure::causes;
pub use crate::error::failure::{DeadLetterError, DecodeError, FailureCategory};
pub use crate::error::steer::SteerError;

/// What a handler returns when it fails.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A store could not be opened.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option of the builder does not make sense.
    #[error("the option `{option}` is {value}, which is {problem}")]
    InvalidOption {
        /// The name of the builder's method.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it, and what is accepted.
        problem: &'static str,
    },
    /// There is no such file, and none is to be made: the builder was told [`must_exist`](crate::StoreBuilder::must_exist).
    #[error("{path} does not exist; check the path, or append to it to make a new log")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is an SQLite database of something else, or no database at all.
    #[error("{path} is not a millstream log: {found}; choose another file, or a new one")]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// The file was written by a newer version of this crate.
    #[error("{path} has format {found}, this version reads formats up to {supported}; upgrade the program")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The newest format that this version reads.
        supported: i64,
    },
    /// SQLite cannot keep a write-ahead log here, for instance because this is no file.
    #[error(
        "{path} cannot have a write-ahead log, its journal mode is {mode}; choose a file on a local disk, or `Store::in_memory`"
    )]
    NoWriteAheadLog {
        /// What was to be opened.
        path: PathBuf,
        /// The journal mode that SQLite offers instead.
        mode: String,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The storage below the log failed.
#[derive(Clone, Debug, Error)]
#[error("the log could not {operation}: {message}")]
pub struct StorageError {
    operation: &'static str,
    message: String,
    #[source]
    source: Arc<dyn Error + Send + Sync>,
    kind: StorageFault,
}

/// What is known of a failure of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StorageFault {
    Unknown,
    Busy,
    Damage,
}

impl StorageError {
    pub(crate) fn new(operation: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            operation,
            message: source.to_string(),
            source: Arc::new(source),
            kind: StorageFault::Unknown,
        }
    }

    pub(crate) fn busy(mut self) -> Self {
        self.kind = StorageFault::Busy;
        self
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn damage(mut self) -> Self {
        self.kind = StorageFault::Damage;
        self
    }

    /// Whether another process held the file for longer than the wait for it, so that a retry may succeed.
    pub fn is_busy(&self) -> bool {
        self.kind == StorageFault::Busy
    }

    /// Whether the file itself is damaged, so that a backup is to be restored.
    pub fn is_damage(&self) -> bool {
        self.kind == StorageFault::Damage
    }
}

/// One event of an append was refused (L5).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// There is no type.
    #[error("the event type is empty; give the event a type")]
    TypeEmpty,
    /// The type is too long.
    #[error("the event type has {bytes} bytes, at most {max} are allowed")]
    TypeTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A type or tag has a line feed or another control character in it.
    #[error("the {field} {text:?} contains a control character; remove it")]
    ControlCharacter {
        /// Which part of the event.
        field: &'static str,
        /// The text.
        text: Box<str>,
    },
    /// A tag without text.
    #[error("a tag is empty; leave it out")]
    TagEmpty,
    /// A tag is too long.
    #[error("the tag {tag:?} has {bytes} bytes, at most {max} are allowed")]
    TagTooLong {
        /// The tag.
        tag: Box<str>,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The event has too many tags.
    #[error("the event has {count} tags, at most {max} are allowed")]
    TooManyTags {
        /// How many it has.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The payload is too large.
    #[error(
        "the payload has {bytes} bytes as JSON, at most {max} are allowed; store large content elsewhere and refer to it, or raise `Limits::payload_bytes_max`"
    )]
    PayloadTooLarge {
        /// Its length as JSON text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The metadata are too large.
    #[error("the metadata have {bytes} bytes as JSON, at most {max} are allowed")]
    MetadataTooLarge {
        /// Their length as JSON text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The payload or the metadata are nested so deeply that they could not be read back.
    #[error("the JSON is nested {depth} levels deep, at most {max} are allowed")]
    TooDeep {
        /// How deep it is nested.
        depth: usize,
        /// The limit.
        max: usize,
    },
    /// The payload was given as text, and the text is not JSON.
    #[error("the payload is not valid JSON: {0}")]
    InvalidJson(#[source] Arc<serde_json::Error>),
    /// The payload or a metadata value cannot be written as JSON.
    #[error("the value cannot be written as JSON: {0}")]
    Unserialisable(#[source] Arc<serde_json::Error>),
    /// What was to be encoded as a typed event is not an enum.
    #[error("only a serde enum can be encoded as a typed event: {0}")]
    NotAnEnum(#[source] Arc<serde_json::Error>),
    /// What was to be imported is not an event.
    #[error("this is not an event with `type` and `payload`: {0}")]
    InvalidImport(#[source] Arc<serde_json::Error>),
}

/// An append was refused or failed. Nothing of it is in the log, unless the variant says otherwise.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// There was no event in it.
    #[error("the append has no events; give it at least one")]
    Empty,
    /// The append has too many events.
    #[error(
        "the append has more than {max} events; append several batches, or raise `Limits::batch_events_max`"
    )]
    TooManyEvents {
        /// The limit.
        max: usize,
    },
    /// The events are too large together.
    #[error(
        "the append has {bytes} bytes up to event {index}, at most {max} are allowed; append several batches, or raise `Limits::batch_bytes_max`"
    )]
    BatchTooLarge {
        /// The event, counted from 0, that exceeded the limit.
        index: usize,
        /// The bytes up to and with that event.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// One of the events was refused.
    #[error("event {index} of the append is refused: {source}")]
    InvalidEvent {
        /// Which event, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: InvalidEvent,
    },
    /// The context of an [`append_if`](crate::Store::append_if) moved.
    #[error(
        "the context moved: expected {expected}, found {found}; query again, decide again, and append with the new version"
    )]
    Conflict {
        /// What the caller expected.
        expected: String,
        /// What the log holds.
        found: String,
    },
    /// The store was closed before the append was queued.
    #[error("the store is closed")]
    Closed,
    /// The storage failed. When it failed while the transaction was being committed, for instance because the disk broke,
    /// the outcome is unknown: the events may be in the log, and are then delivered.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A query, read or follow failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The log was pruned beyond where the read was to go on.
    #[error(
        "events after {after} were asked for, the log was pruned through {pruned_through}; begin after that, or without a position for all that is left"
    )]
    Pruned {
        /// Where the read was to go on.
        after: u64,
        /// Everything up to here is gone.
        pruned_through: u64,
    },
    /// A single append in the log is larger than what a reader may hold, or its rows are damaged.
    #[error("event {sequence} of the log is damaged: {problem}")]
    Damaged {
        /// The event's sequence.
        sequence: u64,
        /// What is wrong with its row.
        problem: String,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A stream could not be registered.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The name or an option is not accepted.
    #[error("the durable stream {name:?} is refused: {problem}")]
    InvalidOption {
        /// The stream's name.
        name: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// A stream of this name is running in this store (D6).
    #[error(
        "a durable stream named {name:?} is running already; unsubscribe it first, or choose another name"
    )]
    NameActive {
        /// The stream's name.
        name: String,
    },
    /// The stored cursor belongs to another query (D7).
    #[error(
        "the cursor of {name:?} stands at {cursor} for the query {stored}, now the query is {given}; choose `OnMismatch::KeepCursor` to go on from there, `OnMismatch::StartOver`, or a new name"
    )]
    QueryChanged {
        /// The stream's name.
        name: String,
        /// The stored cursor.
        cursor: u64,
        /// The query that the cursor was stored with, as canonical JSON.
        stored: String,
        /// The query given now, as canonical JSON.
        given: String,
    },
    /// The stored cursor is ahead of the log: the log was restored from an older copy, or shortened (D7).
    #[error(
        "the cursor of {name:?} stands at {cursor}, the log ends at {head}; choose `OnMismatch::StartOver`, or restore the log that the cursor belongs to"
    )]
    CursorAhead {
        /// The stream's name.
        name: String,
        /// The stored cursor.
        cursor: u64,
        /// The head of the log.
        head: u64,
    },
    /// The stored cursor was written for another log (D7).
    #[error(
        "the cursor of {name:?} belongs to the log {cursor_log}, this is the log {log}; choose `OnMismatch::StartOver`, or open the right file"
    )]
    ForeignCursor {
        /// The stream's name.
        name: String,
        /// The id of the log that the cursor was written for.
        cursor_log: String,
        /// The id of this log.
        log: String,
    },
    /// The stream is to go on, or to start, before what pruning left of the log (D7).
    #[error(
        "{name:?} is to go on after {position}, the log was pruned through {pruned_through}; choose `OnMismatch::StartOver` with `Start::Beginning` for all that is left"
    )]
    Pruned {
        /// The stream's name.
        name: String,
        /// The stored cursor, or the start position given.
        position: u64,
        /// Everything up to here is gone.
        pruned_through: u64,
    },
    /// The start position is ahead of the log.
    #[error(
        "the stream is to start after {position}, the log ends at {head}; use `Start::Now` for what comes next"
    )]
    StartAhead {
        /// The position given.
        position: u64,
        /// The head of the log.
        head: u64,
    },
    /// There is no tokio runtime to run the handler on.
    #[error("there is no tokio runtime here; register streams from a task or inside `Runtime::block_on`")]
    NoRuntime,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a stream runs no more. Its cursor stays where it was: a durable stream of the same name goes on from there.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StopCause {
    /// [`unsubscribe`](crate::EventStream::unsubscribe) was called, or the handle was dropped.
    #[error("unsubscribed")]
    Unsubscribed,
    /// The store was closed, or its last handle dropped.
    #[error("the store was closed")]
    Closed,
    /// The handler failed until its retries were used up, and the failure policy says to stop (D5).
    #[error(
        "the handler failed {attempts} times on the batch up to {last_sequence}, at last with: {error}; mend the cause and register the stream again"
    )]
    HandlerFailed {
        /// The last sequence of the batch that the handler could not take.
        last_sequence: u64,
        /// How many times it was called for it.
        attempts: u32,
        /// In which way it failed at last.
        category: FailureCategory,
        /// The last error, or what the handler panicked with.
        error: Arc<str>,
    },
    /// The process ended again and again while the handler had this batch, and the failure policy says to stop. The handler
    /// was not called this time. The count begins anew when the stream is registered again.
    #[error(
        "the process ended {starts} times while the handler had the batch up to {last_sequence}; mend the cause and register the stream again, or set such batches aside with a `FailurePolicy`"
    )]
    Crashed {
        /// The last sequence of the batch.
        last_sequence: u64,
        /// How often it was begun.
        starts: u32,
    },
    /// Most of what was settled last had to be set aside: that looks like an outage, not like single bad events.
    #[error(
        "{set_aside} of the last {of} batches had to be set aside, so it is not they that are at fault; the last failure: {error}; mend the cause and register the stream again"
    )]
    MostFail {
        /// How many were set aside, the one included for which the stream stopped.
        set_aside: u32,
        /// Of how many.
        of: u32,
        /// The last failure.
        error: Arc<str>,
    },
    /// The stream has as many dead letters, or parked keys, as its failure policy allows.
    #[error(
        "{found} {what} would be more than the {max} that are allowed; retry or discard some of them, or raise `FailurePolicy::{option}`"
    )]
    DeadLettersFull {
        /// What there are too many of.
        what: &'static str,
        /// How many there would be.
        found: u64,
        /// The limit.
        max: u64,
        /// The option that sets the limit.
        option: &'static str,
    },
    /// A dead letter could not be stored, so the cursor stays before what it stands for.
    #[error("the dead letter for {first_sequence} could not be stored: {source}")]
    DeadLetterNotStored {
        /// The first sequence of what was to be set aside.
        first_sequence: u64,
        /// What the storage said.
        source: StorageError,
    },
    /// The closure that gives the key of an event panicked.
    #[error("the closure of `FailurePolicy::park_key` panicked: {0}; mend it and register the stream again")]
    KeyPanicked(Arc<str>),
    /// The closure that shares the events out by key panicked.
    #[error(
        "the closure of `DurableStream::partition_by` panicked: {0}; mend it and register the stream again"
    )]
    PartitionPanicked(Arc<str>),
    /// Another owner registered the same name, so that this one can write the cursor no more (D6).
    #[error("another owner took over the durable stream")]
    OwnershipLost,
    /// The stream was deleted: its cursor is gone.
    #[error("the durable stream was deleted; registered again, it is a new one")]
    Deleted,
    /// The stream was renamed: its cursor has another name.
    #[error("the durable stream was renamed to {to:?}; register it under that name to go on")]
    Renamed {
        /// The new name.
        to: String,
    },
    /// The log could not be read, or the cursor not be stored.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The stream's own loop panicked, which is a fault of this crate; please report it.
    #[error("the stream's loop panicked, which is a fault of millstream; please report it")]
    LoopPanicked,
    /// The tokio runtime that the stream was registered on has been shut down.
    #[error("the tokio runtime of the stream was shut down")]
    RuntimeShutDown,
}

/// A prune failed. The steps before are done, and what they removed is gone.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A backup was refused or failed. There is nothing at the target.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log is in memory alone.
    #[error("a log in memory has no file to copy; open the log in a file")]
    NotAFile,
    /// There is a file already, which is not overwritten.
    #[error("{target} exists already; choose another target, or remove it first")]
    TargetExists {
        /// The file.
        target: PathBuf,
    },
    /// The target could not be written.
    #[error("{target} could not be written: {source}")]
    Target {
        /// The file.
        target: PathBuf,
        /// What the file system says.
        source: Arc<std::io::Error>,
    },
    /// The store is closed, or the backup was given up.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A verification could not be made. What it finds is no error, but a [`Verification`](crate::Verification).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The log is in memory alone.
    #[error("a log in memory has no file to verify; open the log in a file")]
    NotAFile,
    /// The store is closed, or the verification was given up.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was waited for will not come.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The stream stopped before it got there.
    #[error("the stream {} stopped at {position}: {cause}", name.as_deref().unwrap_or("without a name"))]
    Stopped {
        /// The name of a durable stream.
        name: Option<String>,
        /// The last sequence that is settled.
        position: u64,
        /// Why it stopped.
        cause: StopCause,
    },
    /// The stream is paused, and was before it got there.
    #[error("the stream {name:?} was paused at {position} by {by:?}; resume it, and wait again")]
    Paused {
        /// The stream's name.
        name: String,
        /// The last sequence that is settled.
        position: u64,
        /// Who paused it.
        by: String,
    },
    /// The log has no durable stream of this name, or has it no longer.
    #[error("there is no durable stream named {name:?}")]
    NoSuchStream {
        /// The name.
        name: String,
    },
    /// The stream's own handler waits, for what only its return can bring.
    #[error(
        "the handler of the stream {} waits for its own stream; return, or wait in a task of its own",
        name.as_deref().unwrap_or("without a name")
    )]
    InOwnHandler {
        /// The name of a durable stream.
        name: Option<String>,
    },
    /// The stored position could not be read.
    #[error(transparent)]
    Log(#[from] ReadError),
}

/// The store is closed, and not everything came to a good end. Cursors are where the handled batches left them, so
/// durable streams repeat or go on at the next start.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Some streams did not get done within the limit; their handler calls were cancelled.
    #[error("{} streams were not done within {limit:?}: {}", streams.len(), streams.join(", "))]
    DrainLimit {
        /// The limit.
        limit: Duration,
        /// What was running, by name.
        streams: Vec<String>,
    },
}

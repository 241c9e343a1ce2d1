//! Why a stream was not registered, runs no more, or does not get where it is waited for.

use std::sync::Arc;

use thiserror::Error;

use crate::error::{FailureCategory, Instance, ReadError, StorageError};

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
    /// Another store, in another process or in this one, runs the stream (D6).
    #[error(
        "the durable stream {name:?} is run by {owner}; end it there first, register it with `Ownership::Standby` to wait for that, or with `Ownership::TakeOver` to end it from here"
    )]
    OwnedElsewhere {
        /// The stream's name.
        name: String,
        /// Who runs it.
        owner: Instance,
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
    /// The stream is to start after another one, and there is none of that name.
    #[error("{name:?} is to start after the durable stream {older:?}, and there is none of that name{}", nearest.as_ref().map_or_else(
        || "; `Store::streams` lists those there are".to_owned(),
        |nearest| format!("; did you mean {nearest:?}?"),
    ))]
    NoSuchOlderStream {
        /// The stream's name.
        name: String,
        /// The name that was given with `Start::AfterStream`.
        older: String,
        /// The name in the log that is most like it, if one is.
        nearest: Option<String>,
    },
    /// Another stream started after this one, and goes on where it stood.
    #[error(
        "the durable stream {name:?} was taken over by {by:?}, which goes on where it stood; register that one, or delete {name:?} to begin it anew"
    )]
    TakenOver {
        /// The stream's name.
        name: String,
        /// The stream that took over.
        by: String,
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
    /// A reaction could not be appended, so the cursor stays before what it answers.
    #[error("the reaction to the batch up to {last_sequence} could not be appended: {source}")]
    ReactionNotStored {
        /// The last sequence of the batch that it answers.
        last_sequence: u64,
        /// What the storage said.
        source: Arc<StorageError>,
    },
    /// A chain of reactions is longer than [`Reactor::depth_max`](crate::Reactor::depth_max) allows. Nothing was appended, and the
    /// cursor stays before the event.
    #[error(
        "a reaction to event {cause} would have depth {depth}, at most {depth_max} is allowed: reactors seem to answer each other for ever; mend them, or raise `Reactor::depth_max`, and register the stream again"
    )]
    ChainTooDeep {
        /// The event that was to be reacted to.
        cause: u64,
        /// How deep the reaction would be in the chain.
        depth: u64,
        /// The limit.
        depth_max: u32,
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
    /// The stream stood by, and could not be registered when its owner had gone.
    #[error("the durable stream stood by and could not take over: {source}")]
    NotTakenOver {
        /// Why not.
        source: Arc<StreamError>,
    },
    /// Another stream was registered with [`Start::AfterStream`](crate::Start::AfterStream), and goes on where this one stood.
    #[error("the durable stream was taken over by {by:?}, which goes on where it stood")]
    TakenOver {
        /// The stream that took over.
        by: String,
    },
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

impl StopCause {
    /// Whether somebody ended the stream on purpose.
    pub(crate) fn is_meant(&self) -> bool {
        matches!(
            self,
            Self::Unsubscribed | Self::Closed | Self::Deleted | Self::Renamed { .. } | Self::TakenOver { .. }
        )
    }
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
    /// The stream stands by: its handler is called elsewhere.
    #[error(
        "the stream {name:?} stands by here, {owner} runs it; wait for `EventStream::owned` first, or for the stream in the log with `Store::stream`"
    )]
    StandsBy {
        /// The stream's name.
        name: String,
        /// Who runs it, as far as is known here.
        owner: Instance,
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

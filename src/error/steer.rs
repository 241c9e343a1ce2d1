//! Why a durable stream was not steered.

use std::time::SystemTime;

use thiserror::Error;

use crate::error::StorageError;

/// A durable stream could not be steered. Nothing was changed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SteerError {
    /// The log has no durable stream of this name.
    #[error("there is no durable stream named {name:?}{}", nearest.as_ref().map_or_else(
        || "; `Store::streams` lists those there are".to_owned(),
        |nearest| format!("; did you mean {nearest:?}?"),
    ))]
    NoSuchStream {
        /// The name given.
        name: String,
        /// The name in the log that is most like it, if one is.
        nearest: Option<String>,
    },
    /// Another stream goes on where it stood.
    #[error(
        "the durable stream {name:?} was taken over by {by:?}, which goes on where it stood; steer that one, or delete {name:?}"
    )]
    TakenOver {
        /// The stream's name.
        name: String,
        /// The stream that took over.
        by: String,
    },
    /// The stored cursor is not where it was expected.
    #[error(
        "the cursor of {name:?} was expected at {expected} and stands at {found}; look at the stream again and decide again"
    )]
    CursorMoved {
        /// The stream's name.
        name: String,
        /// Where the caller expected it.
        expected: u64,
        /// Where it stands.
        found: u64,
    },
    /// The query selects nothing after the cursor.
    #[error("{name:?} stands at {position} and is given nothing after it that could be skipped")]
    NothingToSkip {
        /// The stream's name.
        name: String,
        /// The stored cursor.
        position: u64,
    },
    /// Nobody runs the stream, so nobody has the handler that a retry takes.
    #[error(
        "nobody runs {name:?}, and a retry takes its handler; start the program that registers the stream, and ask again"
    )]
    NobodyRuns {
        /// The stream's name.
        name: String,
    },
    /// Somebody else has asked before, and is not answered yet.
    #[error(
        "letters of {name:?} are being retried already: {by} asked for it {} s ago; wait until that has ended, and ask again", age(*since)
    )]
    RetryUnderWay {
        /// The stream's name.
        name: String,
        /// Who asked.
        by: String,
        /// When.
        since: SystemTime,
    },
    /// There is no such dead letter.
    #[error("{name:?} has no dead letter that {missing}; list them again")]
    NoSuchLetter {
        /// The stream's name.
        name: String,
        /// Which one was asked for.
        missing: String,
    },
    /// The target is ahead of the log.
    #[error(
        "{name:?} is to be moved to {position}, the log ends at {head}; use `Reset::Now` for what comes next"
    )]
    Ahead {
        /// The stream's name.
        name: String,
        /// The target.
        position: u64,
        /// The head of the log.
        head: u64,
    },
    /// The target lies before what pruning left of the log.
    #[error(
        "{name:?} is to be moved to {position}, the log was pruned through {pruned_through}; use `Reset::Beginning` for all that is left"
    )]
    Pruned {
        /// The stream's name.
        name: String,
        /// The target.
        position: u64,
        /// Everything up to here is gone.
        pruned_through: u64,
    },
    /// The new name belongs to a stream already.
    #[error(
        "{name:?} cannot be named {to:?}, there is a durable stream of that name; choose another, or delete that one"
    )]
    NameTaken {
        /// The stream's name.
        name: String,
        /// The new name.
        to: String,
    },
    /// A text that was given is not accepted.
    #[error("{what}, {value:?}, is refused: it {problem}")]
    InvalidText {
        /// What it was given as.
        what: &'static str,
        /// The text.
        value: String,
        /// What is wrong with it, and what is accepted.
        problem: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How many seconds ago that was.
fn age(since: SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}

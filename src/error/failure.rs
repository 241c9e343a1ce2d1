//! How handlers fail: the categories, how one is recognised, and what can go wrong with dead letters.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::error::{ReadError, StorageError};

/// In which way a handler call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCategory {
    /// The handler returned an error.
    Error,
    /// The handler panicked, in its closure, in its future, or when that was dropped.
    Panic,
    /// The call took longer than [`HandleStream::timeout`](crate::HandleStream::timeout) allows, and was dropped; or a read model in the
    /// log's own file had the log for longer than its budget.
    Timeout,
    /// The handler returned an error that is, or was caused by, a [`DecodeError`]; or it was not called, because the store's
    /// [upcasters](crate::StoreBuilder::upcast) cannot bring an event of the batch up to date.
    Undecodable,
    /// The [condition](crate::Reaction::only_if) of a reaction did not hold: the handler of a [`Reactor`](crate::Reactor) decided on a
    /// context that has moved.
    Conflict,
    /// The process ended while the call was under way, and did so as often as
    /// [`DurableStream::starts_max`](crate::DurableStream::starts_max) allows.
    Crash,
}

impl FailureCategory {
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub(crate) const ALL: [Self; 6] = [
        Self::Error,
        Self::Panic,
        Self::Timeout,
        Self::Undecodable,
        Self::Conflict,
        Self::Crash,
    ];

    /// The word that stands for it in the file and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Undecodable => "undecodable",
            Self::Conflict => "conflict",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for FailureCategory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A payload or an event could not be decoded.
#[derive(Clone, Debug, Error)]
#[error("the event could not be decoded: {0}")]
pub struct DecodeError(#[source] Undecodable);

/// The cause of a [`DecodeError`], as a type of its own: an error that passes `source` through, as transparent ones do, leaves
/// this in the chain where the `DecodeError` itself is not.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
struct Undecodable(#[source] Arc<serde_json::Error>);

impl DecodeError {
    pub(crate) fn new(source: serde_json::Error) -> Self {
        Self(Undecodable(Arc::new(source)))
    }

    /// Whether the error is one of decoding, or was caused by one.
    pub(crate) fn is_behind(error: &(dyn Error + 'static)) -> bool {
        causes(error).any(|error| error.is::<Self>() || error.is::<Undecodable>())
    }
}

/// An error and what caused it, one after the other.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Something with dead letters failed. A letter that was not handled stays where it is.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// No stream of that name runs in this store, so there is no handler to retry with.
    #[error("the durable stream {stream:?} does not run in this store; register it, and retry then")]
    NotRunning {
        /// The stream's name.
        stream: String,
    },
    /// There is no such letter: it was handled or discarded meanwhile, or never there.
    #[error(
        "{stream:?} has no dead letter that begins with event {first_sequence}; list the letters to see those it has"
    )]
    NotFound {
        /// The stream's name.
        stream: String,
        /// The sequence given.
        first_sequence: u64,
    },
    /// An earlier letter of the same key comes first.
    #[error(
        "the letter at {first_sequence} waits for the one at {first} of the key {key:?}; retry that first, or the whole key"
    )]
    NotFirstOfKey {
        /// The letter that was to be retried.
        first_sequence: u64,
        /// The letter that comes first.
        first: u64,
        /// The key of both.
        key: String,
    },
    /// The handler failed again. The letter stays, with the new cause.
    #[error("the handler failed again on the letter at {first_sequence} ({category}): {error}")]
    HandlerFailed {
        /// Where the letter begins now: with the event that the handler says has failed, if it says so.
        first_sequence: u64,
        /// In which way it failed.
        category: FailureCategory,
        /// What it failed with.
        error: Arc<str>,
    },
    /// The handler took the letter, and the stream was taken over meanwhile: the letter is still there.
    #[error("another owner took over the durable stream {stream:?}; retry there")]
    OwnershipLost {
        /// The stream's name.
        stream: String,
    },
    /// What the letter stands for could not be read; pruned, for instance.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

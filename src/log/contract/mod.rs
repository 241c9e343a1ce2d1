//! What a log of somebody else is written with: events as they are stored, rows as texts, and the decisions that every log makes alike.
//!
//! Nothing here is used by the logs of this crate, which know the fields. Whoever is outside has these functions instead, so that
//! what a row consists of can change without them.
//!
//! In reading order: `event` (a batch as it is stored), `decode` (and as it is read), `row` (what is stored beside the events), `text`
//! (the same as text), `count` (what is said of a whole log).

pub(crate) mod count;
pub(crate) mod decode;
pub(crate) mod event;
pub(crate) mod row;
mod text;

use std::error::Error;

use crate::error::StorageError;
use crate::log::{Extent, Tail};

impl StorageError {
    /// The storage of a log failed: `operation` completes the sentence "the log could not ...".
    pub fn of_log(operation: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::new(operation, source)
    }

    /// Nothing has happened yet, and the same may succeed when it is tried again. The committer tries again what has time: cursors and
    /// dead letters.
    pub fn retryable(self) -> Self {
        self.busy()
    }
}

impl From<Tail> for Extent {
    fn from(tail: Tail) -> Self {
        Self {
            pruned_through: tail.pruned_through,
            head: tail.head,
        }
    }
}

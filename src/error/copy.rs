//! Why a copy of a log was refused, or failed.

use thiserror::Error;

use crate::error::{OpenError, ReadError, StorageError};

/// A copy was refused or failed. What was copied before stays in the target, which nobody can open as a log; the same copy goes on
/// there, unless the variant says otherwise.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The target could not be opened or made, or what was named is no log that this program can open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The target is a log already. It was left untouched.
    #[error(
        "{target} is the log {log_id} already{}; choose another target, or remove it first",
        if *is_of_source { ", with the id of the source: the source itself, or a copy of it that is whole" } else { "" }
    )]
    TargetIsALog {
        /// The target, without a password.
        target: String,
        /// The id of the log that is there.
        log_id: String,
        /// Whether that is the id of the source.
        is_of_source: bool,
    },
    /// The target is a copy in the making, of another log. It was left untouched.
    #[error(
        "{target} is a copy in the making of the log {found}, the source is the log {source_id}; choose another target, or remove it first"
    )]
    TargetIsOfAnother {
        /// The target, without a password.
        target: String,
        /// The log that it is a copy of.
        found: String,
        /// The log that was to be copied.
        source_id: String,
    },
    /// Somebody else has written to the target, or has ended the copy. Nothing was overwritten.
    #[error(
        "somebody else writes to the target: it ends at {found}, and was left at {expected}; is another copy under way?"
    )]
    TargetInUse {
        /// Where this copy had got to.
        expected: u64,
        /// Where the target ends now.
        found: u64,
    },
    /// What the target holds is not what the source holds, so it did not become a log. Remove it, and copy again.
    #[error("the target is not a copy of the source: {difference}; remove the target, and copy again")]
    Differs {
        /// What differs, with the values of both sides.
        difference: String,
    },
    /// The source was pruned again and again while it was copied, faster than the rest of it could be read.
    #[error(
        "the source was pruned {attempts} times while its end was copied; copy again when it is not being pruned"
    )]
    PrunedMeanwhile {
        /// How often it was tried.
        attempts: u32,
    },
    /// The log is one of another crate, which this one does not copy.
    #[error("this log cannot be copied; only logs in memory, in a file and on a server can")]
    NotCopyable,
    /// The source could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store is closed, or the copy was given up.
    #[error("the store is closed")]
    Closed,
    /// The storage of either side failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

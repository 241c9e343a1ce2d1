//! Why the log's server does not keep what a projection wrote there.

use std::time::Duration;

use thiserror::Error;

/// What a projection did that a read model on the log's server does not take. All of its transaction was rolled back.
///
/// For the model's stream it is a failure of the handler; one that took too long has the category
/// [`Timeout`](crate::FailureCategory::Timeout).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerModelError {
    /// Its SQL committed, or rolled back, or began a transaction of its own.
    #[error(
        "the projection ended the transaction itself, and nothing of it was kept; leave `BEGIN`, `COMMIT` and `ROLLBACK` to millstream"
    )]
    EndedTransaction,
    /// A statement failed, and it went on as if that had not happened.
    #[error(
        "a statement of the projection failed, and the server takes nothing more in its transaction; return the error, or try the statement behind a `SAVEPOINT`"
    )]
    BrokenTransaction,
    /// It took too long for one batch.
    #[error(
        "the projection had no end within {limit:?} for one batch; make `apply` cheaper, or raise `ServerModelOptions::batch_timeout`"
    )]
    TookTooLong {
        /// How long it might take.
        limit: Duration,
    },
    /// Its tables were removed while it was kept.
    #[error("the read model was removed from the server; register it anew to build it again")]
    Removed,
}

//! Why the log's own file does not keep what a projection wrote there.

use std::time::Duration;

use thiserror::Error;

/// What a projection did that the log's own file does not take. All of its transaction was rolled back, and the log and its appends know
/// nothing of it.
///
/// For the model's stream it is a failure of the handler; one over budget has the category
/// [`Timeout`](crate::FailureCategory::Timeout).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InLogError {
    /// Its SQL went beyond the tables that its schema made.
    #[error(
        "the projection wanted to {action}; in the log's own file its schema may make tables, views, indexes and triggers with names that nobody has, and the projection may read and write those; change its SQL, or keep the model in a file of its own (`ReadModels::open`)"
    )]
    Forbidden {
        /// What it wanted.
        action: String,
    },
    /// Its schema made something under a name that is taken: by the log, by another model, or by another version of this one.
    #[error(
        "`{object}` is in the log's file already; give what each version makes names of its own, remove the older version first (`InLogModels::remove`), or keep the model in a file of its own (`ReadModels::open`), where versions are built beside each other"
    )]
    NameTaken {
        /// The name.
        object: String,
    },
    /// It had the log for too long.
    #[error(
        "the projection had the log for {took:?} in one transaction, its budget is {budget:?}; make `apply` cheaper, raise `InLogOptions::budget`, or keep the model in a file of its own (`ReadModels::open`)"
    )]
    OverBudget {
        /// How long it had it, or until it was interrupted.
        took: Duration,
        /// How long it might.
        budget: Duration,
    },
    /// Its tables were removed while it was kept.
    #[error(
        "the tables of the read model were removed from the log's file; register it anew to build it again"
    )]
    Removed,
}

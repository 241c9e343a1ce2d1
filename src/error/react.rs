//! What is wrong with a reaction.

use thiserror::Error;

use crate::error::AppendError;

/// What a reactor's handler answered cannot be appended. It is a failure of the handler.
#[derive(Clone, Debug, Error)]
pub(crate) enum InvalidReaction {
    /// An event is said to be caused by one that the handler was not given.
    #[error(
        "the reaction names event {sequence} as a cause, the handler was given events of {first_sequence} to {last_sequence}; name one of those"
    )]
    UnknownCause {
        /// The cause that was named.
        sequence: u64,
        /// The first sequence of the batch.
        first_sequence: u64,
        /// The last sequence of the batch.
        last_sequence: u64,
    },
    /// An event is one that no append would take (L5).
    #[error("the reaction is refused: {0}")]
    Refused(#[from] AppendError),
}

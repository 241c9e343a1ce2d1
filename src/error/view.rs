//! Why the documents of a view could not be kept, found or read.

use std::sync::Arc;

use thiserror::Error;

use crate::error::{BoxError, ReadModelError};

/// Something with the documents of a view failed. What the view held before it still holds.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A path is no JSON pointer.
    #[error("the path {path:?} is {problem}")]
    InvalidPath {
        /// The path given.
        path: String,
        /// What is wrong with it, and what is accepted.
        problem: &'static str,
    },
    /// A condition compares with what cannot be compared, or there are too many of them.
    #[error("the condition is refused: {problem}")]
    InvalidCondition {
        /// What is wrong with it, and what is accepted.
        problem: String,
    },
    /// More is asked for at once than is given at once.
    #[error("{option} is {value}; from 1 to {max} are possible, ask page by page for more")]
    InvalidLimit {
        /// What was given.
        option: &'static str,
        /// How much was asked for.
        value: usize,
        /// How much is possible.
        max: usize,
    },
    /// A page token was changed, or belongs to another query.
    #[error("the page token is refused: {problem}; begin with the first page")]
    InvalidPage {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A stored document does not have the shape of the view's type.
    #[error(
        "version {version} of the view {name:?} cannot decode the document {id:?}: {source}; {}", advice(*version, *written_by)
    )]
    UnreadableDocument {
        /// The view.
        name: String,
        /// The document.
        id: String,
        /// The version that was to read it.
        version: u32,
        /// The version that wrote it, and serves.
        written_by: u32,
        /// What is wrong with it.
        source: Arc<serde_json::Error>,
    },
    /// A document cannot be written as JSON.
    #[error(
        "the view {name:?} cannot write the document {id:?} as JSON: {source}; mend how its type is serialised"
    )]
    UnwritableDocument {
        /// The view.
        name: String,
        /// The document.
        id: String,
        /// What is wrong with it.
        source: Arc<serde_json::Error>,
    },
    /// The id of a document is refused.
    #[error("the id of a document has {bytes} bytes; from 1 to {max} are possible, mend the view's key")]
    InvalidId {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// The view failed on an event.
    #[error("the view {name:?} failed on the event {sequence}: {source}")]
    Event {
        /// The view.
        name: String,
        /// The event.
        sequence: u64,
        /// What it failed with.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The read model itself failed.
    #[error(transparent)]
    Model(#[from] ReadModelError),
}

impl ViewError {
    /// What a view's function fails with, with the event.
    pub(crate) fn on_event(name: &str, sequence: u64, error: BoxError) -> Self {
        Self::Event {
            name: name.to_owned(),
            sequence,
            source: Arc::from(error),
        }
    }
}

/// What can be done about a document that does not decode.
fn advice(version: u32, written_by: u32) -> String {
    match version == written_by {
        true => "its type changed and its version did not: raise the version, or rebuild the view".to_owned(),
        false => format!(
            "version {written_by} serves and wrote it: wait until version {version} serves, or promote it"
        ),
    }
}

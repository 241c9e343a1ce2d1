//! What all read models have in common, wherever their rows are: how they are named, how much one transaction applies, and what is made of
//! the errors of projections.

use std::any::Any;
use std::panic::resume_unwind;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{BoxError, DecodeError, FailureCategory, ReadModelError, causes};
use crate::stream::failure::{Failure, HandlerError};
use crate::stream::handler::panic_text;
use crate::stream::options::check_name;

/// Bytes of a read model's name. With its version it names a stream.
const NAME_BYTES_MAX: usize = 200;

/// A version of a read model.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) query: String,
    pub(crate) schema: String,
}

/// How much is applied in one transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransactionLimits {
    pub(crate) events_max: usize,
    pub(crate) within: Duration,
}

/// What a handler call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The next batches of the log.
    Next,
    /// A dead letter.
    Letter,
}

/// What one transaction has applied.
pub(crate) struct Applied {
    pub(crate) batches: usize,
    pub(crate) last_sequence: u64,
}

/// Why batches were not applied. What was committed before stays.
pub(crate) enum NotApplied {
    /// The projection failed on one of the batches.
    Projection(BoxError),
    Panicked(Box<dyn Any + Send>),
    Model(ReadModelError),
}

impl From<ReadModelError> for NotApplied {
    fn from(error: ReadModelError) -> Self {
        Self::Model(error)
    }
}

impl NotApplied {
    /// As a handler reports it. A panic goes on.
    pub(crate) fn into_handler_error(self) -> BoxError {
        match self {
            Self::Projection(error) => whole(error),
            Self::Panicked(panic) => resume_unwind(panic),
            Self::Model(error) => Box::new(error),
        }
    }

    /// As a catch-up reports it.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Projection(error) => Failure::of(&*error),
            Self::Panicked(panic) => Failure::new(
                FailureCategory::Panic,
                format!("the projection panicked: {}", panic_text(&*panic)),
            ),
            Self::Model(error) => Failure::of(&error),
        }
    }
}

/// An error that names an event would say that those before it are handled. Here the batch was rolled back as a whole.
pub(crate) fn whole(error: BoxError) -> BoxError {
    let names_an_event = causes(&*error).any(|cause| cause.is::<HandlerError>());
    if !names_an_event {
        return error;
    }
    let decoding = causes(&*error).find_map(|cause| cause.downcast_ref::<DecodeError>());
    Box::new(WholeBatch {
        text: error.to_string(),
        source: decoding.cloned(),
    })
}

/// What a projection says that named an event, of its whole batch.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct WholeBatch {
    text: String,
    source: Option<DecodeError>,
}

/// The stream that keeps a version of a read model.
pub(crate) fn stream_name(name: &str, version: u32) -> String {
    format!("{name}@{version}")
}

pub(crate) fn runtime() -> Result<(), ReadModelError> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(ReadModelError::NoRuntime),
    }
}

pub(crate) fn check(name: &str, version: u32) -> Result<(), ReadModelError> {
    let problem = if let Err(problem) = check_name(name) {
        format!("the name {problem}")
    } else if name.len() > NAME_BYTES_MAX {
        let bytes = name.len();
        format!("the name has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")
    } else if name.contains('@') {
        "the name contains `@`, which parts name and version of its stream".to_owned()
    } else if version == 0 {
        "its version is 0; versions begin with 1".to_owned()
    } else {
        return Ok(());
    };
    Err(ReadModelError::Refused {
        name: name.to_owned(),
        problem,
    })
}

//! What is asked of a read model from outside, also by another process: a row of the list, which the owner of the model reads.

use std::time::Duration;

use crate::projection::rebuilding::remaining;

/// What may be asked of a read model that some process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRequest {
    /// To be [rebuilt](crate::ReadModel::rebuild).
    Rebuild,
    /// To be [promoted](crate::ReadModel::promote): the newest version that is kept beside the one that serves.
    Promote,
}

impl ModelRequest {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Promote => "promote",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Rebuild, Self::Promote]
            .into_iter()
            .find(|request| request.as_str() == text)
    }
}

/// What has become of a request, or of a rebuild that nobody else asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RequestReport {
    /// Its number in the list of read models.
    pub number: u64,
    /// The read model.
    pub name: String,
    /// What was asked.
    pub request: ModelRequest,
    /// How far that is.
    pub state: RequestState,
    /// The events that are done, of a rebuild.
    pub done: u64,
    /// The events that there are to do.
    pub total: u64,
    /// How many events are done in a second.
    pub events_per_second: f64,
}

impl RequestReport {
    /// How long the rest takes; nothing, while there is no rate.
    pub fn remaining(&self) -> Option<Duration> {
        remaining(self.done, self.total, self.events_per_second)
    }
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestState {
    /// Nobody has begun it.
    Asked,
    /// The owner of the model is at work.
    Begun,
    /// It is done: the new build, or version, serves.
    Done,
    /// It came to nothing, and what served before serves still.
    Failed {
        /// Why.
        error: String,
    },
}

impl RequestState {
    /// Whether nothing more will become of it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. })
    }
}

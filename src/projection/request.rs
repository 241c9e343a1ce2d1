//! What is asked of a read model from outside, also by another process: a row of the list, which the owner of the model reads.

use std::sync::Arc;
use std::time::Duration;

use crate::error::ReadModelError;
use crate::projection::rebuilding::{RebuildProgress, remaining};

/// What may be asked of a read model that some process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRequest {
    /// To be [rebuilt](crate::ReadModel::rebuild).
    Rebuild,
    /// To be [promoted](crate::ReadModel::promote): the newest version beside the one that serves, by the process that keeps it.
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

/// What became of cancelling a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// Nobody had begun it, and nobody will.
    Unbegun,
    /// The owner of the model is told, and gives it up.
    Told,
    /// It is over already.
    TooLate,
}

/// Whether a request is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    /// Somebody has cancelled it.
    No,
}

impl Wanted {
    /// Of a request in this state, while it is under way.
    pub(crate) fn of(state: Option<&str>) -> Self {
        match state {
            // Done: its last step is taken, and nobody cancels that.
            Some("begun" | "done") => Self::Yes,
            _ => Self::No,
        }
    }
}

/// The name and version of a read model.
pub(crate) type Version = (String, u32);

/// A request, and the version that it is for.
#[derive(Clone, Debug)]
pub(crate) struct Addressed {
    pub(crate) version: Version,
    pub(crate) request: RequestReport,
}

/// The requests of a model that are kept to be looked at.
pub(crate) const KEPT: i64 = 20;

/// What is said of a request that nobody had begun.
pub(crate) const TAKEN_BACK: &str = "it was taken back";

/// What is said of one whose process has ended, or has lost the model.
pub(crate) const LEFT: &str = "the process that had begun it is gone";

/// Where requests are left, for whoever does them.
pub(crate) trait RequestList: Send + Sync + 'static {
    /// What was asked of these versions and nobody has begun: it is begun now, by one of all processes.
    fn take_up(
        self: &Arc<Self>,
        kept: Vec<Version>,
    ) -> impl Future<Output = Result<Vec<Addressed>, ReadModelError>> + Send;

    /// Notes how far a rebuild is, and learns whether it is still wanted.
    fn note(
        self: &Arc<Self>,
        number: u64,
        progress: RebuildProgress,
    ) -> impl Future<Output = Result<Wanted, ReadModelError>> + Send;

    /// Leaves what was begun to somebody else.
    fn give_back(self: &Arc<Self>, number: u64) -> impl Future<Output = Result<(), ReadModelError>> + Send;

    /// Notes what a request came to.
    fn note_end(
        self: &Arc<Self>,
        number: u64,
        error: Option<String>,
    ) -> impl Future<Output = Result<(), ReadModelError>> + Send;
}

impl RequestReport {
    /// As a list has it: the texts of what was asked, of its state, and of what went wrong.
    pub(crate) fn read(
        (number, name): (u64, String),
        (request, state, error): (&str, &str, Option<String>),
        (done, total, events_per_second): (u64, u64, f64),
    ) -> Self {
        Self {
            number,
            name,
            request: ModelRequest::parse(request).unwrap_or(ModelRequest::Rebuild),
            state: match state {
                "asked" => RequestState::Asked,
                "done" => RequestState::Done,
                "failed" => RequestState::Failed {
                    error: error.unwrap_or_default(),
                },
                // Cancelled, it is under way until its owner has given it up.
                _ => RequestState::Begun,
            },
            done,
            total,
            events_per_second,
        }
    }
}

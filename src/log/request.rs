//! What the committer can be asked for, and how it answers.

use std::sync::Arc;
#[cfg(feature = "sqlite")]
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::{AppendError, Instance, PruneError, SteerError, StorageError, StreamError};
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
#[cfg(feature = "sqlite")]
use crate::log::beside::{BesideWork, End};
use crate::log::cursor::{CursorClaim, Opened};
use crate::log::letter::LetterRequest;
use crate::log::once::{AppendedOnce, Once};
use crate::log::owner::{InstanceId, Ownership};
use crate::log::prune::{PruneStep, StepDone};
use crate::log::reaction::{ReactRequest, Reacted};
use crate::log::steer::{Obeyed, Order};

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
    /// How many events were appended.
    pub committed_count: usize,
}

/// What an [`append_if`](crate::Store::append_if) expects of the log.
///
/// A plain number is a [context version](crate::QueryResult::context_version).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedContext(pub(crate) Expectation);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    Version(u64),
    NothingAfter(u64),
}

impl ExpectedContext {
    /// The newest event that the query selects is this one; 0: the query selects nothing.
    ///
    /// The check costs what was appended since that event. With version 0 and a query that no index serves (payload
    /// predicates alone) it reads the whole log; [`nothing_after`](Self::nothing_after) avoids that.
    pub fn version(sequence: u64) -> Self {
        Self(Expectation::Version(sequence))
    }

    /// The query selects nothing after this head, at which the caller looked. Cheap for an empty context too.
    pub fn nothing_after(head: u64) -> Self {
        Self(Expectation::NothingAfter(head))
    }
}

impl From<u64> for ExpectedContext {
    fn from(context_version: u64) -> Self {
        Self::version(context_version)
    }
}

/// What the committer can be asked for.
pub(crate) enum Request {
    Append(AppendRequest),
    React(Box<ReactRequest>),
    OpenCursor(OpenCursorRequest),
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(
            dead_code,
            reason = "only read models claim a stream before they open its cursor"
        )
    )]
    Claim(ClaimRequest),
    LetGo(LetGoRequest),
    HandOver(HandOverRequest),
    Prune(PruneRequest),
    /// Is applied after the group, in a transaction of its own.
    Letter(LetterRequest),
    /// Is done after the group, in a transaction of its own.
    #[cfg(feature = "sqlite")]
    Beside(Box<dyn BesideWork>),
    Steer(SteerRequest),
    /// Is answered when everything queued before it is published.
    Barrier(oneshot::Sender<()>),
}

pub(crate) struct AppendRequest {
    pub(crate) events: Vec<EventRecord>,
    pub(crate) condition: Option<Condition>,
    pub(crate) once: Option<Box<Once>>,
    pub(crate) reply: oneshot::Sender<Result<AppendedOnce, AppendError>>,
    /// The request's place in the bounded queue, given back when it is answered.
    pub(crate) room: [OwnedSemaphorePermit; 2],
}

#[derive(Clone)]
pub(crate) struct Condition {
    pub(crate) query: EventQuery,
    pub(crate) expected: ExpectedContext,
}

pub(crate) struct OpenCursorRequest {
    pub(crate) claim: CursorClaim,
    pub(crate) reply: oneshot::Sender<Result<Opened, StreamError>>,
}

/// This store claims a stream, whose cursor is opened later.
pub(crate) struct ClaimRequest {
    pub(crate) name: Arc<str>,
    pub(crate) ownership: Ownership,
    pub(crate) reply: oneshot::Sender<Result<Claimed, StreamError>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) enum Claimed {
    /// The stream is this store's from now on.
    Now,
    /// The stream was this store's before.
    Before,
    /// This one runs it, and this store stands by.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(
            dead_code,
            reason = "only read models claim a stream before they open its cursor"
        )
    )]
    StandsBy(Instance),
}

/// This store claims a stream no more.
pub(crate) struct LetGoRequest {
    pub(crate) name: Arc<str>,
    pub(crate) reply: oneshot::Sender<Result<(), StorageError>>,
}

/// This store gives a stream that it runs to somebody who stands by for it.
pub(crate) struct HandOverRequest {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) heir: InstanceId,
    pub(crate) reply: oneshot::Sender<Result<HandedOver, StorageError>>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HandedOver {
    /// The heir is to run it, and this store stands by.
    Done { to: Instance },
    /// It stays here: there is no need any more, or the stream was moved from outside meanwhile.
    Kept,
    /// It is somebody else's already.
    OwnershipLost,
}

pub(crate) struct PruneRequest {
    pub(crate) step: PruneStep,
    pub(crate) reply: oneshot::Sender<Result<StepDone, PruneError>>,
}

pub(crate) struct SteerRequest {
    pub(crate) order: Order,
    pub(crate) reply: oneshot::Sender<Result<Obeyed, SteerError>>,
}

/// The answers of a group, which leave when the group is committed or has failed.
pub(crate) enum Answer {
    Append(AppendRequest, Result<AppendedOnce, AppendError>),
    React(Box<ReactRequest>, Result<Reacted, StorageError>),
    OpenCursor(OpenCursorRequest, Result<Opened, StreamError>),
    Claim(ClaimRequest, Result<Claimed, StreamError>),
    LetGo(LetGoRequest, Result<(), StorageError>),
    HandOver(HandOverRequest, Result<HandedOver, StorageError>),
    Prune(PruneRequest, Result<StepDone, PruneError>),
    Letter(LetterRequest, StorageError),
    #[cfg(feature = "sqlite")]
    Beside(Box<dyn BesideWork>, StorageError),
    Steer(SteerRequest, Result<Obeyed, SteerError>),
    Barrier(oneshot::Sender<()>),
}

impl Answer {
    /// The answer to a request that was never applied, because the group failed before.
    pub(crate) fn refused(request: Request, error: &StorageError) -> Self {
        match request {
            Request::Append(request) => Self::Append(request, Err(error.clone().into())),
            Request::React(request) => Self::React(request, Err(error.clone())),
            Request::OpenCursor(request) => Self::OpenCursor(request, Err(error.clone().into())),
            Request::Claim(request) => Self::Claim(request, Err(error.clone().into())),
            Request::LetGo(request) => Self::LetGo(request, Err(error.clone())),
            Request::HandOver(request) => Self::HandOver(request, Err(error.clone())),
            Request::Prune(request) => Self::Prune(request, Err(error.clone().into())),
            Request::Letter(request) => Self::Letter(request, error.clone()),
            #[cfg(feature = "sqlite")]
            Request::Beside(work) => Self::Beside(work, error.clone()),
            Request::Steer(request) => Self::Steer(request, Err(error.clone().into())),
            Request::Barrier(reply) => Self::Barrier(reply),
        }
    }

    /// Turns an answer into a failure: the group it belonged to is not in the log. A refusal stays a refusal, but for one that names
    /// a batch, which may be of this group.
    pub(crate) fn fail(self, error: &StorageError) {
        match self {
            Self::Append(request, Ok(_) | Err(AppendError::KeyReused { .. })) => {
                Self::Append(request, Err(error.clone().into()))
            }
            Self::React(request, Ok(Reacted::Done(_))) => Self::React(request, Err(error.clone())),
            Self::OpenCursor(request, Ok(_)) => Self::OpenCursor(request, Err(error.clone().into())),
            Self::Claim(request, Ok(_)) => Self::Claim(request, Err(error.clone().into())),
            Self::LetGo(request, Ok(())) => Self::LetGo(request, Err(error.clone())),
            Self::HandOver(request, Ok(_)) => Self::HandOver(request, Err(error.clone())),
            Self::Prune(request, Ok(_)) => Self::Prune(request, Err(error.clone().into())),
            Self::Steer(request, Ok(_)) => Self::Steer(request, Err(error.clone().into())),
            refused => refused,
        }
        .send();
    }

    /// A caller who has gone does not need the answer.
    pub(crate) fn send(self) {
        match self {
            Self::Append(request, outcome) => {
                drop(request.room);
                let _ = request.reply.send(outcome);
            }
            Self::React(request, outcome) => {
                let ReactRequest { reply, room, .. } = *request;
                drop(room);
                let _ = reply.send(outcome);
            }
            Self::OpenCursor(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::Claim(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::LetGo(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::HandOver(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::Prune(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::Letter(request, error) => {
                let _ = request.reply.send(Err(error));
            }
            #[cfg(feature = "sqlite")]
            Self::Beside(work, error) => work.done(End {
                outcome: Err(error),
                took: Duration::ZERO,
            }),
            Self::Steer(request, outcome) => {
                let _ = request.reply.send(outcome);
            }
            Self::Barrier(reply) => {
                let _ = reply.send(());
            }
        }
    }
}

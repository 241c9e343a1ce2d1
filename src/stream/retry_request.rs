//! Dead letters are retried for somebody who does not have the handler: who asks, and who runs the stream.
//!
//! The request travels in the stream's row, as a pause does. Of all who hear of it the owner of the name begins it, once; that
//! and what becomes of it is decided and written down in the log, where whoever asked looks it up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Timestamp;
use crate::error::{DeadLetterError, SteerError};
use crate::log::cursor::StoredCursor;
use crate::log::letter::{LetterChange, LetterDone};
use crate::log::retry_request::{NewRequest, RequestEnd, RetryLetters, RetryRequest};
use crate::log::steer::Command;
use crate::stream::aside::{Failed, store};
use crate::stream::control::{StreamControl, text};
use crate::stream::core::StreamCore;
use crate::stream::letters::{DeadLetters, Retried};
use crate::stream::steering::Asked;

/// A request to retry dead letters: got with [`StreamControl::ask_for_retry`]. Dropping it changes nothing.
#[derive(Clone, Debug)]
#[must_use = "it tells what becomes of the request"]
pub struct RetryTicket {
    control: StreamControl,
    number: u64,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryState {
    /// Nobody has begun it yet.
    Waiting,
    /// Nobody began it in time, and nobody will.
    Expired,
    /// Whoever runs the stream is at it. After a crash it seems so until the stream is registered again.
    UnderWay,
    /// It has ended.
    Ended,
    /// Whoever was at it has ended or lost the stream; what it had done stays done.
    CutOff,
    /// It is not there any more: it was withdrawn, or somebody has made another one since.
    Gone,
}

/// What has become of a request so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryProgress {
    /// How far it is.
    pub state: RetryState,
    /// How many letters the handler took. They are gone.
    pub handled: u64,
    /// How many letters failed again. They stay, with the new cause.
    pub failed: u64,
    /// How many letters were not tried, because an earlier one of their key failed. Known at the end.
    pub waiting: u64,
    /// Where the first 1,000 of the handled letters began, in the order in which they were handled.
    pub handled_first: Vec<u64>,
    /// Until when somebody may begin it.
    pub begin_before: SystemTime,
    /// What ended it before all letters were tried.
    pub problem: Option<String>,
}

/// What became of an attempt to take a request back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Withdrawal {
    /// Nobody had begun it, and nobody will.
    Withdrawn,
    /// Somebody has begun it, or it is not there any more.
    TooLate,
}

impl StreamControl {
    /// Asks whoever runs the stream, in this process or another, to retry dead letters: one, those of a key in order, or all that
    /// wait. Nothing of it moves the cursor. The request is stored; a store that runs the stream begins it within its poll
    /// interval, also while the stream is paused. When nobody has begun it within `begin_within`, nobody will: at most an hour.
    ///
    /// `by` says who asks, for others who do: 1 to 255 bytes without control characters.
    ///
    /// In the process that runs the stream, [`Store::dead_letters`](crate::Store::dead_letters) retries without asking.
    ///
    /// # Errors
    /// [`SteerError::NobodyRuns`] when the stream's last run has ended; that it crashed is not known, and the request expires then.
    /// An earlier request has not ended; there is no such letter; `by` or `begin_within` is refused; the stream does not exist;
    /// the store is closed; the storage fails. No request is left then.
    pub async fn ask_for_retry(
        &self,
        letters: RetryLetters,
        by: impl Into<String>,
        begin_within: Duration,
    ) -> Result<RetryTicket, SteerError> {
        if begin_within.is_zero() || begin_within > BEGIN_WITHIN_MAX {
            return Err(SteerError::InvalidText {
                what: "how long a request may wait",
                value: format!("{begin_within:?}"),
                problem: String::from("has to be more than nothing and at most an hour"),
            });
        }
        let asked = NewRequest {
            letters,
            by: text("who asks for a retry", by.into())?,
            begin_within,
        };
        let obeyed = self.order(Command::AskForRetry(asked)).await?;
        Ok(RetryTicket {
            control: self.clone(),
            number: obeyed.request.expect("a request was made, or refused"),
        })
    }
}

/// Whoever waits longer than this has forgotten what was asked for.
const BEGIN_WITHIN_MAX: Duration = Duration::from_secs(60 * 60);

impl RetryTicket {
    /// What has become of it so far, as the log says.
    ///
    /// # Errors
    /// The stream was renamed or deleted; the store is closed; the storage fails.
    pub async fn progress(&self) -> Result<RetryProgress, SteerError> {
        match self.control.row().await? {
            Some(row) => Ok(progress(&row, self.number, Timestamp::now())),
            None => Err(self.control.unknown().await),
        }
    }

    /// Waits until it has ended, was cut off, or expired; looks at the poll interval. A handler that hangs lets this wait: use a
    /// timeout.
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    ///
    /// # Cancel safety
    /// The request goes on when the future is dropped.
    pub async fn ended(&self) -> Result<RetryProgress, SteerError> {
        loop {
            let progress = self.progress().await?;
            if !matches!(progress.state, RetryState::Waiting | RetryState::UnderWay) {
                return Ok(progress);
            }
            tokio::time::sleep(self.control.hub.poll_interval).await;
        }
    }

    /// Takes it back, unless somebody has begun it.
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    ///
    /// # Cancel safety
    /// Once the future was polled it is taken back, if it can be; only the answer is lost.
    pub async fn withdraw(&self) -> Result<Withdrawal, SteerError> {
        let number = self.number;
        let obeyed = self.control.order(Command::WithdrawRetry { number }).await?;
        Ok(match obeyed.request {
            Some(_) => Withdrawal::Withdrawn,
            None => Withdrawal::TooLate,
        })
    }
}

/// What a row says of a request.
fn progress(row: &StoredCursor, number: u64, now: Timestamp) -> RetryProgress {
    let request = row.retry.as_deref().filter(|request| request.number == number);
    let Some(request) = request else {
        return RetryProgress {
            state: RetryState::Gone,
            handled: 0,
            failed: 0,
            waiting: 0,
            handled_first: Vec::new(),
            begin_before: now.into(),
            problem: None,
        };
    };
    let state = if request.has_ended {
        RetryState::Ended
    } else if request.is_under_way(row) {
        RetryState::UnderWay
    } else if request.begun_by != 0 {
        RetryState::CutOff
    } else if request.waits(now) {
        RetryState::Waiting
    } else {
        RetryState::Expired
    };
    RetryProgress {
        state,
        handled: request.handled,
        failed: request.failed,
        waiting: request.waiting,
        handled_first: request.handled_first.clone(),
        begin_before: request.begin_before.into(),
        problem: request.problem.clone(),
    }
}

/// Begins what the row of a stream that runs here asks for, on the runtime of the stream.
pub(crate) fn hear(core: &Arc<StreamCore>, row: &StoredCursor) {
    if let Some(asked) = core.asked(row) {
        core.runtime.spawn(carry_out(Arc::clone(core), asked));
    }
}

async fn carry_out(core: Arc<StreamCore>, asked: Asked) {
    let Some(name) = core.name.clone() else { return };
    let Asked { request, owner } = asked;
    let number = request.number;
    let begin = LetterChange::BeginRequest {
        name: Arc::clone(&name),
        owner,
        number,
    };
    match store(&core, begin).await {
        Ok(LetterDone::Done(_)) => {}
        // It has expired, was withdrawn, or is somebody else's; or the stream ends.
        Ok(_) | Err(Failed::Interrupted) => return,
        Err(Failed::Storage(error)) => {
            tracing::warn!(stream = &*name, number, %error, "a request to retry dead letters could not be begun");
            return;
        }
    }
    tracing::info!(stream = &*name, number, by = request.by, letters = ?request.letters, "dead letters are retried on request");
    let letters = DeadLetters::for_request(&core, &name, number);
    let end = retry(&letters, &request).await;
    let end = LetterChange::EndRequest { name, number, end };
    if let Err(Failed::Storage(error)) = store(&core, end).await {
        let stream = core.name.as_deref();
        tracing::warn!(stream, number, %error, "what became of a request to retry dead letters could not be stored");
    }
}

async fn retry(letters: &DeadLetters, request: &RetryRequest) -> RequestEnd {
    let outcome = match &request.letters {
        RetryLetters::One(first_sequence) => one(letters, *first_sequence).await,
        RetryLetters::Key(key) => letters.retry_key(key).await,
        RetryLetters::All => letters.retry_all().await,
    };
    let (waiting, error) = match outcome {
        Ok(retried) => (retried.waiting, retried.first_failure),
        Err(error) => (0, Some(error)),
    };
    // How the handler failed stands in the letter.
    let error = error.filter(|error| !matches!(error, DeadLetterError::HandlerFailed { .. }));
    RequestEnd {
        waiting,
        problem: error.map(|error| error.to_string()),
    }
}

async fn one(letters: &DeadLetters, first_sequence: u64) -> Result<Retried, DeadLetterError> {
    match letters.retry(first_sequence).await {
        Err(error @ DeadLetterError::NotFirstOfKey { .. }) => Ok(Retried {
            waiting: 1,
            first_failure: Some(error),
            ..Retried::default()
        }),
        outcome => {
            let mut retried = Retried::default();
            retried.note(outcome)?;
            Ok(retried)
        }
    }
}

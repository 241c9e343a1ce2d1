//! What is wrong with a log and its streams, each thing by itself.

use std::time::{Duration, SystemTime};

use crate::error::{ReadError, StopCause, StorageError};
use crate::stream::checkpoint::SWEEP_EVENTS;
use crate::stream::hub::Hub;
use crate::stream::status::{StreamState, StreamStatus};
use crate::stream::survey;

/// From where on [`Store::health`](crate::Store::health) calls a log or a stream unwell.
///
/// ```
/// use std::time::Duration;
/// use millstream::HealthLimits;
///
/// let strict = HealthLimits::default().lag_events_max(1_000).still_max(Duration::from_secs(5));
/// # let _ = strict;
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HealthLimits {
    lag_events_max: u64,
    lag_age_max: Duration,
    still_max: Duration,
    free_bytes_min: u64,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self {
            lag_events_max: 100_000,
            lag_age_max: Duration::from_secs(300),
            still_max: Duration::from_secs(30),
            free_bytes_min: 1 << 30,
        }
    }
}

impl HealthLimits {
    /// How many events a stream may be behind the head. Default 100,000.
    #[must_use]
    pub fn lag_events_max(mut self, events: u64) -> Self {
        self.lag_events_max = events;
        self
    }

    /// How old the oldest unhandled event may be. Default 5 minutes.
    #[must_use]
    pub fn lag_age_max(mut self, age: Duration) -> Self {
        self.lag_age_max = age;
        self
    }

    /// How long a stream that has something to do may stand still, its loop be silent, and one handler call take. Default 30 s.
    #[must_use]
    pub fn still_max(mut self, time: Duration) -> Self {
        self.still_max = time;
        self
    }

    /// How many bytes have to be free on the file system that the log lies on, for those without privileges. Default 1 GiB. A log
    /// in memory has no such limit.
    #[must_use]
    pub fn free_bytes_min(mut self, bytes: u64) -> Self {
        self.free_bytes_min = bytes;
        self
    }
}

/// A log with its streams, and what is wrong with them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// What is wrong with the log; nothing, when it is well.
    pub log: Vec<LogProblem>,
    /// First the durable streams that the log knows, by name, then the others of this store.
    pub streams: Vec<StreamHealth>,
}

/// One stream, and what is wrong with it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamHealth {
    /// The stream.
    pub status: StreamStatus,
    /// What is wrong with it; nothing, when it is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogProblem {
    /// There is less room for it than there has to be.
    DiskNearlyFull {
        /// So many bytes are free on its file system.
        free_bytes: u64,
        /// As many as have to be.
        free_bytes_min: u64,
    },
    /// How much room there is for it could not be found out.
    FreeSpaceUnknown {
        /// What the system says.
        cause: String,
    },
}

/// One thing that is wrong with a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// It is more events behind the head than it may be.
    LagTooHigh {
        /// So many.
        events: u64,
        /// As many as it may be.
        events_max: u64,
    },
    /// Its oldest unhandled event is older than it may be.
    LagTooOld {
        /// How long ago it was committed.
        age: Duration,
        /// As long as it may be.
        age_max: Duration,
    },
    /// Its position does not move, although there has been something to do for as long.
    NotMoving {
        /// How long it has stood still.
        still_for: Duration,
    },
    /// A handler call does not return.
    HandlerHangs {
        /// How long it has been under way.
        running_for: Duration,
    },
    /// Its loop gives no sign of life, although there is something to do and no handler call is under way.
    LoopDead {
        /// How long it has been silent.
        silent_for: Duration,
    },
    /// Somebody paused it.
    Paused {
        /// Who.
        by: String,
        /// Since when.
        since: SystemTime,
    },
    /// It runs no more.
    Stopped(StopCause),
    /// Dead letters wait for somebody to retry or to discard them.
    LettersWait {
        /// So many.
        letters: u64,
    },
}

impl Health {
    /// Whether nothing is wrong with the log, nor with any stream.
    pub fn is_well(&self) -> bool {
        self.log.is_empty() && self.streams.iter().all(|stream| stream.problems.is_empty())
    }

    /// The problems of the durable stream of this name; nothing, when there is no such stream.
    pub fn of(&self, name: &str) -> Option<&[Problem]> {
        let mut streams = self.streams.iter();
        let stream = streams.find(|stream| stream.status.name.as_deref() == Some(name))?;
        Some(&stream.problems)
    }
}

pub(crate) async fn look(hub: &Hub, limits: &HealthLimits) -> Result<Health, ReadError> {
    let mut statuses = survey::all(hub).await?;
    let unnamed = hub.registry.all().into_iter().filter(|core| core.name.is_none());
    statuses.extend(unnamed.map(|core| core.status()));
    let examined = statuses.into_iter().map(|status| StreamHealth {
        problems: problems(&status, limits),
        status,
    });
    let free_bytes = hub.source.log.read(|reader| Ok(reader.free_bytes())).await?;
    Ok(Health {
        log: room(free_bytes, limits).into_iter().collect(),
        streams: examined.collect(),
    })
}

/// What is wrong with the room that there is for the log.
fn room(free_bytes: Result<Option<u64>, StorageError>, limits: &HealthLimits) -> Option<LogProblem> {
    let free_bytes_min = limits.free_bytes_min;
    match free_bytes {
        Ok(Some(free_bytes)) if free_bytes < free_bytes_min => Some(LogProblem::DiskNearlyFull {
            free_bytes,
            free_bytes_min,
        }),
        Ok(_) => None,
        Err(error) => Some(LogProblem::FreeSpaceUnknown {
            cause: error.to_string(),
        }),
    }
}

/// What is wrong with a stream.
fn problems(status: &StreamStatus, limits: &HealthLimits) -> Vec<Problem> {
    let mut problems = Vec::new();
    if matches!(status.state, StreamState::Stopped(StopCause::TakenOver { .. })) {
        // It does not go on, and that is as it should be.
        return problems;
    }
    if status.lag > limits.lag_events_max {
        problems.push(Problem::LagTooHigh {
            events: status.lag,
            events_max: limits.lag_events_max,
        });
    }
    let age = status.oldest_unhandled.filter(|_| status.lag > 0);
    if let Some(age) = age.filter(|age| *age > limits.lag_age_max && is_behind(status)) {
        problems.push(Problem::LagTooOld {
            age,
            age_max: limits.lag_age_max,
        });
    }
    match &status.state {
        StreamState::Paused { by, since } => problems.push(Problem::Paused {
            by: by.clone(),
            since: *since,
        }),
        StreamState::Stopped(cause) => problems.push(Problem::Stopped(cause.clone())),
        // Whether its loop lives is seen where it runs.
        StreamState::Standby => {}
        _ if age.is_some_and(|age| age > limits.still_max) && is_behind(status) => {
            problems.extend(stillness(status, limits));
        }
        _ => {}
    }
    if status.parked > 0 {
        problems.push(Problem::LettersWait {
            letters: status.parked,
        });
    }
    problems
}

/// Whether the lag is more than what the stored cursor of a stream may lag behind without being behind (D4).
fn is_behind(status: &StreamStatus) -> bool {
    let is_run_here = status.is_here && !matches!(status.state, StreamState::Standby);
    is_run_here || status.lag > 2 * SWEEP_EVENTS
}

/// What is wrong with a stream that has had something to do for a while.
fn stillness(status: &StreamStatus, limits: &HealthLimits) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_too_long = |time: &Duration| *time > limits.still_max;
    if is_too_long(&status.still_for) {
        problems.push(Problem::NotMoving {
            still_for: status.still_for,
        });
    }
    let waits = matches!(status.state, StreamState::Retrying { next_in, .. } if !next_in.is_zero());
    match (status.call_running_for, status.heartbeat) {
        (Some(running_for), _) if is_too_long(&running_for) => {
            problems.push(Problem::HandlerHangs { running_for });
        }
        (None, Some(silent_for)) if is_too_long(&silent_for) && !waits => {
            problems.push(Problem::LoopDead { silent_for });
        }
        _ => {}
    }
    problems
}

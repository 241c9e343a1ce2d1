//! What a stream says of itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::StopCause;

/// A stream at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamStatus {
    /// The name of a durable stream.
    pub name: Option<String>,
    /// What it does.
    pub state: StreamState,
    /// The last sequence that is settled: handled, set aside, or not selected by the query.
    pub position: u64,
    /// The last committed sequence.
    pub head: u64,
    /// How far the position is behind the head, in events.
    pub lag: u64,
    /// How long ago the oldest event was committed that is known to be unhandled.
    pub oldest_unhandled: Option<Duration>,
    /// The position at which this run began.
    pub started_after: u64,
    /// The stored position of a durable stream.
    pub cursor: Option<u64>,
    /// Batches that the handler took in this run.
    pub handled_batches: u64,
    /// Events in these batches.
    pub handled_events: u64,
    /// Handler calls that failed in this run.
    pub failures: u64,
    /// What the newest of them failed with.
    pub last_error: Option<Arc<str>>,
    /// How many dead letters wait, parked or queued behind a parked one, as far as this stream knows: what another process
    /// discards is counted with the next letter.
    pub parked: u64,
    /// How many dead letters record what was skipped.
    pub skipped: u64,
    /// For how long the handler has been at work on the batch in hand.
    pub call_running_for: Option<Duration>,
}

/// What a stream does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StreamState {
    /// It is behind, and has not reached the head since.
    CatchingUp,
    /// It has reached the head, and gets what is committed from memory.
    Live,
    /// Its handler failed and will be called again.
    Retrying {
        /// How many calls failed for this batch.
        attempt: u32,
        /// When the next call begins, from now.
        next_in: Duration,
    },
    /// It runs no more.
    Stopped(StopCause),
}

/// What the loop writes down as it goes. Kept small: it changes with every batch.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) position: u64,
    pub(crate) phase: Phase,
    pub(crate) handled_batches: u64,
    pub(crate) handled_events: u64,
    pub(crate) failures: u64,
    pub(crate) last_error: Option<Arc<str>>,
    pub(crate) parked: u64,
    pub(crate) skipped: u64,
    pub(crate) call: Option<CallInHand>,
    /// The lowest position that somebody waits for.
    pub(crate) wanted: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    CatchingUp,
    Live,
    Retrying { attempt: u32, next_at: Instant },
    Stopped(StopCause),
}

/// The batch that the handler has, or gets next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallInHand {
    pub(crate) recorded_at: Timestamp,
    pub(crate) running_since: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(position: u64) -> Self {
        Self {
            position,
            phase: Phase::CatchingUp,
            handled_batches: 0,
            handled_events: 0,
            failures: 0,
            last_error: None,
            parked: 0,
            skipped: 0,
            call: None,
            wanted: u64::MAX,
        }
    }

    /// Whether somebody waits for what is reached, or for what will never be. Whoever waits for more says so again.
    pub(crate) fn reaches(&mut self) -> bool {
        let reaches = self.position >= self.wanted || self.stop_cause().is_some();
        if reaches {
            self.wanted = u64::MAX;
        }
        reaches
    }

    pub(crate) fn stop_cause(&self) -> Option<&StopCause> {
        match &self.phase {
            Phase::Stopped(cause) => Some(cause),
            _ => None,
        }
    }

    pub(crate) fn state(&self) -> StreamState {
        match &self.phase {
            Phase::CatchingUp => StreamState::CatchingUp,
            Phase::Live => StreamState::Live,
            Phase::Retrying { attempt, next_at } => StreamState::Retrying {
                attempt: *attempt,
                next_in: next_at.saturating_duration_since(Instant::now()),
            },
            Phase::Stopped(cause) => StreamState::Stopped(cause.clone()),
        }
    }
}

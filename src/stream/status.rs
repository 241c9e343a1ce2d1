//! What a stream says of itself.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Clock, Timestamp};
use crate::error::{Instance, StopCause};
use crate::log::cursor::{Pause, PauseKind};
use crate::log::letter::LetterCounts;
use crate::log::owner::Claim;
use crate::stream::rate::Rate;
use crate::stream::trace::Told;

/// A stream at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamStatus {
    /// The name of a durable stream.
    pub name: Option<String>,
    /// What it does.
    pub state: StreamState,
    /// Whether it was registered in this store and has not ended without an error. What is said below of "this run" is
    /// known of such a stream only.
    pub is_here: bool,
    /// The last sequence that is settled: handled, set aside, or not selected by the query. Of a stream that is not here, its cursor.
    pub position: u64,
    /// The last committed sequence.
    pub head: u64,
    /// How far the position is behind the head, in events.
    pub lag: u64,
    /// How long ago the oldest event was committed that is known to be unhandled: the one in the handler's hands, and where
    /// [`Store::streams`](crate::Store::streams) looked, otherwise the first one after the position, selected or not.
    pub oldest_unhandled: Option<Duration>,
    /// The position at which this run began.
    pub started_after: u64,
    /// The stored position of a durable stream.
    pub cursor: Option<u64>,
    /// Batches that the handler took in this run; of a stream with [`partition_by`](crate::DurableStream::partition_by), the parts of them
    /// that a call was given.
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
    /// How long ago the oldest of the dead letters that wait was set aside.
    pub oldest_letter: Option<Duration>,
    /// How many calls of the handler are under way: several only with
    /// [`partition_by`](crate::DurableStream::partition_by).
    pub calls_under_way: u32,
    /// For how long the handler has been at work on the batch in hand; of several calls, in the one that began first.
    pub call_running_for: Option<Duration>,
    /// Events that were handled per second, over the newest second or more of this run.
    pub events_per_second: f64,
    /// How long ago the position changed. Of a stream that is not here: how long ago its cursor was stored.
    pub still_for: Duration,
    /// How long ago the loop of the stream gave a sign of life: it looked, called the handler, or got an answer. A stream
    /// that rests gives none.
    pub heartbeat: Option<Duration>,
    /// Who runs a durable stream. Nothing: nobody does; or it runs here, and only its own handle was asked: what
    /// [`Store::streams`](crate::Store::streams) finds is complete.
    pub owner: Option<Instance>,
    /// Who stands by for it, as far as [`Store::streams`](crate::Store::streams) looked.
    pub standbys: Vec<Instance>,
}

impl StreamStatus {
    /// What is known of a stream that stands at a position, from what its loop has written down.
    pub(crate) fn of(progress: Progress, position: u64, now: Instant, clock: &Clock) -> Self {
        let letters = progress.letters();
        let in_hand = progress.in_hand();
        Self {
            name: None,
            state: progress.state(),
            is_here: true,
            position,
            head: position,
            lag: 0,
            oldest_unhandled: in_hand.map(|call| clock.age(call.recorded_at)),
            started_after: position,
            cursor: None,
            handled_batches: progress.handled_batches,
            handled_events: progress.handled_events,
            failures: progress.failures,
            last_error: progress.last_error,
            parked: letters.parked,
            skipped: letters.skipped,
            oldest_letter: letters.oldest_at.map(Timestamp::age),
            calls_under_way: 0,
            call_running_for: in_hand
                .and_then(|call| call.running_since)
                .map(|since| now.saturating_duration_since(since)),
            events_per_second: progress.rate.per_second(now),
            still_for: now.saturating_duration_since(progress.moved_at),
            heartbeat: Some(now.saturating_duration_since(progress.beat_at)),
            owner: match progress.phase {
                Phase::Standby(owner) => Some(*owner),
                _ => None,
            },
            standbys: Vec::new(),
        }
    }

    pub(crate) fn note_claims(&mut self, claims: &[Claim]) {
        let (holders, standbys): (Vec<_>, Vec<_>) = claims.iter().partition(|claim| claim.role.holds());
        self.owner = holders.first().map(|claim| claim.claimant());
        self.standbys = standbys.iter().map(|claim| claim.claimant()).collect();
    }

    pub(crate) fn note_letters(&mut self, counts: LetterCounts) {
        self.parked = counts.parked;
        self.skipped = counts.skipped;
        self.oldest_letter = counts.oldest_at.map(Timestamp::age);
    }
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
    /// It was paused, and rests until it is resumed. Nothing is lost meanwhile.
    Paused {
        /// Who paused it.
        by: String,
        /// Since when.
        since: SystemTime,
    },
    /// Another store runs it, and this one takes over when that ends. Its handler is not called meanwhile.
    Standby,
    /// It runs no more.
    Stopped(StopCause),
    /// It was not registered in this store. [`StreamStatus::owner`] says who runs it, if anybody does.
    NotHere,
}

impl From<&Pause> for StreamState {
    fn from(pause: &Pause) -> Self {
        let by = pause.by.to_string();
        match pause.kind {
            PauseKind::ByHand => Self::Paused {
                by,
                since: pause.since.into(),
            },
            PauseKind::TakenOver => Self::Stopped(StopCause::TakenOver { by }),
        }
    }
}

/// What the loop writes down as it goes. Kept small: it changes with every batch.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) position: u64,
    /// The epoch that the position belongs to; 0, when the stream is not durable.
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    pub(crate) handled_batches: u64,
    pub(crate) handled_events: u64,
    pub(crate) failures: u64,
    pub(crate) last_error: Option<Arc<str>>,
    /// The dead letters of the stream. Nothing: it has none, as almost all streams.
    letters: Option<Box<LetterCounts>>,
    pub(crate) call: Option<CallInHand>,
    /// The dead letter that the handler has. The loop goes its way meanwhile, as far as it gets without the handler.
    pub(crate) retry: Option<Box<CallInHand>>,
    pub(crate) told: Told,
    pub(crate) rate: Rate,
    /// When the position changed.
    pub(crate) moved_at: Instant,
    /// When the loop gave a sign of life.
    pub(crate) beat_at: Instant,
    /// The lowest position that somebody waits for.
    pub(crate) wanted: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    CatchingUp,
    Live,
    Retrying {
        attempt: u32,
        next_at: Instant,
    },
    Paused(Pause),
    /// This one runs it.
    Standby(Box<Instance>),
    Stopped(StopCause),
}

/// The batch that the handler has, or gets next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallInHand {
    pub(crate) recorded_at: Timestamp,
    pub(crate) running_since: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(position: u64, epoch: u64) -> Self {
        let now = Instant::now();
        Self {
            position,
            epoch,
            phase: Phase::CatchingUp,
            handled_batches: 0,
            handled_events: 0,
            failures: 0,
            last_error: None,
            letters: None,
            call: None,
            retry: None,
            told: Told::BEGINS,
            rate: Rate::new(now),
            moved_at: now,
            beat_at: now,
            wanted: u64::MAX,
        }
    }

    /// The loop gives a sign of life, and says how far it is.
    pub(crate) fn move_to(&mut self, position: u64, now: Instant) {
        self.beat_at = now;
        if position > self.position {
            self.position = position;
            self.moved_at = now;
        }
    }

    /// What the handler has, or gets next.
    fn in_hand(&self) -> Option<CallInHand> {
        self.retry.as_deref().copied().or(self.call)
    }

    /// Since when the handler is at work.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        self.in_hand().and_then(|call| call.running_since)
    }

    pub(crate) fn letters(&self) -> LetterCounts {
        self.letters.as_deref().copied().unwrap_or_default()
    }

    pub(crate) fn note_letters(&mut self, counts: LetterCounts) {
        self.letters = (counts != LetterCounts::default()).then(|| Box::new(counts));
    }

    /// Whether somebody waits for what is reached, or for what will never be. Whoever waits for more says so again.
    pub(crate) fn reaches(&mut self) -> bool {
        let ends = matches!(
            self.phase,
            Phase::Paused(_) | Phase::Standby(_) | Phase::Stopped(_)
        );
        let reaches = self.position >= self.wanted || ends;
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
            Phase::Paused(pause) => pause.into(),
            Phase::Standby(_) => StreamState::Standby,
            Phase::Stopped(cause) => StreamState::Stopped(cause.clone()),
        }
    }
}

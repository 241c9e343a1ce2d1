//! What the program's metrics recorder is told, through the facade of the crate `metrics`.
//!
//! Without the feature `metrics` a meter is nothing at all. Names, units and meanings stand in `docs/operations.md`. A meter
//! asks for its instruments when it is made, so a recorder has to be installed before the store is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::event::batch::CommittedBatch;

#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// How a handler call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Handled,
    Failed,
}

/// Where a stream stands at one moment.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "metrics"),
    expect(dead_code, reason = "nobody asks where a stream stands")
)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) lag_events: u64,
    pub(crate) lag_age: Duration,
    pub(crate) parked: u64,
    pub(crate) skipped: u64,
}

/// The instruments of a log.
pub(crate) struct LogMeter {
    #[cfg(feature = "metrics")]
    instruments: LogInstruments,
}

/// The instruments of a durable stream, or of all streams without a name.
pub(crate) struct StreamMeter {
    #[cfg(feature = "metrics")]
    instruments: StreamInstruments,
}

#[cfg(feature = "metrics")]
struct LogInstruments {
    head: Gauge,
    committed: Counter,
    group_requests: Histogram,
    group_seconds: Histogram,
    cursor_seconds: Histogram,
    window_bytes: Gauge,
}

#[cfg(feature = "metrics")]
struct StreamInstruments {
    position: Gauge,
    lag_events: Gauge,
    lag_seconds: Gauge,
    handled: Counter,
    failed: Counter,
    events: Counter,
    call_seconds: Histogram,
    delay_seconds: Histogram,
    fell_behind: Counter,
    set_aside: Counter,
    parked: Gauge,
    skipped: Gauge,
}

#[cfg(feature = "metrics")]
impl LogMeter {
    pub(crate) fn new() -> Self {
        Self {
            instruments: LogInstruments {
                head: gauge!("millstream_head"),
                committed: counter!("millstream_committed_events_total"),
                group_requests: histogram!("millstream_commit_group_requests"),
                group_seconds: histogram!("millstream_commit_group_seconds"),
                cursor_seconds: histogram!("millstream_cursor_store_seconds"),
                window_bytes: gauge!("millstream_window_bytes"),
            },
        }
    }

    /// A group of so many requests is committed, published and about to be answered.
    pub(crate) fn committed(&self, batches: &[Arc<CommittedBatch>], requests: usize, took: Duration) {
        let events: usize = batches.iter().map(|batch| batch.events.len()).sum();
        self.instruments.committed.increment(events as u64);
        self.instruments.group_requests.record(requests as f64);
        self.instruments.group_seconds.record(took);
    }

    /// Cursors were stored that no group came for.
    pub(crate) fn stored_cursors(&self, since: Instant) {
        self.instruments.cursor_seconds.record(since.elapsed());
    }

    /// The poll interval is over.
    pub(crate) fn sample(&self, head: u64, window_bytes: usize) {
        self.instruments.head.set(head as f64);
        self.instruments.window_bytes.set(window_bytes as f64);
    }
}

#[cfg(feature = "metrics")]
impl StreamMeter {
    /// Of a durable stream, or of all those without a name.
    pub(crate) fn new(name: Option<&str>) -> Self {
        let stream = name.unwrap_or("").to_owned();
        let calls = |outcome| counter!("millstream_stream_calls_total", "stream" => stream.clone(), "outcome" => outcome);
        let gauge = |name| gauge!(name, "stream" => stream.clone());
        let counter = |name| counter!(name, "stream" => stream.clone());
        let histogram = |name| histogram!(name, "stream" => stream.clone());
        Self {
            instruments: StreamInstruments {
                position: gauge("millstream_stream_position"),
                lag_events: gauge("millstream_stream_lag_events"),
                lag_seconds: gauge("millstream_stream_lag_seconds"),
                handled: calls("handled"),
                failed: calls("failed"),
                events: counter("millstream_stream_handled_events_total"),
                call_seconds: histogram("millstream_stream_call_seconds"),
                delay_seconds: histogram("millstream_stream_delay_seconds"),
                fell_behind: counter("millstream_stream_fell_behind_total"),
                set_aside: counter("millstream_stream_set_aside_total"),
                parked: gauge("millstream_stream_dead_letters"),
                skipped: gauge("millstream_stream_skipped_letters"),
            },
        }
    }

    /// A handler call begins, with a batch that was committed then.
    pub(crate) fn call_begins(&self, recorded_at: Timestamp) {
        self.instruments.delay_seconds.record(recorded_at.age());
    }

    /// The call is over that began then.
    pub(crate) fn call_ends(&self, since: Instant, events: u64, outcome: Outcome) {
        self.instruments.call_seconds.record(since.elapsed());
        match outcome {
            Outcome::Handled => {
                self.instruments.handled.increment(1);
                self.instruments.events.increment(events);
            }
            Outcome::Failed => self.instruments.failed.increment(1),
        }
    }

    /// The window does not reach back to the stream's position any more, or did not when it began.
    pub(crate) fn fell_behind(&self) {
        self.instruments.fell_behind.increment(1);
    }

    /// So many dead letters were stored.
    pub(crate) fn set_aside(&self, letters: usize) {
        self.instruments.set_aside.increment(letters as u64);
    }

    /// The poll interval is over.
    pub(crate) fn sample(&self, place: impl FnOnce() -> Place) {
        let place = place();
        self.instruments.position.set(place.position as f64);
        self.instruments.lag_events.set(place.lag_events as f64);
        self.instruments.lag_seconds.set(place.lag_age);
        self.instruments.parked.set(place.parked as f64);
        self.instruments.skipped.set(place.skipped as f64);
    }
}

/// Without the feature nothing is measured, and nothing is computed for it.
#[cfg(not(feature = "metrics"))]
impl LogMeter {
    pub(crate) fn new() -> Self {
        Self {}
    }

    pub(crate) fn committed(&self, _: &[Arc<CommittedBatch>], _: usize, _: Duration) {}

    pub(crate) fn stored_cursors(&self, _: Instant) {}

    pub(crate) fn sample(&self, _: u64, _: usize) {}
}

#[cfg(not(feature = "metrics"))]
impl StreamMeter {
    pub(crate) fn new(_: Option<&str>) -> Self {
        Self {}
    }

    pub(crate) fn call_begins(&self, _: Timestamp) {}

    pub(crate) fn call_ends(&self, _: Instant, _: u64, _: Outcome) {}

    pub(crate) fn fell_behind(&self) {}

    pub(crate) fn set_aside(&self, _: usize) {}

    pub(crate) fn sample(&self, _: impl FnOnce() -> Place) {}
}

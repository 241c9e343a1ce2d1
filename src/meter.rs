//! What the program's metrics recorder is told, through the facade of the crate `metrics`.
//!
//! Without the feature `metrics` a meter is nothing at all. Names, units and meanings stand in `docs/operations.md`. A meter
//! asks for its instruments when it is made, so a recorder has to be installed before the store is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::event::batch::{CommittedBatch, EventBatch};

#[cfg(feature = "metrics")]
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// How a handler call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Handled,
    Failed,
}

/// Where a stream stands at one moment.
#[cfg(feature = "metrics")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) lag_events: u64,
    /// Nothing: it is not known at this moment.
    pub(crate) lag_age: Option<Duration>,
    pub(crate) parked: u64,
    pub(crate) skipped: u64,
    pub(crate) oldest_letter: Duration,
    /// It was paused, or has stopped with an error.
    pub(crate) is_halted: bool,
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

/// The instrument of a read model in the log's own file.
#[cfg(feature = "sqlite")]
pub(crate) struct ModelMeter {
    #[cfg(feature = "metrics")]
    held_seconds: Histogram,
}

#[cfg(feature = "metrics")]
struct LogInstruments {
    head: Gauge,
    committed: Counter,
    group_requests: Histogram,
    group_seconds: Histogram,
    cursor_seconds: Histogram,
    window_bytes: Gauge,
    free_bytes: Gauge,
}

#[cfg(feature = "metrics")]
struct StreamInstruments {
    handled: Counter,
    failed: Counter,
    events: Counter,
    call_seconds: Histogram,
    delay_seconds: Histogram,
    fell_behind: Counter,
    set_aside: Counter,
    /// Streams without a name stand at many places, and tell none.
    standing: Option<Standing>,
}

/// Where a stream with a name stands.
#[cfg(feature = "metrics")]
struct Standing {
    position: Gauge,
    lag_events: Gauge,
    lag_seconds: Gauge,
    parked: Gauge,
    skipped: Gauge,
    oldest_letter_seconds: Gauge,
    halted: Gauge,
}

/// Tells the recorder units and meanings, before it is asked for instruments.
#[cfg(feature = "metrics")]
pub(crate) fn describe() {
    use Unit::{Bytes, Count, Seconds};

    for (name, unit, meaning) in [
        (
            "millstream_head",
            Count,
            "The last committed event that this store has published.",
        ),
        (
            "millstream_window_bytes",
            Bytes,
            "How much of the newest batches is in memory.",
        ),
        (
            "millstream_disk_free_bytes",
            Bytes,
            "What is free on the file system of the log.",
        ),
        (
            "millstream_stream_position",
            Count,
            "Up to which event the stream is settled.",
        ),
        (
            "millstream_stream_lag_events",
            Count,
            "How many events the position is behind the head.",
        ),
        (
            "millstream_stream_lag_seconds",
            Seconds,
            "The age of the first event after the position.",
        ),
        (
            "millstream_stream_halted",
            Count,
            "1: the stream is paused, or has stopped with an error.",
        ),
        ("millstream_stream_dead_letters", Count, "Dead letters that wait."),
        (
            "millstream_stream_oldest_letter_seconds",
            Seconds,
            "The age of the oldest dead letter that waits.",
        ),
        (
            "millstream_stream_skipped_letters",
            Count,
            "Dead letters that are only a record.",
        ),
    ] {
        describe_gauge!(name, unit, meaning);
    }
    for (name, meaning) in [
        ("millstream_committed_events_total", "What this store appended."),
        (
            "millstream_stream_calls_total",
            "Handler calls, by how they ended.",
        ),
        (
            "millstream_stream_handled_events_total",
            "The events in handled calls.",
        ),
        (
            "millstream_stream_fell_behind_total",
            "How often the stream had to read the log.",
        ),
        (
            "millstream_stream_set_aside_total",
            "Dead letters that the failure policy stored.",
        ),
    ] {
        describe_counter!(name, Count, meaning);
    }
    for (name, unit, meaning) in [
        (
            "millstream_commit_group_requests",
            Count,
            "How many requests shared a commit.",
        ),
        (
            "millstream_commit_group_seconds",
            Seconds,
            "Until the callers of a group are answered.",
        ),
        (
            "millstream_cursor_store_seconds",
            Seconds,
            "How long cursors took that came with no group.",
        ),
        (
            "millstream_model_held_log_seconds",
            Seconds,
            "How long a read model in the log's file kept the committer from appends, per transaction.",
        ),
        (
            "millstream_stream_call_seconds",
            Seconds,
            "How long a handler call took.",
        ),
        (
            "millstream_stream_delay_seconds",
            Seconds,
            "From the commit of a batch to its call, of what was committed while the stream ran.",
        ),
    ] {
        describe_histogram!(name, unit, meaning);
    }
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn describe() {}

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
                free_bytes: gauge!("millstream_disk_free_bytes"),
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

    /// So many bytes are free where the log lies.
    pub(crate) fn free(&self, bytes: u64) {
        self.instruments.free_bytes.set(bytes as f64);
    }
}

#[cfg(feature = "metrics")]
impl StreamMeter {
    /// Of a durable stream, or of all those without a name.
    pub(crate) fn new(name: Option<&str>) -> Self {
        let stream = name.unwrap_or("").to_owned();
        let calls = |outcome| counter!("millstream_stream_calls_total", "stream" => stream.clone(), "outcome" => outcome);
        let counter = |name| counter!(name, "stream" => stream.clone());
        let histogram = |name| histogram!(name, "stream" => stream.clone());
        Self {
            instruments: StreamInstruments {
                handled: calls("handled"),
                failed: calls("failed"),
                events: counter("millstream_stream_handled_events_total"),
                call_seconds: histogram("millstream_stream_call_seconds"),
                delay_seconds: histogram("millstream_stream_delay_seconds"),
                fell_behind: counter("millstream_stream_fell_behind_total"),
                set_aside: counter("millstream_stream_set_aside_total"),
                standing: name.map(Standing::new),
            },
        }
    }

    /// A handler call begins with a batch. How old history is, says nothing of how soon news comes.
    pub(crate) fn call_begins(&self, batch: &EventBatch, clock: &Clock) {
        if !batch.is_replay() {
            let delay = clock.age(batch.recorded_timestamp());
            self.instruments.delay_seconds.record(delay);
        }
    }

    /// A call is over that took so long.
    pub(crate) fn call_ends(&self, took: Duration, events: u64, outcome: Outcome) {
        self.instruments.call_seconds.record(took);
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
    pub(crate) fn sample(&self, place: Place) {
        if let Some(standing) = &self.instruments.standing {
            standing.tell(place);
        }
    }
}

#[cfg(feature = "sqlite")]
impl ModelMeter {
    #[cfg(feature = "metrics")]
    pub(crate) fn new(stream: &str) -> Self {
        Self {
            held_seconds: histogram!("millstream_model_held_log_seconds", "stream" => stream.to_owned()),
        }
    }

    #[cfg(not(feature = "metrics"))]
    pub(crate) fn new(_: &str) -> Self {
        Self {}
    }

    /// The committer did nothing else for so long.
    #[cfg(feature = "metrics")]
    pub(crate) fn held(&self, took: Duration) {
        self.held_seconds.record(took);
    }

    #[cfg(not(feature = "metrics"))]
    pub(crate) fn held(&self, _: Duration) {}
}

#[cfg(feature = "metrics")]
impl Standing {
    fn new(stream: &str) -> Self {
        let gauge = |name| gauge!(name, "stream" => stream.to_owned());
        Self {
            position: gauge("millstream_stream_position"),
            lag_events: gauge("millstream_stream_lag_events"),
            lag_seconds: gauge("millstream_stream_lag_seconds"),
            parked: gauge("millstream_stream_dead_letters"),
            skipped: gauge("millstream_stream_skipped_letters"),
            oldest_letter_seconds: gauge("millstream_stream_oldest_letter_seconds"),
            halted: gauge("millstream_stream_halted"),
        }
    }

    fn tell(&self, place: Place) {
        self.position.set(place.position as f64);
        self.lag_events.set(place.lag_events as f64);
        if let Some(age) = place.lag_age {
            self.lag_seconds.set(age);
        }
        self.parked.set(place.parked as f64);
        self.skipped.set(place.skipped as f64);
        self.oldest_letter_seconds.set(place.oldest_letter);
        self.halted.set(if place.is_halted { 1.0 } else { 0.0 });
    }
}

#[cfg(feature = "metrics")]
impl Drop for Standing {
    /// Who has left is behind nothing any more: what was told last would be an alert for ever.
    fn drop(&mut self) {
        for gauge in [
            &self.lag_events,
            &self.lag_seconds,
            &self.parked,
            &self.skipped,
            &self.oldest_letter_seconds,
            &self.halted,
        ] {
            gauge.set(0.0);
        }
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
}

#[cfg(not(feature = "metrics"))]
impl StreamMeter {
    pub(crate) fn new(_: Option<&str>) -> Self {
        Self {}
    }

    pub(crate) fn call_begins(&self, _: &EventBatch, _: &Clock) {}

    pub(crate) fn call_ends(&self, _: Duration, _: u64, _: Outcome) {}

    pub(crate) fn fell_behind(&self) {}

    pub(crate) fn set_aside(&self, _: usize) {}
}

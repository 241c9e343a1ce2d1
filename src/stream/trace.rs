//! What the program's `tracing` subscriber is told of a stream: a span around each handler call, and its changes of state.
//!
//! Never the payload. Failures, words from outside and the end are told where they happen; what stands here is the handler
//! call, and how a stream falls behind and catches up, which may happen very often and is told at most once in a second.

use tracing::Span;
use tracing::field::Empty;

use crate::clock::Timestamp;
use crate::event::batch::EventBatch;
use crate::stream::core::StreamCore;
use crate::stream::failure::Failure;
use crate::stream::policy::Verdict;

/// What a handler call is given.
#[derive(Clone, Copy)]
pub(crate) struct Delivered {
    first_sequence: u64,
    last_sequence: u64,
    events: u64,
}

impl Delivered {
    /// Several batches in one call.
    pub(crate) fn together(batches: &[EventBatch]) -> Self {
        Self {
            first_sequence: batches.first().map_or(0, EventBatch::first_sequence),
            last_sequence: batches.last().map_or(0, EventBatch::last_sequence),
            events: batches.iter().map(|batch| batch.len() as u64).sum(),
        }
    }
}

impl From<&EventBatch> for Delivered {
    fn from(batch: &EventBatch) -> Self {
        Self::together(std::slice::from_ref(batch))
    }
}

/// The span of a handler call, so that what the handler logs carries the stream's name. Nothing, when no subscriber wants it,
/// which costs a look at a static. A subscriber that formats it takes about a microsecond, hence its level.
pub(crate) fn handler_call(core: &StreamCore, delivered: Delivered) -> Option<Span> {
    let span = tracing::debug_span!(
        target: "millstream::handle",
        "handle",
        stream = core.name.as_deref(),
        first_sequence = signed(delivered.first_sequence),
        last_sequence = signed(delivered.last_sequence),
        events = signed(delivered.events),
        category = Empty,
        otel.status_code = Empty,
    );
    (!span.is_disabled()).then_some(span)
}

/// OpenTelemetry knows signed numbers alone, and makes a text of others.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A call came to nothing: its span says in which way, and how OpenTelemetry calls that.
pub(crate) fn handler_failed(span: &Span, failure: &Failure) {
    span.record("category", failure.category.as_str());
    span.record("otel.status_code", "ERROR");
}

/// A stream has seen everything up to the head.
pub(crate) fn reached_head(core: &StreamCore, position: u64) {
    tracing::debug!(
        stream = core.name.as_deref(),
        position,
        "a stream reached the head"
    );
}

/// A stream that was live has to read the log.
pub(crate) fn fell_behind(core: &StreamCore, position: u64, head: u64) {
    tracing::debug!(
        stream = core.name.as_deref(),
        position,
        head,
        "a stream fell behind the window, and reads the log"
    );
}

/// A handler took what it had failed on.
pub(crate) fn recovered(core: &StreamCore, last_sequence: u64, failures: u32) {
    tracing::info!(
        stream = core.name.as_deref(),
        last_sequence,
        failures,
        "a handler took the batch that it had failed on"
    );
}

/// How long it is until the next call, if there is one.
pub(crate) fn retry_in_ms(verdict: Verdict) -> Option<u64> {
    match verdict {
        Verdict::RetryAfter(delay) => u64::try_from(delay.as_millis()).ok(),
        Verdict::GiveUp => None,
    }
}

/// Where the subscriber was last told that a stream is. That it fell behind is told at most once in a second, that it reached the
/// head whenever it was last told to be behind; so the last word is never wrong for longer than a second of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    is_behind: bool,
    /// Seconds since the Unix epoch, when it was last told to have fallen behind.
    fell_at_seconds: u32,
}

impl Told {
    /// A stream that begins or starts over is on its way to the head.
    pub(crate) const BEGINS: Self = Self {
        is_behind: true,
        fell_at_seconds: 0,
    };

    /// The stream has reached the head. `true`: that is to be told.
    pub(crate) fn reach_head(&mut self) -> bool {
        std::mem::replace(&mut self.is_behind, false)
    }

    /// The stream is behind the window. `true`: that is to be told.
    pub(crate) fn fall_behind(&mut self, now: Timestamp) -> bool {
        if self.is_behind || now.as_seconds() == self.fell_at_seconds {
            return false;
        }
        *self = Self {
            is_behind: true,
            fell_at_seconds: now.as_seconds(),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn falling_behind_is_told_once_in_a_second_and_catching_up_whenever_that_was() {
        let at = |millis| Timestamp::from(UNIX_EPOCH + Duration::from_millis(millis));
        let mut told = Told::BEGINS;
        assert!(!told.fall_behind(at(5_000)), "who begins is behind");
        assert!(told.reach_head());
        let mut lines = 0;
        for round in 0..1_000 {
            lines += u32::from(told.fall_behind(at(5_000 + 2 * round)));
            lines += u32::from(told.reach_head());
        }
        assert_eq!(lines, 4, "two seconds, each with a fall and a return");
        assert!(told.fall_behind(at(9_000)));
        assert!(!told.fall_behind(at(11_000)), "it is known to be behind");
        assert!(told.reach_head() && !told.reach_head());
    }
}

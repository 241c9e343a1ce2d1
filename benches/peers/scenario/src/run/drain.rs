//! Waits until all that was appended is handled, and counts what never is.

use std::time::{Duration, Instant};

use crate::protocol::Measured;
use crate::sink::Sink;

/// Without any call of a handler for so long, what is left is lost.
const QUIET: Duration = Duration::from_secs(4);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits for so many handled events, and adds what came of them.
pub(super) async fn drain(sink: &Sink, expected: u64, limit: Duration, measured: &mut Measured) {
    let begin = Instant::now();
    let mut seen = sink.calls();
    let mut seen_at = begin;
    while sink.handled() < expected && seen_at.elapsed() < QUIET && begin.elapsed() < limit {
        tokio::time::sleep(LOOK).await;
        let calls = sink.calls();
        if calls > seen {
            (seen, seen_at) = (calls, Instant::now());
        }
    }
    let missing = expected.saturating_sub(sink.handled());
    if seen_at.elapsed() < QUIET {
        measured.late = missing;
    } else {
        measured.lost = missing;
    }
    measured.doubled = sink.doubled();
    measured.foreign = sink.foreign();
}

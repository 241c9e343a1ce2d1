//! How fast a stream handles events: pure.

use std::time::{Duration, Instant};

/// What is counted together.
const SPAN: Duration = Duration::from_secs(1);

/// Events per second over the newest span of a second or more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    since: Instant,
    events: u64,
    /// Of the span before.
    per_second: f64,
}

impl Rate {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            events: 0,
            per_second: 0.0,
        }
    }

    pub(crate) fn count(&mut self, events: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= SPAN {
            self.per_second = self.events as f64 / elapsed.as_secs_f64();
            self.since = now;
            self.events = 0;
        }
        self.events += events;
    }

    pub(crate) fn per_second(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < SPAN {
            return self.per_second.max(self.events as f64);
        }
        self.events as f64 / elapsed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_what_is_handled_and_falls_when_nothing_is() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut rate = Rate::new(begin);
        for tenth in 0..30 {
            rate.count(10, after(tenth * 100));
        }
        let rates = [after(2_950), after(3_900), after(12_000)].map(|now| rate.per_second(now));
        assert!((rates[0] - 100.0).abs() < 10.0, "{rates:?}");
        assert!((rates[1] - 53.0).abs() < 10.0, "{rates:?}");
        assert!((0.1..15.0).contains(&rates[2]), "{rates:?}");
    }
}

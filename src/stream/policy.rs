//! When a failed call is repeated: after pauses that grow, with jitter, up to a limit. What comes then is the failure policy's.

use std::time::{Duration, Instant, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::clock::{TIME_MAX, Timestamp};
use crate::stream::failure::Failure;

/// How a failed handler call is repeated: after pauses that double, with random jitter, until an attempt succeeds or a
/// limit is reached.
///
/// ```
/// use std::time::Duration;
/// use millstream::Retry;
///
/// let patient = Retry::default().attempts_max(100).elapsed_max(Duration::from_secs(3600));
/// let never = Retry::never();
/// # let _ = (patient, never);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Retry {
    attempts_max: u32,
    elapsed_max: Duration,
    delay_min: Duration,
    delay_max: Duration,
}

impl Default for Retry {
    /// Ten attempts within a minute, with pauses from 50 ms to 10 s.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            elapsed_max: Duration::from_secs(60),
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// One attempt: after the first error the failure policy has its say.
    pub fn never() -> Self {
        Self::default().attempts_max(1)
    }

    /// Calls for one batch, the first one included. At least 1. Default 10.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.max(1);
        self
    }

    /// Time from the first failure of a batch after which no new attempt begins. At most a day. Default 60 s.
    #[must_use]
    pub fn elapsed_max(mut self, elapsed: Duration) -> Self {
        self.elapsed_max = elapsed.min(TIME_MAX);
        self
    }

    /// The pause after the first failure, before jitter, which adds up to as much again. From 1 ms to a day. Default 50 ms.
    #[must_use]
    pub fn delay_min(mut self, delay: Duration) -> Self {
        self.delay_min = delay.clamp(Duration::from_millis(1), TIME_MAX);
        self
    }

    /// The longest pause, before jitter. At most a day. Default 10 s.
    #[must_use]
    pub fn delay_max(mut self, delay: Duration) -> Self {
        self.delay_max = delay.min(TIME_MAX);
        self
    }

    fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.delay_min)
            .with_max_delay(self.delay_max.max(self.delay_min))
            .without_max_times()
            .with_jitter()
            .build()
    }
}

/// The failures of the batch in hand.
pub(crate) struct Failures {
    policy: Retry,
    attempts: u32,
    since: Instant,
    first_failed_at: SystemTime,
    delays: ExponentialBackoff,
}

/// What the policy says after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    RetryAfter(Duration),
    GiveUp,
}

impl Failures {
    /// Begins to count at the first failure of a batch.
    pub(crate) fn new(policy: Retry, now: Instant) -> Self {
        Self {
            policy,
            attempts: 0,
            since: now,
            first_failed_at: Timestamp::now().into(),
            delays: policy.delays(),
        }
    }

    /// How often the batch was tried.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the first of them was.
    pub(crate) fn first_failed_at(&self) -> SystemTime {
        self.first_failed_at
    }

    /// As [`record`](Self::record), for a failure that another attempt may not mend.
    pub(crate) fn record_failure(&mut self, failure: &Failure, now: Instant) -> Verdict {
        match self.record(now) {
            Verdict::RetryAfter(_) if failure.is_final => Verdict::GiveUp,
            verdict => verdict,
        }
    }

    pub(crate) fn record(&mut self, now: Instant) -> Verdict {
        self.attempts += 1;
        let elapsed = now.saturating_duration_since(self.since);
        if self.attempts >= self.policy.attempts_max {
            return Verdict::GiveUp;
        }
        match self.delays.next() {
            Some(delay) if elapsed + delay <= self.policy.elapsed_max => Verdict::RetryAfter(delay),
            _ => Verdict::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_limit_and_attempts_end() {
        let policy = Retry::default()
            .attempts_max(6)
            .delay_min(Duration::from_millis(10))
            .delay_max(Duration::from_millis(40));
        let now = Instant::now();
        let mut failures = Failures::new(policy, now);
        for base in [10, 20, 40, 40, 40] {
            let Verdict::RetryAfter(delay) = failures.record(now) else {
                panic!("an attempt is left");
            };
            let bounds = Duration::from_millis(base)..=Duration::from_millis(base * 2);
            assert!(bounds.contains(&delay), "{delay:?} after {base} ms");
        }
        assert_eq!(failures.record(now), Verdict::GiveUp);
        assert_eq!(failures.attempts(), 6);
    }

    #[test]
    fn no_attempt_begins_after_the_time_is_over() {
        let policy = Retry::default().elapsed_max(Duration::from_secs(1));
        let now = Instant::now();
        let mut failures = Failures::new(policy, now);
        assert_ne!(failures.record(now), Verdict::GiveUp);
        let late = now + Duration::from_secs(1);
        assert_eq!(failures.record(late), Verdict::GiveUp);
        assert_eq!(Failures::new(Retry::never(), now).record(now), Verdict::GiveUp);
    }
}

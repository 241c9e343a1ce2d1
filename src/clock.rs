//! Time as it is recorded: microseconds since the Unix epoch.

#[cfg(feature = "testing")]
use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The longest time that an option takes. Longer ones are mistakes, and would overflow.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A moment, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(
    not(feature = "contract"),
    allow(unreachable_pub, reason = "exported with `contract`")
)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The moment that comes so long after it.
    pub(crate) fn after(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The moment so many microseconds after the Unix epoch.
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, as far as they fit.
    pub(crate) fn as_seconds(self) -> u32 {
        u32::try_from(self.0.div_euclid(1_000_000).max(0)).unwrap_or(u32::MAX)
    }

    /// The day it lies in, as UTC counts days.
    pub(crate) fn day(self) -> Day {
        Day(self.0.div_euclid(DAY_MICROS))
    }

    /// How long ago it was; nothing, when it lies in the future.
    pub(crate) fn age(self) -> Duration {
        self.age_at(Self::now())
    }

    fn age_at(self, now: Self) -> Duration {
        let micros = now.0.saturating_sub(self.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// What time it is for a store, when events are recorded and when it is asked how old they are: the system's time, or a test's.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    #[cfg(feature = "testing")]
    hand: Option<Arc<AtomicI64>>,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        #[cfg(feature = "testing")]
        if let Some(hand) = &self.hand {
            // Acquire and release: whoever sees the time sees what the test did before it set it.
            return Timestamp(hand.load(Ordering::Acquire));
        }
        Timestamp::now()
    }

    /// The time to record after `earlier`, so that time never decreases along the log when the clock is set back.
    pub(crate) fn now_after(&self, earlier: Timestamp) -> Timestamp {
        self.now().max(earlier)
    }

    /// How long ago it was; nothing, when it lies in the future.
    pub(crate) fn age(&self, of: Timestamp) -> Duration {
        of.age_at(self.now())
    }

    /// A clock that stands until it is set.
    #[cfg(feature = "testing")]
    pub(crate) fn standing_at(time: Timestamp) -> Self {
        Self {
            hand: Some(Arc::new(AtomicI64::new(time.0))),
        }
    }

    /// Changes the time, if this is a clock that stands.
    #[cfg(feature = "testing")]
    pub(crate) fn change(&self, change: impl Fn(Timestamp) -> Timestamp) {
        if let Some(hand) = &self.hand {
            let change = |now| Some(change(Timestamp(now)).0);
            // It always says what the time is to be.
            let _ = hand.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
    }
}

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A day of UTC, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(i64);

impl Day {
    /// The day's first moment.
    pub(crate) fn start(self) -> Timestamp {
        Timestamp(self.0.saturating_mul(DAY_MICROS))
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<SystemTime> for Timestamp {
    /// Moments that do not fit count as the nearest that does.
    fn from(time: SystemTime) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let span = Duration::from_micros(timestamp.0.unsigned_abs());
        let time = if timestamp.0 < 0 {
            UNIX_EPOCH.checked_sub(span)
        } else {
            UNIX_EPOCH.checked_add(span)
        };
        time.unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_come_back_as_they_went() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -62_000_000_000_000_000] {
            let time = SystemTime::from(Timestamp(micros));
            assert_eq!(Timestamp::from(time), Timestamp(micros));
        }
    }

    #[test]
    fn a_day_begins_at_midnight_and_before_the_epoch_too() {
        let micros_a_day = 86_400_000_000;
        for (micros, start) in [
            (0, 0),
            (micros_a_day - 1, 0),
            (micros_a_day, micros_a_day),
            (-1, -micros_a_day),
        ] {
            assert_eq!(Timestamp(micros).day().start(), Timestamp(start), "{micros}");
        }
    }

    #[test]
    fn recorded_time_does_not_go_back_with_the_clock() {
        let future = Timestamp(i64::MAX);
        assert_eq!(Clock::default().now_after(future), future);
        assert_eq!(future.age(), Duration::ZERO);
    }
}

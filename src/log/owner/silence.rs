//! For how long an instance gave no sign of life, as it is seen from here: pure.
//!
//! Clocks are not compared. What counts is for how long somebody looked and saw no beat: who was stopped himself, or whose clock
//! was set, has not looked meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::log::owner::{InstanceId, Sign};

/// What is seen of the life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Lives,
    /// Its process is there, and gives no sign of life.
    IsSilent,
    Gone,
}

/// The signs of life of others.
pub(crate) struct Signs {
    seen: HashMap<InstanceId, Seen>,
    silence_max: Duration,
    /// Between two looks no more time than this counts as looked.
    gap_max: Duration,
}

struct Seen {
    beat: i128,
    looked_at: Instant,
    silent_for: Duration,
}

impl Signs {
    pub(crate) fn new(silence_max: Duration, look_every: Duration) -> Self {
        Self {
            seen: HashMap::new(),
            silence_max,
            gap_max: look_every.saturating_mul(2),
        }
    }

    /// Takes a sign in, and says what follows from all of them.
    pub(crate) fn saw(&mut self, instance: &InstanceId, sign: Sign, now: Instant) -> Life {
        let Sign::Beat(beat) = sign else {
            self.seen.remove(instance);
            return Life::Gone;
        };
        let seen = self.seen.entry(InstanceId::clone(instance)).or_insert(Seen {
            beat,
            looked_at: now,
            silent_for: Duration::ZERO,
        });
        if seen.beat == beat {
            let gap = now.saturating_duration_since(seen.looked_at);
            seen.silent_for += gap.min(self.gap_max);
        } else {
            seen.silent_for = Duration::ZERO;
        }
        seen.beat = beat;
        seen.looked_at = now;
        match seen.silent_for > self.silence_max {
            true => Life::IsSilent,
            false => Life::Lives,
        }
    }

    /// Forgets those who are looked at no more.
    pub(crate) fn retain(&mut self, is_looked_at: impl Fn(&InstanceId) -> bool) {
        self.seen.retain(|instance, _| is_looked_at(instance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_EVERY: Duration = Duration::from_millis(100);

    #[test]
    fn only_what_was_looked_at_without_a_beat_counts_as_silence() {
        let mut signs = Signs::new(Duration::from_secs(1), LOOK_EVERY);
        let instance: InstanceId = "a".into();
        let mut now = Instant::now();
        assert_eq!(signs.saw(&instance, Sign::Beat(1), now), Life::Lives);
        // Who looks was stopped for an hour himself: that is one gap, and no hour of silence.
        now += Duration::from_secs(3_600);
        assert_eq!(signs.saw(&instance, Sign::Beat(1), now), Life::Lives);
        for _ in 0..8 {
            now += LOOK_EVERY;
            assert_eq!(signs.saw(&instance, Sign::Beat(1), now), Life::Lives);
        }
        now += LOOK_EVERY;
        assert_eq!(signs.saw(&instance, Sign::Beat(1), now), Life::IsSilent);
        // A beat ends it, whatever its number is: a clock may have been set back.
        assert_eq!(signs.saw(&instance, Sign::Beat(-5), now), Life::Lives);
        assert_eq!(signs.saw(&instance, Sign::Gone, now), Life::Gone);
    }
}

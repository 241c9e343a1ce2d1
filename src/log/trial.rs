//! Which of two manners of waiting for an answer is the faster one, found out by trying. Pure.
//!
//! Staying awake saves a wake-up where a processor is free, and costs a multiple of it where the committer needs that
//! processor, because other programs have the others. Nobody can tell beforehand; so now and then a few calls are made in
//! the other manner, and the one whose calls took less is kept.

use std::time::Duration;

/// How a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Awake,
    Asleep,
}

#[derive(Debug)]
pub(crate) struct Trial {
    manner: Manner,
    stage: Stage,
    /// The times of this round, in microseconds.
    times: Vec<u32>,
    /// For how many rounds the next verdict stands.
    rounds: u32,
}

/// What the rounds are good for. Each yields the median of its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The other manner has not been tried.
    First,
    /// The manner is compared with the other one, which took so long.
    Second { first: u32 },
    /// The manner has won, with that time.
    Kept { time: u32, rounds_left: u32 },
}

/// How many calls make a round. Their median does not see the few that a checkpoint held up.
const ROUND: usize = 32;
/// For how many rounds the first verdict stands. Each later one stands twice as long, up to the maximum.
const ROUNDS_MIN: u32 = 8;
const ROUNDS_MAX: u32 = 256;

impl Trial {
    pub(crate) fn new() -> Self {
        Self {
            manner: Manner::Awake,
            stage: Stage::First,
            times: Vec::new(),
            rounds: ROUNDS_MIN,
        }
    }

    /// How the next call is to wait.
    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    /// Takes the time of a call that waited in this manner.
    pub(crate) fn note(&mut self, manner: Manner, took: Duration) {
        if manner != self.manner {
            // It was begun before the verdict.
            return;
        }
        self.times
            .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        if self.times.len() == ROUND {
            self.times.sort_unstable();
            let median = self.times[ROUND / 2];
            self.times.clear();
            self.round_ends(median);
        }
    }

    fn round_ends(&mut self, median: u32) {
        match self.stage {
            Stage::Second { first } => {
                if median > first {
                    self.manner = self.manner.other();
                }
                self.stage = Stage::Kept {
                    time: median.min(first),
                    rounds_left: self.rounds,
                };
                self.rounds = (self.rounds * 2).min(ROUNDS_MAX);
            }
            Stage::Kept { time, rounds_left }
                if rounds_left > 1 && median <= time.saturating_add(time / 2) =>
            {
                self.stage = Stage::Kept {
                    time,
                    rounds_left: rounds_left - 1,
                };
            }
            Stage::First | Stage::Kept { .. } => {
                self.stage = Stage::Second { first: median };
                self.manner = self.manner.other();
            }
        }
    }
}

impl Manner {
    fn other(self) -> Self {
        match self {
            Self::Awake => Self::Asleep,
            Self::Asleep => Self::Awake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes so many calls that take so long in either manner, and says how many stayed awake.
    fn call(trial: &mut Trial, calls: usize, awake_us: u64, asleep_us: u64) -> usize {
        let is_awake = |_: &usize| {
            let manner = trial.manner();
            trial.note(
                manner,
                Duration::from_micros(match manner {
                    Manner::Awake => awake_us,
                    Manner::Asleep => asleep_us,
                }),
            );
            manner == Manner::Awake
        };
        (0..calls).filter(is_awake).count()
    }

    #[test]
    fn the_faster_manner_is_kept_and_the_other_one_rarely_tried() {
        for (awake_us, asleep_us) in [(80, 105), (105, 80)] {
            let mut trial = Trial::new();
            call(&mut trial, 20_000, awake_us, asleep_us);
            let awake = call(&mut trial, 100_000, awake_us, asleep_us);
            let slower = if awake_us < asleep_us {
                100_000 - awake
            } else {
                awake
            };
            assert!((1..=500).contains(&slower), "{slower} calls in the slower manner");
        }
    }

    #[test]
    fn a_manner_that_grows_slow_is_left_after_a_round() {
        let mut trial = Trial::new();
        call(&mut trial, 20_000, 80, 105);
        let awake = call(&mut trial, 1_000, 300, 105);
        assert!(awake <= 2 * ROUND, "{awake} calls stayed awake");
    }

    #[test]
    fn a_quiet_machine_is_noticed_in_the_end() {
        let mut trial = Trial::new();
        call(&mut trial, 20_000, 300, 105);
        call(&mut trial, 2 * ROUND * ROUNDS_MAX as usize, 80, 105);
        assert_eq!(trial.manner(), Manner::Awake);
    }

    #[test]
    fn a_call_that_was_begun_before_the_verdict_does_not_count() {
        let mut trial = Trial::new();
        for _ in 0..ROUND {
            trial.note(Manner::Asleep, Duration::ZERO);
        }
        assert_eq!((trial.manner(), trial.stage), (Manner::Awake, Stage::First));
    }
}

//! How many of the batches that were settled last had to be set aside. Pure.

/// The newest outcomes, a bit for each: 1 for one that was set aside.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    outcomes: u32,
}

/// Of so many outcomes more than half may not be set aside.
pub(crate) const OUTCOMES: u32 = 20;
const SET_ASIDE_MAX: u32 = OUTCOMES / 2;
const MASK: u32 = (1 << OUTCOMES) - 1;

impl Budget {
    pub(crate) fn handled(&mut self) {
        self.outcomes = (self.outcomes << 1) & MASK;
    }

    pub(crate) fn set_aside(&mut self) {
        self.outcomes = ((self.outcomes << 1) | 1) & MASK;
    }

    /// How many of the newest would be set aside with one more, when that is too many.
    pub(crate) fn exceeded_by_one_more(self) -> Option<u32> {
        let mut next = self;
        next.set_aside();
        let set_aside = next.outcomes.count_ones();
        (set_aside > SET_ASIDE_MAX).then_some(set_aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_twenty_may_be_set_aside_and_not_one_more() {
        let mut budget = Budget::default();
        for _ in 0..10 {
            assert_eq!(budget.exceeded_by_one_more(), None);
            budget.set_aside();
        }
        assert_eq!(budget.exceeded_by_one_more(), Some(11));
        // Nine that were handled do not help: of twenty, eleven would be bad.
        for _ in 0..9 {
            budget.handled();
            assert_eq!(budget.exceeded_by_one_more(), Some(11));
        }
        budget.handled();
        assert_eq!(budget.exceeded_by_one_more(), None);
    }

    #[test]
    fn every_other_one_may_be_bad_for_ever() {
        let mut budget = Budget::default();
        for _ in 0..1_000 {
            assert_eq!(budget.exceeded_by_one_more(), None);
            budget.set_aside();
            budget.handled();
        }
    }
}

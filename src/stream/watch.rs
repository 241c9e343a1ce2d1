//! Whether a batch is one that the process did not survive. Pure.
//!
//! A run that ends in order takes its note back. So a stream that finds one when it begins knows that the run before was cut off,
//! with some batch in hand: one of those behind the cursor, and no further from it than the checkpoint allows, because a stream
//! waits there until its cursor is stored. These are watched: before each of them is given to the handler it is noted in the log
//! together with the position before it, and how often that was done. The batch that the process did not survive is so the one
//! that the next run begins with, and its count grows with every start. Behind the watched stretch, and after a run that ended
//! in order, nothing is noted and nothing is paid.

use crate::log::letter::Attempt;

/// The stretch that is watched, and what the run before noted.
#[derive(Debug)]
pub(crate) struct Watch {
    previous: Attempt,
    /// The batch that was noted last, or the part of it.
    noted: u64,
    /// The end of the batch that was counted last.
    counted_through: u64,
    batches_left: u32,
    /// The head when the stream began: what came later was not given to anybody yet.
    through: u64,
    starts_max: u32,
}

/// What is to be done before a batch is given to the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It is noted already: the handler failed on it in this run.
    Nothing,
    Note(Attempt),
    /// It was begun so often and never came to an end: the handler is not called.
    SetAside {
        starts: u32,
    },
    /// The stretch ends here.
    Leave,
}

impl Watch {
    /// A watch, when the run before was cut off.
    pub(crate) fn begin(previous: Attempt, batches_max: u32, head: u64, starts_max: u32) -> Option<Self> {
        (previous.count > 0).then_some(Self {
            previous,
            noted: 0,
            counted_through: 0,
            batches_left: batches_max,
            through: head,
            starts_max,
        })
    }

    /// Whether a note stands in the log.
    pub(crate) fn has_noted(&self) -> bool {
        self.noted > 0
    }

    /// What comes before the call with a batch, or a part of it, that begins with this event. Parts of one batch, which end
    /// where it does, count as one.
    pub(crate) fn before(&mut self, first_sequence: u64, batch_through: u64) -> Before {
        if self.noted == first_sequence {
            return Before::Nothing;
        }
        let is_next_batch = batch_through > self.counted_through;
        if first_sequence > self.through || (is_next_batch && self.batches_left == 0) {
            return Before::Leave;
        }
        let earlier = match self.previous.at == first_sequence {
            true => self.previous.count,
            false => 0,
        };
        if earlier >= self.starts_max {
            return Before::SetAside { starts: earlier };
        }
        self.noted = first_sequence;
        if is_next_batch {
            self.counted_through = batch_through;
            self.batches_left -= 1;
        }
        Before::Note(Attempt {
            at: first_sequence,
            count: earlier + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(at: u64, count: u32) -> Attempt {
        Attempt { at, count }
    }

    #[test]
    fn after_a_run_that_ended_in_order_nothing_is_watched() {
        assert!(Watch::begin(Attempt::ENDED, 10, 100, 3).is_none());
        assert!(Watch::begin(Attempt::RUNNING, 10, 100, 3).is_some());
    }

    #[test]
    fn the_batch_that_every_run_dies_of_is_set_aside_after_so_many_starts() {
        // The runs die of the batch at 5, and their cursors get no further than to the first one.
        let mut noted = Attempt::RUNNING;
        let mut starts = 0;
        loop {
            let mut watch = Watch::begin(noted, 10, 100, 3).unwrap();
            let mut position = if noted.at == 5 { 5 } else { 1 };
            let set_aside = loop {
                match watch.before(position, position) {
                    Before::Note(next) => noted = next,
                    Before::SetAside { starts } => break Some((position, starts)),
                    other => panic!("{other:?} at {position}"),
                }
                if position == 5 {
                    break None;
                }
                position += 1;
            };
            if let Some(set_aside) = set_aside {
                assert_eq!((set_aside, starts), ((5, 3), 3));
                return;
            }
            starts += 1;
        }
    }

    #[test]
    fn a_retry_within_the_run_is_not_noted_again() {
        let mut watch = Watch::begin(attempt(7, 2), 10, 100, 3).unwrap();
        assert_eq!(watch.before(7, 7), Before::Note(attempt(7, 3)));
        assert_eq!(watch.before(7, 7), Before::Nothing);
        assert_eq!(watch.before(9, 9), Before::Note(attempt(9, 1)));
    }

    #[test]
    fn parts_of_one_batch_are_noted_each_and_count_as_one() {
        let mut watch = Watch::begin(Attempt::RUNNING, 2, 100, 3).unwrap();
        for first in [1, 2, 3] {
            assert_eq!(watch.before(first, 3), Before::Note(attempt(first, 1)));
        }
        assert_eq!(watch.before(4, 5), Before::Note(attempt(4, 1)));
        assert_eq!(watch.before(5, 5), Before::Note(attempt(5, 1)));
        assert_eq!(watch.before(6, 6), Before::Leave);
    }

    #[test]
    fn the_stretch_ends_with_the_checkpoint_or_the_head() {
        let mut watch = Watch::begin(Attempt::RUNNING, 2, 100, 3).unwrap();
        assert_eq!(watch.before(1, 1), Before::Note(attempt(1, 1)));
        assert_eq!(watch.before(2, 2), Before::Note(attempt(2, 1)));
        assert_eq!(watch.before(3, 3), Before::Leave);
        let mut watch = Watch::begin(Attempt::RUNNING, 2, 100, 3).unwrap();
        assert_eq!(watch.before(101, 101), Before::Leave);
    }
}

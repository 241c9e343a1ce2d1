//! The rows of `event` one after the other: holes, batches and times. Pure.

use crate::log::page::Range;
use crate::log::verification::{Finding, Verification};

/// What the walk looks at of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: i64,
    pub(super) batch_index: i64,
    pub(super) batch_size: i64,
    pub(super) recorded_at: i64,
}

impl Place {
    fn batch_first(self) -> i64 {
        self.sequence.saturating_sub(self.batch_index)
    }
}

/// The walk, at the row that was taken last.
pub(super) struct Walk {
    pruned_through: i64,
    removed_through: i64,
    last: Option<Place>,
    /// The time that the next row must not be older than.
    recorded_at: i64,
    /// The batch that was reported last: one finding for each is enough.
    torn: Option<i64>,
}

impl Walk {
    pub(super) fn new(pruned_through: i64, removed_through: i64, pruned_recorded_at: i64) -> Self {
        Self {
            pruned_through,
            removed_through,
            last: None,
            recorded_at: pruned_recorded_at,
            torn: None,
        }
    }

    /// Takes the next row, and gives the sequences without an event between it and the one before.
    pub(super) fn take(&mut self, place: Place, verification: &mut Verification) -> Option<Range> {
        if place.sequence <= self.pruned_through {
            verification.found(Finding::EventOutlivedPruning {
                sequence: unsigned(place.sequence),
                pruned_through: unsigned(self.pruned_through),
            });
        }
        let before = self.last.map_or(0, |last| last.sequence).max(self.pruned_through);
        let hole = (place.sequence > before + 1).then(|| Range {
            after: unsigned(before),
            through: unsigned(place.sequence - 1),
        });
        if let Some(hole) = hole {
            self.hole(hole, verification);
        }
        if place.recorded_at < self.recorded_at {
            let sequence = unsigned(place.sequence);
            verification.found(Finding::TimeFell { sequence });
        }
        self.batch(place, verification);
        self.recorded_at = place.recorded_at;
        self.last = Some(place);
        hole
    }

    /// The last row was taken.
    pub(super) fn end(&mut self, verification: &mut Verification) {
        self.close(verification);
        let last = self.last.map_or(0, |last| last.sequence).max(self.pruned_through);
        let removed = self.removed_through.saturating_sub(last).max(0);
        verification.removed_events += unsigned(removed);
        verification.head = unsigned(last.max(self.removed_through));
        verification.pruned_through = unsigned(self.pruned_through);
    }

    /// A hole that ends where nothing was ever removed is a loss.
    fn hole(&self, hole: Range, verification: &mut Verification) {
        if hole.through <= unsigned(self.removed_through) {
            verification.removed_events += hole.through - hole.after;
            return;
        }
        verification.found(Finding::EventsMissing {
            first_sequence: hole.after + 1,
            last_sequence: hole.through,
        });
    }

    fn batch(&mut self, place: Place, verification: &mut Verification) {
        let Place {
            sequence,
            batch_index,
            batch_size,
            ..
        } = place;
        let begins_at = place.batch_first();
        let open = self.last.filter(|last| last.batch_first() == begins_at);
        if open.is_none() {
            self.close(verification);
            verification.batches += 1;
        }
        let problem = match open {
            _ if batch_index < 0 || batch_index >= batch_size => {
                format!("event {sequence} says that it is number {batch_index}, from 0, of {batch_size}")
            }
            None if batch_index > 0 => format!("its events before {sequence} are missing"),
            Some(last) if last.sequence + 1 != sequence => {
                format!("its events between {} and {sequence} are missing", last.sequence)
            }
            Some(last) if last.batch_size != batch_size => {
                format!(
                    "event {} says that it has {} events, event {sequence} says {batch_size}",
                    last.sequence, last.batch_size
                )
            }
            Some(last) if last.recorded_at != place.recorded_at => {
                format!(
                    "event {sequence} was recorded at another time than event {}",
                    last.sequence
                )
            }
            _ => return,
        };
        self.tear(begins_at, problem, verification);
    }

    /// The batch of the last row goes no further.
    fn close(&mut self, verification: &mut Verification) {
        let Some(last) = self.last else {
            return;
        };
        let missing = last.batch_size - 1 - last.batch_index;
        if missing > 0 {
            let problem = format!("the last {missing} of its {} events are missing", last.batch_size);
            self.tear(last.batch_first(), problem, verification);
        }
    }

    fn tear(&mut self, first_sequence: i64, problem: String, verification: &mut Verification) {
        if self.torn != Some(first_sequence) {
            self.torn = Some(first_sequence);
            verification.found(Finding::BatchTorn {
                first_sequence,
                problem,
            });
        }
    }
}

/// A number that is not negative in a sound file.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two events, three events, one event.
    fn sound() -> Vec<Place> {
        let place = |(sequence, batch_index, batch_size, recorded_at)| Place {
            sequence,
            batch_index,
            batch_size,
            recorded_at,
        };
        [
            (1, 0, 2, 10),
            (2, 1, 2, 10),
            (3, 0, 3, 20),
            (4, 1, 3, 20),
            (5, 2, 3, 20),
            (6, 0, 1, 20),
        ]
        .map(place)
        .into()
    }

    fn walk(pruned_through: i64, removed_through: i64, places: &[Place]) -> Verification {
        let mut verification = Verification::default();
        let mut walk = Walk::new(pruned_through, removed_through, 5);
        for place in places {
            walk.take(*place, &mut verification);
        }
        walk.end(&mut verification);
        verification
    }

    fn findings(verification: &Verification) -> Vec<String> {
        verification.findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_log_has_no_findings_whole_pruned_or_shortened() {
        let whole = walk(0, 0, &sound());
        assert_eq!(findings(&whole), [""; 0]);
        assert_eq!((whole.head, whole.batches, whole.removed_events), (6, 3, 0));
        assert_eq!(findings(&walk(2, 0, &sound()[2..])), [""; 0]);
        let empty = walk(6, 0, &[]);
        assert_eq!((findings(&empty), empty.head), (Vec::new(), 6));
        // Whole batches that were removed by hand, at the end and in the middle.
        let shortened = walk(0, 6, &sound()[..5]);
        assert_eq!(findings(&shortened), [""; 0]);
        assert_eq!((shortened.head, shortened.removed_events), (6, 1));
        let middle = [&sound()[..2], &sound()[5..]].concat();
        let middle = walk(0, 5, &middle);
        assert_eq!((findings(&middle), middle.removed_events), (Vec::new(), 3));
    }

    #[test]
    fn a_batch_that_lost_an_event_is_torn_wherever_it_stood() {
        for (lost, expected) in [
            (2, "its events before 4 are missing"),
            (3, "its events between 3 and 5 are missing"),
            (4, "the last 1 of its 3 events are missing"),
        ] {
            let mut places = sound();
            places.remove(lost);
            let (noted, unnoted) = (walk(0, 6, &places), walk(0, 0, &places));
            let torn = format!("the batch that begins with 3 is not whole: {expected}");
            assert_eq!(findings(&noted), [torn.as_str()], "removed by hand");
            assert_eq!(findings(&unnoted).len(), 2, "{:?}", unnoted.findings);
            assert!(matches!(
                unnoted.findings[..],
                [Finding::EventsMissing { .. }, Finding::BatchTorn { .. }]
                    | [Finding::BatchTorn { .. }, Finding::EventsMissing { .. }]
            ));
        }
    }

    #[test]
    fn what_a_row_says_of_its_batch_has_to_fit() {
        type Change = fn(&mut Place);
        let cases: [(usize, Change); 5] = [
            (3, |place| place.batch_size = 4),
            (4, |place| place.batch_size = 2),
            (5, |place| place.batch_size = 0),
            (5, |place| place.batch_index = -1),
            (4, |place| place.recorded_at = 21),
        ];
        for (index, change) in cases {
            let mut places = sound();
            change(&mut places[index]);
            // A later event may then be older than the changed one, too.
            let found = walk(0, 0, &places);
            assert!(
                found
                    .findings
                    .iter()
                    .any(|finding| matches!(finding, Finding::BatchTorn { .. })),
                "{index}: {:?}",
                found.findings
            );
        }
    }

    #[test]
    fn time_falls_against_the_event_before_and_against_what_was_pruned() {
        let mut places = sound();
        places[5].recorded_at = 19;
        assert_eq!(walk(0, 0, &places).findings, [Finding::TimeFell { sequence: 6 }]);
        let mut places = sound();
        places[0].recorded_at = 4;
        places[1].recorded_at = 4;
        assert!(
            walk(0, 0, &places)
                .findings
                .contains(&Finding::TimeFell { sequence: 1 })
        );
    }

    #[test]
    fn an_event_that_is_said_to_be_pruned_is_found() {
        let found = walk(2, 0, &sound()[1..]);
        assert!(
            found.findings.contains(&Finding::EventOutlivedPruning {
                sequence: 2,
                pruned_through: 2
            }),
            "{:?}",
            found.findings
        );
    }
}

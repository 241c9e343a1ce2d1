//! What is stored beside the events, and what every log decides about it alike.

use crate::clock::Timestamp;
use crate::log::cursor::{CursorWrite, StoredCursor};
use crate::log::letter::{AttemptWrite, DeadLetter, DeadLetterState, LetterCounts};
use crate::log::once::StoredKey;
use crate::log::owner::{Claim, Role};
use crate::log::page::Range;
use crate::log::prune::HeldBy;

impl StoredCursor {
    /// The row, when it is written now. Every row that is put is stored like this.
    pub fn written(&self) -> Self {
        Self {
            updated_at: Timestamp::now(),
            ..self.clone()
        }
    }

    /// The row after a write, written now; nothing, when the write names another epoch, so that nothing may be stored (D6).
    pub fn moved(&self, write: &CursorWrite<'_>) -> Option<Self> {
        (self.epoch == write.epoch).then(|| Self {
            position: write.position,
            attempt: write.run.into(),
            ..self.written()
        })
    }

    /// The row after an attempt was noted, written now; nothing, when the write names another epoch (D6).
    pub fn attempted(&self, write: &AttemptWrite<'_>) -> Option<Self> {
        (self.epoch == write.epoch).then(|| Self {
            position: write.position,
            attempt: write.attempt,
            ..self.written()
        })
    }

    /// The last sequence that is settled.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether, and where, the stream of this name keeps its log from being pruned: a cursor of another log does not, nor does that of a
    /// stream that another one has taken over.
    pub fn holds(&self, name: &str, log_id: &str) -> Option<HeldBy> {
        let holds = self.log_id == log_id && self.successor().is_none();
        holds.then(|| HeldBy {
            stream: Some(name.to_owned()),
            position: self.position,
            dead_letter: None,
        })
    }

    /// The row as an operator leaves it who has moved the cursor by hand.
    pub fn placed_at(&self, position: u64) -> Self {
        Self {
            position,
            ..self.clone()
        }
    }

    /// The row as it stands in a log into which it was brought from another one, of this id.
    pub fn of_log(&self, log_id: &str) -> Self {
        Self {
            log_id: log_id.to_owned(),
            ..self.clone()
        }
    }
}

impl LetterCounts {
    /// Counts all letters of a stream.
    pub fn of<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> Self {
        let mut counts = Self::default();
        let mut keys = std::collections::BTreeSet::new();
        for letter in letters {
            keys.extend(letter.key.as_deref());
            if letter.state == DeadLetterState::Skipped {
                counts.skipped += 1;
                continue;
            }
            counts.parked += 1;
            let parked_at = Timestamp::from(letter.parked_at);
            counts.oldest_at = Some(counts.oldest_at.map_or(parked_at, |oldest| oldest.min(parked_at)));
        }
        counts.keys = keys.len() as u64;
        counts
    }
}

impl StoredKey {
    /// The stretch of the log that the batch is which was appended under the key.
    pub fn range(&self) -> Range {
        Range {
            after: self.first_sequence - 1,
            through: self.last_sequence,
        }
    }
}

impl Claim {
    /// The stream that is claimed.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The id of the instance that claims it, as [`enter`](crate::contract::ClaimWriter::enter) gave it.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Whether it says that somebody stands by for the stream, or was given it: then all claims to the stream are contested.
    pub fn is_waiting(&self) -> bool {
        matches!(self.role, Role::Standby | Role::Heir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::cursor::{Pause, PauseKind, Run};
    use crate::log::letter::Attempt;

    fn row() -> StoredCursor {
        StoredCursor {
            position: 7,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch: 4,
            attempt: Attempt::ENDED,
            owner: 3,
            steering: 5,
            paused: None,
            retry: None,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn d6_nothing_is_written_under_another_epoch() {
        let moved = |epoch| {
            row().moved(&CursorWrite {
                name: "ledger",
                epoch,
                position: 9,
                run: Run::GoesOn,
            })
        };
        let written = moved(4).unwrap();
        assert_eq!((written.position, written.attempt), (9, Attempt::RUNNING));
        assert!(written.updated_at > Timestamp::EPOCH);
        assert!(moved(3).is_none() && moved(5).is_none());
        let attempt = Attempt { at: 8, count: 2 };
        let attempted = |epoch| {
            row().attempted(&AttemptWrite {
                name: "ledger",
                epoch,
                position: 8,
                attempt,
            })
        };
        let noted = attempted(4).unwrap();
        assert_eq!((noted.position, noted.attempt), (8, attempt));
        assert!(attempted(5).is_none());
    }

    #[test]
    fn a_prune_is_held_by_cursors_of_this_log_that_are_still_somebodys() {
        let held = row().holds("ledger", "log").unwrap();
        assert_eq!((held.stream.as_deref(), held.position), (Some("ledger"), 7));
        assert_eq!(row().holds("ledger", "another"), None);
        assert_eq!(row().of_log("another").holds("ledger", "log"), None);
        let retired = |kind| StoredCursor {
            paused: Some(Pause {
                by: "anna".into(),
                since: Timestamp::EPOCH,
                kind,
            }),
            ..row().placed_at(2)
        };
        assert_eq!(retired(PauseKind::TakenOver).holds("ledger", "log"), None);
        let paused = retired(PauseKind::ByHand).holds("ledger", "log");
        assert_eq!(paused.map(|held| held.position), Some(2));
    }

    #[test]
    fn letters_are_counted_by_what_they_wait_for() {
        let letter = |sequence, state, key: Option<&str>, micros| {
            let parked_at = Timestamp::from_micros(micros).into();
            let letter = DeadLetter::set_aside(&[sequence], state, parked_at).unwrap();
            DeadLetter {
                key: key.map(str::to_owned),
                ..letter
            }
        };
        let letters = [
            letter(1, DeadLetterState::Skipped, None, 1),
            letter(2, DeadLetterState::Parked, Some("a"), 5),
            letter(3, DeadLetterState::Queued, Some("a"), 3),
        ];
        let counts = LetterCounts::of(&letters);
        assert_eq!((counts.parked, counts.skipped, counts.keys), (2, 1, 1));
        assert_eq!(counts.oldest_at, Some(Timestamp::from_micros(3)));
        assert_eq!(LetterCounts::of([]), LetterCounts::default());
    }
}

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

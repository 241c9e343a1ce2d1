//! What was appended so far.

use std::fmt;

use millstream::{Appended, AppendedOnce};
use serde::Serialize;

/// How many events and batches were appended, and where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    #[serde(flatten)]
    new: Counts,
    /// What was there already, under the same keys.
    #[serde(skip_serializing_if = "Counts::are_none")]
    repeated: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    events: u64,
    batches: u64,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, appended: Appended) {
        self.new.add(appended);
    }

    pub(crate) fn add_once(&mut self, once: AppendedOnce) {
        match once.is_repetition {
            true => self.repeated.add(once.appended),
            false => self.new.add(once.appended),
        }
    }

    /// How many events there were, new or not.
    pub(crate) fn events(&self) -> u64 {
        self.new.events + self.repeated.events
    }
}

impl Counts {
    fn add(&mut self, appended: Appended) {
        self.events += appended.committed_count as u64;
        self.batches += 1;
        self.first_sequence.get_or_insert(appended.first_sequence);
        self.last_sequence = Some(appended.last_sequence);
    }

    fn are_none(&self) -> bool {
        self.batches == 0
    }
}

/// `3 events in 2 batches, sequences 5 to 7; there already: 2 events in 1 batch, sequences 3 to 4`
impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.new)?;
        match self.repeated.are_none() {
            true => Ok(()),
            false => write!(formatter, "; there already: {}", self.repeated),
        }
    }
}

/// `3 events in 2 batches, sequences 5 to 7`
impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = counted(self.events, "event", "events");
        match (self.first_sequence, self.last_sequence) {
            (Some(first), Some(last)) => {
                let batches = counted(self.batches, "batch", "batches");
                write!(formatter, "{events} in {batches}, ")?;
                match first == last {
                    true => write!(formatter, "sequence {first}"),
                    false => write!(formatter, "sequences {first} to {last}"),
                }
            }
            _ => formatter.write_str("nothing"),
        }
    }
}

/// A number with its noun.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

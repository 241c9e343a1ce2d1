//! What was appended so far.

use std::fmt;

use millstream::Appended;
use serde::Serialize;

/// How many events and batches were appended, and where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) batches: u64,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, appended: Appended) {
        self.events += appended.committed_count as u64;
        self.batches += 1;
        self.first_sequence.get_or_insert(appended.first_sequence);
        self.last_sequence = Some(appended.last_sequence);
    }
}

/// `3 events in 2 batches, sequences 5 to 7`
impl fmt::Display for Tally {
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

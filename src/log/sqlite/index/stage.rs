//! The newest entries, in memory until they are spilled.

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;

/// The entries of the events after one sequence, up to and with another.
///
/// An ordered set of them would be searched for each new one, in memory that no processor has at hand. So they stand in a few
/// sorted parts, as they came: a part joins the one before it when that is not much larger.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Each is sorted, and has entries. Those of a part belong to later events than those of the parts before it.
    parts: Vec<Vec<Entry>>,
    covers: Range,
}

/// A part that has less than so many times the entries of the next one takes them in, so there are but a few.
const SMALLER_BY: usize = 2;

impl Stage {
    /// A stage that covers nothing, behind an event.
    pub(crate) fn behind(sequence: u64) -> Self {
        Self {
            parts: Vec::new(),
            covers: Range {
                after: sequence,
                through: sequence,
            },
        }
    }

    pub(crate) fn covers(&self) -> Range {
        self.covers
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    /// Adds the entries of the events that follow, up to `through`.
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>, through: u64) {
        debug_assert!(self.covers.through <= through, "the index follows the log");
        self.covers.through = through;
        let mut part: Vec<Entry> = entries.into_iter().collect();
        part.sort_unstable();
        // An event has a key once, however often it names it.
        part.dedup();
        while let Some(mut before) = self.parts.pop_if(|before| before.len() < SMALLER_BY * part.len()) {
            before.append(&mut part);
            // Two sorted halves are merged.
            before.sort();
            part = before;
        }
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// The sequences with this key in a range, sorted.
    pub(crate) fn sequences(&self, key: i64, range: Range) -> impl Iterator<Item = u64> {
        let first = range.after.saturating_add(1);
        self.parts.iter().flat_map(move |part| {
            let from = part.partition_point(|entry| (entry.key, entry.sequence) < (key, first));
            let is_found = move |entry: &&Entry| entry.key == key && entry.sequence <= range.through;
            part[from..]
                .iter()
                .take_while(is_found)
                .map(|entry| entry.sequence)
        })
    }

    /// All entries, sorted.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let mut all = self.parts.concat();
        all.sort();
        all
    }

    /// Lets go of what was spilled.
    pub(crate) fn spilled(&mut self, through: u64) {
        self.covers.after = through;
        self.parts.retain_mut(|part| {
            part.retain(|entry| entry.sequence > through);
            !part.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Batches of events, each with some keys, and now and then a spill of what lies a few events back.
        #[test]
        fn a_stage_shows_what_a_set_of_entries_shows(
            batches in vec((vec(vec(0_i64..5, 0..4), 1..4), prop::option::of(0_u64..6)), 0..60),
            range in (0_u64..150, 0_u64..150),
        ) {
            let mut stage = Stage::behind(0);
            let mut expected = BTreeSet::new();
            let mut through = 0;
            let mut after = 0;
            for (events, spill) in batches {
                let mut entries = Vec::new();
                for keys in events {
                    through += 1;
                    entries.extend(keys.into_iter().map(|key| Entry { key, sequence: through }));
                }
                expected.extend(entries.iter().copied());
                stage.extend(entries, through);
                if let Some(back) = spill {
                    after = through.saturating_sub(back).max(after);
                    stage.spilled(after);
                    expected.retain(|entry| entry.sequence > after);
                }
                prop_assert!(stage.parts.len() <= 10, "{:?}", stage.parts);
            }
            let range = Range { after: range.0, through: range.1 };
            prop_assert_eq!(stage.covers(), Range { after, through });
            prop_assert_eq!(stage.len(), expected.len());
            for key in 0..5 {
                let is_asked = |entry: &&Entry| {
                    entry.key == key && range.after < entry.sequence && entry.sequence <= range.through
                };
                let asked: Vec<u64> = expected.iter().filter(is_asked).map(|entry| entry.sequence).collect();
                prop_assert_eq!(stage.sequences(key, range).collect::<Vec<_>>(), asked);
            }
            prop_assert_eq!(stage.entries(), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn parts_stay_few_when_events_come_one_by_one() {
        let mut stage = Stage::behind(0);
        for sequence in 1..=10_000 {
            stage.extend(
                [Entry {
                    key: (sequence as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64),
                    sequence,
                }],
                sequence,
            );
            assert!(
                stage.parts.len() <= 14,
                "{} parts of {sequence} entries",
                stage.parts.len()
            );
        }
    }
}

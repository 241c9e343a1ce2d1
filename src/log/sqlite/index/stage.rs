//! The newest entries, in memory until they are spilled.

use std::collections::BTreeSet;
use std::mem;

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;

/// The entries of the events after one sequence, up to and with another.
#[derive(Debug)]
pub(crate) struct Stage {
    entries: BTreeSet<Entry>,
    covers: Range,
}

impl Stage {
    /// A stage that covers nothing, behind an event.
    pub(crate) fn behind(sequence: u64) -> Self {
        Self {
            entries: BTreeSet::new(),
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
        self.entries.len()
    }

    /// Adds the entries of the events that follow, up to `through`.
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>, through: u64) {
        debug_assert!(self.covers.through <= through, "the index follows the log");
        self.entries.extend(entries);
        self.covers.through = through;
    }

    /// The sequences with this key in a range, sorted.
    pub(crate) fn sequences(&self, key: i64, range: Range) -> impl Iterator<Item = u64> {
        let first = range.after.saturating_add(1);
        let entry = |sequence| Entry { key, sequence };
        // An empty range must not reach `BTreeSet::range`, which panics where the end is before the start.
        let found = (first <= range.through).then(|| self.entries.range(entry(first)..=entry(range.through)));
        found.into_iter().flatten().map(|entry| entry.sequence)
    }

    /// All entries, sorted.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().copied()
    }

    /// Lets go of what was spilled. The caller drops it where no lock is held.
    pub(crate) fn spilled(&mut self, through: u64) -> BTreeSet<Entry> {
        let all = mem::take(&mut self.entries);
        self.covers.after = through;
        let (spilled, left): (BTreeSet<Entry>, _) =
            all.into_iter().partition(|entry| entry.sequence <= through);
        self.entries = left;
        spilled
    }
}

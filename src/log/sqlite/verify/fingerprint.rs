//! Whether the entries of the index are those of the events, in little memory.
//!
//! Entries come in the order of the events on the one side and in the order of keys on the other. So the log is cut into
//! stretches, and for each the entries of both sides are added up: sums that differ say where to look closely. A sum is 64 bits
//! for a thousand sequences.

use std::collections::BTreeMap;

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;

/// How many sequences make a stretch.
const STRETCH: u64 = 1024;

/// The sums of the entries that the events make, less those that the index has.
#[derive(Default)]
pub(super) struct Fingerprint {
    sums: BTreeMap<u64, u64>,
}

impl Fingerprint {
    /// An event makes this entry.
    pub(super) fn expect(&mut self, entry: Entry) {
        let sum = self.sum(entry);
        *sum = sum.wrapping_add(mixed(entry));
    }

    /// The index has this entry.
    pub(super) fn find(&mut self, entry: Entry) {
        let sum = self.sum(entry);
        *sum = sum.wrapping_sub(mixed(entry));
    }

    /// The stretches on which the two sides differ, in order.
    pub(super) fn differences(&self) -> impl Iterator<Item = Range> {
        let differing = self.sums.iter().filter(|(_, sum)| **sum != 0);
        differing.map(|(stretch, _)| Range {
            after: stretch * STRETCH,
            through: (stretch + 1) * STRETCH,
        })
    }

    fn sum(&mut self, entry: Entry) -> &mut u64 {
        self.sums
            .entry(entry.sequence.saturating_sub(1) / STRETCH)
            .or_default()
    }
}

/// Spreads an entry over 64 bits, so that sums of other entries are other sums.
fn mixed(entry: Entry) -> u64 {
    let spread = |number: u64| {
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    };
    spread(spread(entry.key.cast_unsigned()).wrapping_add(entry.sequence))
}

/// The sequences about which the entries say nothing: without an event, or with one that cannot be read.
#[derive(Default)]
pub(super) struct Unknown(Vec<Range>);

impl Unknown {
    /// Adds a stretch behind those before.
    pub(super) fn add(&mut self, range: Range) {
        match self.0.last_mut() {
            Some(last) if last.through == range.after => last.through = range.through,
            _ => self.0.push(range),
        }
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        let behind = self.0.partition_point(|range| range.through < sequence);
        self.0.get(behind).is_some_and(|range| range.after < sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: i64, sequence: u64) -> Entry {
        Entry { key, sequence }
    }

    #[test]
    fn the_same_entries_in_another_order_leave_no_difference() {
        let entries: Vec<Entry> = (1..=5000).map(|n| entry(n as i64 * 7 % 13, n)).collect();
        let mut fingerprint = Fingerprint::default();
        entries.iter().for_each(|entry| fingerprint.expect(*entry));
        entries.iter().rev().for_each(|entry| fingerprint.find(*entry));
        assert_eq!(fingerprint.differences().count(), 0);
    }

    #[test]
    fn a_difference_names_its_stretch() {
        let around = |sequence| -> Vec<(u64, u64)> {
            let mut fingerprint = Fingerprint::default();
            fingerprint.expect(entry(1, 3));
            fingerprint.find(entry(1, 3));
            fingerprint.expect(entry(2, sequence));
            fingerprint.find(entry(3, sequence));
            let ranges = fingerprint.differences();
            ranges.map(|range| (range.after, range.through)).collect()
        };
        assert_eq!(around(1), [(0, 1024)]);
        assert_eq!(around(1024), [(0, 1024)]);
        assert_eq!(around(1025), [(1024, 2048)]);
    }

    #[test]
    fn what_is_unknown_is_known_to_the_sequence() {
        let mut unknown = Unknown::default();
        for (after, through) in [(2, 4), (4, 5), (8, 9)] {
            unknown.add(Range { after, through });
        }
        let found: Vec<u64> = (0..12).filter(|sequence| unknown.contains(*sequence)).collect();
        assert_eq!(found, [3, 4, 5, 9]);
        assert_eq!(unknown.0.len(), 2);
    }
}

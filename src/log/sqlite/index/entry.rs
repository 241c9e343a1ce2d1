//! An entry of the index, and how entries are packed into a block.

/// A key, and an event that has it. Entries are ordered by key, then by sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: i64,
    pub(crate) sequence: u64,
}

/// How many entries a block holds: as many as fit a page of SQLite together with the row around them.
pub(crate) const BLOCK_ENTRIES_MAX: usize = 250;
const ENTRY_BYTES: usize = 16;

/// The key of a tag: 64-bit FNV-1a of its UTF-8 bytes. Part of the file format.
pub(crate) fn tag_key(tag: &str) -> i64 {
    hash(tag.as_bytes())
}

pub(super) fn hash(bytes: &[u8]) -> i64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}

/// Packs entries: for each its key and its sequence, little-endian. Part of the file format.
pub(super) fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut block = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        block.extend_from_slice(&entry.key.to_le_bytes());
        block.extend_from_slice(&entry.sequence.to_le_bytes());
    }
    block
}

/// The entries of a block, read where they stand.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a>(&'a [[u8; ENTRY_BYTES]]);

impl<'a> Block<'a> {
    /// Nothing, when no whole number of entries stands there.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        match bytes.as_chunks() {
            (entries, []) => Some(Self(entries)),
            _ => None,
        }
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(self, index: usize) -> Entry {
        let [k0, k1, k2, k3, k4, k5, k6, k7, s0, s1, s2, s3, s4, s5, s6, s7] = self.0[index];
        Entry {
            key: i64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        }
    }

    /// The entries from the first that is not before `from`.
    pub(super) fn from(self, from: Entry) -> impl Iterator<Item = Entry> + use<'a> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle) < from {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..self.len()).map(move |index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_keys_never_change() {
        assert_eq!(tag_key(""), 0xcbf2_9ce4_8422_2325_u64.cast_signed());
        assert_eq!(tag_key("a"), 0xaf63_dc4c_8601_ec8c_u64.cast_signed());
        assert_eq!(tag_key("foobar"), 0x8594_4171_f739_67e8_u64.cast_signed());
    }

    #[test]
    fn a_block_is_searched_where_it_stands() {
        let entry = |key, sequence| Entry { key, sequence };
        let entries = [entry(-7, 3), entry(-7, 9), entry(2, 1), entry(i64::MAX, u64::MAX)];
        let bytes = pack(&entries);
        let block = Block::new(&bytes).unwrap();
        assert_eq!(
            bytes[..16],
            [249, 255, 255, 255, 255, 255, 255, 255, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        for (from, expected) in [
            (entry(i64::MIN, 0), &entries[..]),
            (entry(-7, 3), &entries[..]),
            (entry(-7, 4), &entries[1..]),
            (entry(2, 2), &entries[3..]),
        ] {
            assert_eq!(block.from(from).collect::<Vec<_>>(), expected);
        }
        assert!(Block::new(&bytes[..17]).is_none(), "half an entry");
    }
}

//! A table in parts, so that none gets large enough for its growth to hold up a commit.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::bus::place::Word;

pub(super) struct Sharded<K, V> {
    shards: Box<[Shard<K, V>]>,
    len: usize,
}

type Shard<K, V> = HashMap<Key<K>, V, BuildHasherDefault<Ready>>;

const SHARDS: usize = 64;

impl<K: Word, V> Sharded<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        self.shards[shard(key)].get(&Key(key))
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.shards[shard(key)].get_mut(&Key(key))
    }

    pub(super) fn for_each(&self, take: impl FnMut(&V)) {
        self.shards.iter().flat_map(HashMap::values).for_each(take);
    }

    /// Adds what is not there yet.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let earlier = self.shards[shard(key)].insert(Key(key), value);
        assert!(earlier.is_none(), "what is there is changed in place");
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: K) {
        if self.shards[shard(key)].remove(&Key(key)).is_some() {
            self.len -= 1;
        }
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashMap::default()).collect(),
            len: 0,
        }
    }
}

/// The tables use the low and the highest bits of a hash, so the shard comes from those between.
fn shard(key: impl Word) -> usize {
    (key.hash() >> 40) as usize % SHARDS
}

/// A key that is a hash already.
#[derive(PartialEq, Eq)]
struct Key<K>(K);

impl<K: Word> Hash for Key<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash());
    }
}

/// Takes a hash as it is.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

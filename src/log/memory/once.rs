//! Idempotency keys of the log in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::StorageError;
#[cfg(feature = "sqlite")]
use crate::log::memory::MemoryReader;
use crate::log::memory::MemoryWriter;
#[cfg(feature = "sqlite")]
use crate::log::once::{KeyReader, NamedKey};
use crate::log::once::{KeyWriter, StoredKey};
#[cfg(feature = "sqlite")]
use crate::log::page::Range;

/// The keys, and the same by the last event of their batch, so that pruning finds them.
#[derive(Default)]
pub(super) struct Keys {
    by_key: HashMap<Arc<str>, StoredKey>,
    by_end: BTreeMap<u64, Arc<str>>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    fn get(&self, key: &str) -> Option<StoredKey> {
        self.by_key.get(key).copied()
    }

    fn put(&mut self, key: Arc<str>, stored: StoredKey) {
        self.by_end.insert(stored.last_sequence, Arc::clone(&key));
        self.by_key.insert(key, stored);
    }

    /// Forgets those of the batches up to here.
    pub(super) fn remove_through(&mut self, through: u64) {
        let kept = self.by_end.split_off(&through.saturating_add(1));
        for key in std::mem::replace(&mut self.by_end, kept).into_values() {
            self.by_key.remove(&key);
        }
    }

    /// Takes those of a transaction that is committed.
    pub(super) fn take(&mut self, staged: &mut Self) {
        self.by_end.append(&mut staged.by_end);
        self.by_key.extend(staged.by_key.drain());
    }
}

impl KeyWriter for MemoryWriter {
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError> {
        if let Some(staged) = self.staged.keys.get(key) {
            return Ok(Some(staged));
        }
        let committed = self.shared.lock().keys.get(key);
        let pruned_through = self.staged.pruned_through();
        Ok(committed.filter(|stored| stored.last_sequence > pruned_through))
    }

    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError> {
        self.staged.keys.put(key.into(), *stored);
        Ok(())
    }
}

#[cfg(feature = "sqlite")]
impl KeyReader for MemoryReader {
    fn idempotency_keys(&self, range: Range) -> Result<Vec<NamedKey>, StorageError> {
        let contents = self.shared.lock();
        let keys = &contents.keys;
        let found = keys.by_end.range(range.after + 1..).filter_map(|(_, key)| {
            let stored = keys.get(key)?;
            let key = (**key).into();
            Some(NamedKey { key, stored })
        });
        let begins =
            |named: &NamedKey| (range.after + 1..=range.through).contains(&named.stored.first_sequence);
        Ok(found
            .skip_while(|named| named.stored.first_sequence <= range.after)
            .take_while(begins)
            .collect())
    }
}

//! The documents of a view that are in memory: bounded, and with what has to be written yet. Pure.
//!
//! A hand goes round over the slots and takes the first that nobody used since it came by last (CLOCK), so neither a hit
//! nor an eviction depends on how many there are.

use std::collections::HashMap;
use std::sync::Arc;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheLimits {
    pub(crate) documents_max: usize,
    pub(crate) bytes_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            documents_max: 20_000,
            bytes_max: 32 << 20,
        }
    }
}

pub(crate) struct Cache<D> {
    limits: CacheLimits,
    by_id: HashMap<Arc<str>, usize>,
    slots: Vec<Slot<D>>,
    free: Vec<usize>,
    /// Where the next eviction begins to look.
    hand: usize,
    /// Slots that were changed since they were written. A slot may be in it that was evicted since.
    changed: Vec<usize>,
    bytes: usize,
}

struct Slot<D> {
    id: Arc<str>,
    /// Nothing: there is no such document.
    document: Option<D>,
    /// As JSON, when it was read or written last.
    bytes: usize,
    is_changed: bool,
    was_used: bool,
    is_free: bool,
}

/// What had to make room.
pub(crate) struct Evicted<D> {
    pub(crate) id: Arc<str>,
    pub(crate) document: Option<D>,
    /// It has to be written.
    pub(crate) is_changed: bool,
}

impl<D> Cache<D> {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            by_id: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            changed: Vec::new(),
            bytes: 0,
        }
    }

    /// Where a document is, if it is known whether it is there.
    pub(crate) fn find(&mut self, id: &str) -> Option<usize> {
        let slot = *self.by_id.get(id)?;
        self.slots[slot].was_used = true;
        Some(slot)
    }

    /// What has to go before there is room for one more. Called until there is nothing.
    pub(crate) fn make_room(&mut self) -> Option<Evicted<D>> {
        match self.by_id.len() >= self.limits.documents_max || self.bytes > self.limits.bytes_max {
            true => self.evict(),
            false => None,
        }
    }

    /// What has to go because the documents have grown: all but one at the most.
    pub(crate) fn shrink(&mut self) -> Option<Evicted<D>> {
        match self.by_id.len() > 1 && self.bytes > self.limits.bytes_max {
            true => self.evict(),
            false => None,
        }
    }

    fn evict(&mut self) -> Option<Evicted<D>> {
        // After one round without use every slot is free, or found.
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.is_free || std::mem::take(&mut slot.was_used) {
                continue;
            }
            slot.is_free = true;
            let evicted = Evicted {
                id: Arc::clone(&slot.id),
                document: slot.document.take(),
                is_changed: std::mem::take(&mut slot.is_changed),
            };
            self.bytes -= std::mem::take(&mut slot.bytes);
            self.by_id.remove(&evicted.id);
            self.free.push(at);
            return Some(evicted);
        }
        None
    }

    /// Takes in what was read: a document and its size, or that there is none. The id must not be there yet.
    pub(crate) fn insert(&mut self, id: &str, document: Option<D>, bytes: usize) -> usize {
        let slot = Slot {
            id: Arc::from(id),
            document,
            bytes: bytes + id.len(),
            is_changed: false,
            was_used: true,
            is_free: false,
        };
        self.bytes += slot.bytes;
        let key = Arc::clone(&slot.id);
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.by_id.insert(key, at);
        at
    }

    /// Makes something else of a document. After an error it is gone, and the cache with it is to be thrown away.
    pub(crate) fn change<E>(
        &mut self,
        at: usize,
        change: impl FnOnce(Option<D>) -> Result<Option<D>, E>,
    ) -> Result<(), E> {
        let slot = &mut self.slots[at];
        let before = slot.document.take();
        let was_there = before.is_some();
        slot.document = change(before)?;
        if !slot.is_changed && (was_there || slot.document.is_some()) {
            slot.is_changed = true;
            self.changed.push(at);
        }
        Ok(())
    }

    /// Gives every changed document to be written, in the order of the ids, and keeps how large each is then.
    pub(crate) fn write_back<E>(
        &mut self,
        mut write: impl FnMut(&str, Option<&D>) -> Result<usize, E>,
    ) -> Result<(), E> {
        let mut changed = std::mem::take(&mut self.changed);
        // Neighbours in the table are written one after the other.
        changed.sort_unstable_by(|one, other| self.slots[*one].id.cmp(&self.slots[*other].id));
        for at in changed.drain(..) {
            let slot = &mut self.slots[at];
            if !std::mem::take(&mut slot.is_changed) {
                continue;
            }
            let bytes = slot.id.len() + write(&slot.id, slot.document.as_ref())?;
            self.bytes = self.bytes - slot.bytes + bytes;
            slot.bytes = bytes;
        }
        self.changed = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A table of paper.
    #[derive(Default)]
    struct Paper {
        rows: BTreeMap<String, u64>,
        writes: usize,
    }

    impl Paper {
        fn write(&mut self, id: &str, document: Option<&u64>) -> usize {
            self.writes += 1;
            match document {
                Some(document) => self.rows.insert(id.to_owned(), *document),
                None => self.rows.remove(id),
            };
            8
        }
    }

    fn add(cache: &mut Cache<u64>, paper: &mut Paper, id: &str, change: fn(Option<u64>) -> Option<u64>) {
        let at = cache.find(id).unwrap_or_else(|| {
            while let Some(evicted) = cache.make_room() {
                if evicted.is_changed {
                    paper.write(&evicted.id, evicted.document.as_ref());
                }
            }
            cache.insert(id, paper.rows.get(id).copied(), 8)
        });
        cache
            .change(at, |document| Ok::<_, ()>(change(document)))
            .unwrap();
    }

    fn write_back(cache: &mut Cache<u64>, paper: &mut Paper) {
        cache
            .write_back(|id, document| Ok::<_, ()>(paper.write(id, document)))
            .unwrap();
    }

    #[test]
    fn a_document_that_many_events_change_is_written_once() {
        let (mut cache, mut paper) = (Cache::new(CacheLimits::default()), Paper::default());
        for _ in 0..100 {
            add(&mut cache, &mut paper, "a", |document| {
                Some(document.unwrap_or(0) + 1)
            });
            add(&mut cache, &mut paper, "absent", |_| None);
        }
        write_back(&mut cache, &mut paper);
        write_back(&mut cache, &mut paper);
        assert_eq!((paper.writes, paper.rows["a"]), (1, 100));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let limits = CacheLimits {
            documents_max: 3,
            bytes_max: usize::MAX,
        };
        let (mut cache, mut paper) = (Cache::new(limits), Paper::default());
        for number in 0..50 {
            add(&mut cache, &mut paper, "used", |_| Some(1));
            add(&mut cache, &mut paper, &number.to_string(), |_| Some(1));
        }
        assert!(cache.find("used").is_some());
        assert!(cache.find("1").is_none());
        assert_eq!(cache.by_id.len(), 3);
    }

    #[test]
    fn documents_that_have_grown_make_room_until_one_is_left() {
        let limits = CacheLimits {
            documents_max: 100,
            bytes_max: 20,
        };
        let mut cache = Cache::<u64>::new(limits);
        for id in ["a", "b"] {
            let at = cache.insert(id, Some(1), 8);
            cache.change(at, Ok::<_, ()>).unwrap();
        }
        assert!(cache.make_room().is_none(), "18 bytes fit");
        cache.write_back(|_, _| Ok::<_, ()>(1_000)).unwrap();
        let evicted = cache.shrink().unwrap();
        assert!(!evicted.is_changed, "it was written");
        assert!(cache.shrink().is_none(), "one stays, whatever its size");
        assert_eq!(cache.by_id.len(), 1);
    }

    proptest! {
        /// Whatever is evicted when, the table holds in the end what a plain map holds.
        #[test]
        fn cache_and_table_together_are_a_map(
            documents_max in 1_usize..6,
            bytes_max in 0_usize..60,
            steps in prop::collection::vec((0_u8..8, 0_u8..4), 0..200),
        ) {
            let mut cache = Cache::new(CacheLimits { documents_max, bytes_max });
            let (mut paper, mut map) = (Paper::default(), BTreeMap::new());
            for (id, what) in steps {
                let id = id.to_string();
                match what {
                    0 => {
                        add(&mut cache, &mut paper, &id, |_| None);
                        map.remove(&id);
                    }
                    1 => {
                        write_back(&mut cache, &mut paper);
                        while let Some(evicted) = cache.shrink() {
                            prop_assert!(!evicted.is_changed);
                        }
                        prop_assert_eq!(&paper.rows, &map);
                    }
                    _ => {
                        add(&mut cache, &mut paper, &id, |document| Some(document.unwrap_or(0) + 1));
                        *map.entry(id).or_insert(0) += 1;
                    }
                }
                prop_assert!(cache.by_id.len() <= documents_max);
                let bytes: usize = cache.slots.iter().map(|slot| slot.bytes).sum();
                prop_assert_eq!(cache.bytes, bytes);
            }
            write_back(&mut cache, &mut paper);
            prop_assert_eq!(&paper.rows, &map);
        }
    }
}

//! Which streams a batch can concern, without asking each of them.
//!
//! A filter is found through one of its tags, or else through each of its types; only filters without either are asked
//! about every batch. The index may name a stream too many, never one too few: the query itself decides.

use std::collections::{HashMap, HashSet};

use crate::event::batch::CommittedBatch;
use crate::event::query::{EventFilter, EventQuery};

#[derive(Default)]
pub(super) struct QueryIndex {
    by_tag: HashMap<String, HashSet<usize>>,
    by_type: HashMap<String, HashSet<usize>>,
    /// Streams with a filter that has neither types nor tags.
    unindexed: HashSet<usize>,
    /// The candidates that the current batch has named already; kept for its allocation.
    seen: HashSet<usize>,
}

/// Where a filter is found.
enum Place<'a> {
    Tag(&'a str),
    Types(Vec<&'a str>),
    Anywhere,
    Nowhere,
}

fn place(filter: &EventFilter) -> Place<'_> {
    match (filter.tag_set(), filter.type_set()) {
        (Some(tags), _) => tags.first().map_or(Place::Nowhere, |tag| Place::Tag(tag)),
        (None, Some(types)) => Place::Types(types.iter().map(String::as_str).collect()),
        (None, None) => Place::Anywhere,
    }
}

impl QueryIndex {
    pub(super) fn insert(&mut self, key: usize, query: &EventQuery) {
        for filter in query.filters() {
            match place(filter) {
                Place::Tag(tag) => add(&mut self.by_tag, tag, key),
                Place::Types(types) => {
                    for name in types {
                        add(&mut self.by_type, name, key);
                    }
                }
                Place::Anywhere => {
                    self.unindexed.insert(key);
                }
                Place::Nowhere => {}
            }
        }
    }

    /// Forgets a stream, which is given with the query that it was inserted with.
    pub(super) fn remove(&mut self, key: usize, query: &EventQuery) {
        for filter in query.filters() {
            match place(filter) {
                Place::Tag(tag) => take(&mut self.by_tag, tag, key),
                Place::Types(types) => {
                    for name in types {
                        take(&mut self.by_type, name, key);
                    }
                }
                Place::Anywhere => {
                    self.unindexed.remove(&key);
                }
                Place::Nowhere => {}
            }
        }
    }

    /// Names every stream whose query may select an event of the batch, each once.
    pub(super) fn for_each_candidate(&mut self, batch: &CommittedBatch, mut name: impl FnMut(usize)) {
        self.unindexed.iter().copied().for_each(&mut name);
        if self.by_tag.is_empty() && self.by_type.is_empty() {
            return;
        }
        self.seen.clear();
        for event in &batch.events {
            let by_type = self.by_type.get(&*event.event_type);
            let by_tag = event.tags().filter_map(|tag| self.by_tag.get(tag));
            for &key in by_type.into_iter().chain(by_tag).flatten() {
                if !self.unindexed.contains(&key) && self.seen.insert(key) {
                    name(key);
                }
            }
        }
    }
}

fn add(index: &mut HashMap<String, HashSet<usize>>, word: &str, key: usize) {
    index.entry(word.to_owned()).or_default().insert(key);
}

fn take(index: &mut HashMap<String, HashSet<usize>>, word: &str, key: usize) {
    if let Some(keys) = index.get_mut(word) {
        keys.remove(&key);
        if keys.is_empty() {
            index.remove(word);
        }
    }
}

/// Which of the queries select an event of the batch, found as the bus finds them; for the proofs.
#[cfg(feature = "internals")]
pub(crate) fn select_by_index(queries: &[EventQuery], batch: &CommittedBatch) -> Vec<usize> {
    let mut index = QueryIndex::default();
    for (key, query) in queries.iter().enumerate() {
        index.insert(key, query);
        // Inserted and removed beside it: what stays behind would be found.
        index.insert(queries.len() + key, query);
    }
    for (key, query) in queries.iter().enumerate() {
        index.remove(queries.len() + key, query);
    }
    let mut selected = Vec::new();
    index.for_each_candidate(batch, |key| {
        if super::selects(&queries[key], batch) {
            selected.push(key);
        }
    });
    selected.sort_unstable();
    selected
}

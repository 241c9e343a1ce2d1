//! All streams of a store, and the names that are taken (D6).

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::event::query::EventQuery;
use crate::log::cursor::RollCall;
use crate::log::steer::Word;
use crate::stream::core::StreamCore;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::stream::reservation::Reservations;
use crate::stream::steering;
use crate::sync::Mutex;

#[derive(Default)]
struct Contents {
    next_id: u64,
    /// In the order of their registration. A stream that stopped with an error stays until its handle is dropped or its
    /// name is registered again.
    streams: BTreeMap<u64, Arc<StreamCore>>,
    /// The taken names, with the stream once there is one.
    names: HashMap<Arc<str>, Option<u64>>,
    /// What was said to names that are taken by streams which are not there yet.
    missed: HashMap<Arc<str>, Word>,
    /// The newest stream of each name, whether it runs or has stopped.
    by_name: HashMap<Arc<str>, u64>,
}

pub(crate) struct Registry {
    contents: Mutex<Contents>,
    /// The queries of all streams, by the hash of their text: streams that ask the same share one, and the memory that
    /// asking it touches.
    queries: Mutex<HashMap<u64, Shared>>,
    texts: RandomState,
    /// The names that are being registered in several steps.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) reservations: Arc<Reservations>,
}

struct Shared {
    query: Arc<EventQuery>,
    streams: usize,
}

/// The right to a name. It ends when this is dropped.
pub(crate) struct NameClaim {
    registry: Arc<Registry>,
    name: Arc<str>,
}

/// What became of the claim to a name.
pub(crate) enum Claim {
    Granted(NameClaim),
    /// The owner is on its way out: wait for it and try again.
    Ending(Arc<StreamCore>),
    Refused,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            contents: Mutex::new(Contents::default()),
            queries: Mutex::new(HashMap::new()),
            texts: RandomState::new(),
            #[cfg(any(feature = "postgres", feature = "sqlite"))]
            reservations: Reservations::new(),
        }
    }

    /// A query that is shared with the streams that ask the same, until `unshare`.
    pub(crate) fn share(&self, query: EventQuery) -> Arc<EventQuery> {
        let hash = self.texts.hash_one(query.canonical_text());
        let query = Arc::new(query);
        let mut queries = self.queries.lock();
        let shared = queries.entry(hash).or_insert_with(|| Shared {
            query: Arc::clone(&query),
            streams: 0,
        });
        if *shared.query != *query {
            return query;
        }
        shared.streams += 1;
        Arc::clone(&shared.query)
    }

    pub(crate) fn unshare(&self, query: &Arc<EventQuery>) {
        let hash = self.texts.hash_one(query.canonical_text());
        let mut queries = self.queries.lock();
        if let Some(shared) = queries.get_mut(&hash)
            && Arc::ptr_eq(&shared.query, query)
        {
            shared.streams -= 1;
            if shared.streams == 0 {
                queries.remove(&hash);
            }
        }
    }

    /// Claims a name for a durable stream.
    pub(crate) fn claim(self: &Arc<Self>, name: &Arc<str>) -> Claim {
        let mut contents = self.contents.lock();
        match contents.names.get(name) {
            None => {}
            Some(None) => return Claim::Refused,
            Some(Some(id)) => {
                let owner = contents.streams.get(id).map(Arc::clone);
                drop(contents);
                return match owner {
                    Some(owner) if owner.gate.closed().is_some() => Claim::Ending(owner),
                    _ => Claim::Refused,
                };
            }
        }
        contents.names.insert(Arc::clone(name), None);
        let stopped = contents.by_name.remove(name);
        let forgotten = stopped.and_then(|id| contents.streams.remove(&id));
        drop(contents);
        drop(forgotten);
        Claim::Granted(NameClaim {
            registry: Arc::clone(self),
            name: Arc::clone(name),
        })
    }

    pub(crate) fn next_id(&self) -> u64 {
        let mut contents = self.contents.lock();
        contents.next_id += 1;
        contents.next_id
    }

    /// Adds a stream, and gives what was said to it while it was registered.
    pub(crate) fn add(&self, core: &Arc<StreamCore>) -> Option<Word> {
        let mut contents = self.contents.lock();
        contents.streams.insert(core.id, Arc::clone(core));
        let name = core.name.as_ref()?;
        contents.names.insert(Arc::clone(name), Some(core.id));
        contents.by_name.insert(Arc::clone(name), core.id);
        contents.missed.remove(name)
    }

    /// Passes a word on to the stream of its name, if one runs here. A stream that is just being registered is told then:
    /// what it read of its row may be older.
    pub(crate) fn tell(&self, word: Word) {
        let mut contents = self.contents.lock();
        let core = match contents.names.get(&word.name) {
            Some(Some(id)) => contents.streams.get(id).map(Arc::clone),
            Some(None) => {
                contents.missed.insert(Arc::clone(&word.name), word);
                return;
            }
            None => None,
        };
        drop(contents);
        if let Some(core) = core {
            core.hear(word);
        }
    }

    /// Passes on to each stream that runs here what the rows of all say to it.
    pub(crate) fn tell_all(&self, roll_call: &RollCall) {
        let names: Vec<(Arc<str>, Option<Arc<StreamCore>>)> = {
            let contents = self.contents.lock();
            let streams = |id: &u64| contents.streams.get(id).map(Arc::clone);
            let names = contents.names.iter();
            names
                .map(|(name, id)| (Arc::clone(name), id.as_ref().and_then(streams)))
                .collect()
        };
        for (name, core) in names {
            let word = match core {
                Some(core) => core.word(&name, roll_call),
                None => Some(steering::find(&name, None, roll_call)),
            };
            if let Some(word) = word {
                self.tell(word);
            }
        }
    }

    /// The newest stream of a name, whether it runs or has stopped with an error.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<StreamCore>> {
        let contents = self.contents.lock();
        let id = contents.by_name.get(name)?;
        contents.streams.get(id).map(Arc::clone)
    }

    pub(crate) fn forget(&self, id: u64) {
        let mut contents = self.contents.lock();
        let forgotten = contents.streams.remove(&id);
        let name = forgotten.as_ref().and_then(|core| core.name.as_ref());
        if let Some(name) = name.filter(|name| contents.by_name.get(*name) == Some(&id)) {
            contents.by_name.remove(name);
        }
        drop(contents);
        drop(forgotten);
    }

    /// Lets go of all streams, those included that stopped with an error: the store is gone.
    pub(crate) fn clear(&self) {
        let mut contents = self.contents.lock();
        contents.by_name.clear();
        let streams = std::mem::take(&mut contents.streams);
        drop(contents);
        drop(streams);
    }

    pub(crate) fn all(&self) -> Vec<Arc<StreamCore>> {
        self.contents.lock().streams.values().cloned().collect()
    }

    /// The durable stream of this name, if it runs here.
    pub(crate) fn running(&self, name: &str) -> Option<Arc<StreamCore>> {
        let contents = self.contents.lock();
        let id = contents.by_name.get(name)?;
        let core = contents.streams.get(id).map(Arc::clone);
        drop(contents);
        core.filter(|core| core.gate.closed().is_none() && !core.stands_by())
    }

    /// The next streams in turn, all of them after enough calls. `after` says where the turn is, 0 at first.
    pub(crate) fn next_in_turn(&self, after: &mut u64, count_max: usize) -> Vec<Arc<StreamCore>> {
        let contents = self.contents.lock();
        let streams = contents.streams.range(*after + 1..).take(count_max);
        let turn: Vec<_> = streams.map(|(_, core)| Arc::clone(core)).collect();
        drop(contents);
        *after = match turn.last() {
            Some(last) if turn.len() == count_max => last.id,
            _ => 0,
        };
        turn
    }
}

impl Drop for NameClaim {
    fn drop(&mut self) {
        let mut contents = self.registry.contents.lock();
        contents.names.remove(&self.name);
        contents.missed.remove(&self.name);
    }
}

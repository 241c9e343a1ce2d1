//! Which streams an event can concern, without asking each of them.
//!
//! A stream is put where the fewest others are of all the places where its filters can be found, so that places which
//! tell streams apart fill up, and those that do not stay short. An event says its words, and whoever sits at their places
//! is asked. The index may name a stream too many, never one too few: the query itself decides.
//!
//! Of a payload only those parts are looked at to which a path leads that some stream asked for, for this type or for
//! all.

use std::collections::BTreeSet;
#[cfg(feature = "internals")]
use std::collections::HashMap;

use serde_json::Value;

#[cfg(feature = "internals")]
use crate::bus::place;
use crate::bus::place::{Path, Place, Routes, Spot, Words};
use crate::bus::sharded::Sharded;
use crate::event::batch::CommittedBatch;
use crate::event::matching::Scalar;
#[cfg(feature = "internals")]
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;

#[derive(Default)]
pub(super) struct QueryIndex {
    seats: Sharded<Place, Seats>,
    /// How many streams sit at places that an event is led to through this path.
    paths: Sharded<Path, usize>,
    /// Places of the current batch where nobody is left to be asked.
    exhausted: Vec<Place>,
}

/// Where a stream was put, to find it again when it leaves.
#[derive(Default)]
pub(super) struct Placement {
    places: Box<[Place]>,
    paths: Box<[Path]>,
}

/// What became of asking a stream about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It need not be asked again about this batch.
    Done,
    NotSelected,
}

/// Those who sit at one place. Most places have one stream, and a set does not stall when it grows.
enum Seats {
    One(usize),
    Many(BTreeSet<usize>),
}

/// A place remembered as exhausted has more streams than this; so few are asked as fast as the place is looked up.
const FEW: usize = 4;
/// So many exhausted places are remembered: a batch with more of them is asked a little more often.
const EXHAUSTED_MAX: usize = 8;

impl QueryIndex {
    /// Puts a stream where its filters are found.
    pub(super) fn insert(&mut self, key: usize, filters: Vec<Routes>) -> Placement {
        let mut places = Vec::with_capacity(filters.len());
        let mut paths = Vec::new();
        for routes in filters {
            for spot in self.choose(routes) {
                match self.seats.get_mut(spot.place) {
                    Some(seats) => seats.insert(key),
                    None => self.seats.insert(spot.place, Seats::One(key)),
                }
                for &path in &spot.paths {
                    match self.paths.get_mut(path) {
                        Some(count) => *count += 1,
                        None => self.paths.insert(path, 1),
                    }
                }
                places.push(spot.place);
                paths.extend(spot.paths);
            }
        }
        Placement {
            places: places.into(),
            paths: paths.into(),
        }
    }

    /// Forgets a stream, which is given with the placement that it was inserted with.
    pub(super) fn remove(&mut self, key: usize, placement: &Placement) {
        for &place in &placement.places {
            if self.seats.get_mut(place).is_some_and(|seats| seats.remove(key)) {
                self.seats.remove(place);
            }
        }
        for &path in &placement.paths {
            if let Some(count) = self.paths.get_mut(path) {
                *count -= 1;
                if *count == 0 {
                    self.paths.remove(path);
                }
            }
        }
    }

    /// The route to a filter with the fewest streams beside it, and its spots.
    fn choose(&self, routes: Routes) -> Vec<Spot> {
        let chosen = routes.into_iter().map(|route| {
            let mut neighbours = 0;
            let mut spots = Vec::with_capacity(route.len());
            for part in route {
                let fewest = part.into_iter().min_by_key(|spot| self.crowd(spot.place));
                neighbours += fewest.as_ref().map_or(0, |spot| self.crowd(spot.place));
                spots.extend(fewest);
            }
            (neighbours, spots)
        });
        let fewest = chosen.min_by_key(|(neighbours, _)| *neighbours);
        fewest.map(|(_, spots)| spots).unwrap_or_default()
    }

    fn crowd(&self, place: Place) -> usize {
        self.seats.get(place).map_or(0, Seats::len)
    }

    /// Whether some stream asks for a part of payloads.
    pub(super) fn looks_into_payloads(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Whether some stream asks for a part of this event's payload.
    pub(super) fn looks_into(&self, words: &Words, event: &EventRecord) -> bool {
        self.roots(words, event)
            .any(|root| self.paths.get(root).is_some())
    }

    /// Asks every stream whose query may select an event of the batch, about that event.
    pub(super) fn for_each_candidate(
        &mut self,
        words: &Words,
        batch: &CommittedBatch,
        mut ask: impl FnMut(usize, &EventRecord) -> Asked,
    ) {
        if self.seats.is_empty() {
            return;
        }
        let mut exhausted = std::mem::take(&mut self.exhausted);
        exhausted.clear();
        for event in &batch.events {
            if event.fault().is_some() {
                // What its payload would say is not known, so everybody is asked.
                self.seats.for_each(|seats| {
                    seats.ask(|key| ask(key, event));
                });
                continue;
            }
            self.for_each_word(words, event, |place| {
                let Some(seats) = self.seats.get(place) else {
                    return;
                };
                if exhausted.contains(&place) {
                    return;
                }
                let is_left = seats.ask(|key| ask(key, event));
                if !is_left && seats.len() > FEW && exhausted.len() < EXHAUSTED_MAX {
                    exhausted.push(place);
                }
            });
        }
        self.exhausted = exhausted;
    }

    /// The words that an event says, as far as anybody listens.
    fn for_each_word(&self, words: &Words, event: &EventRecord, mut say: impl FnMut(Place)) {
        say(Place::ANYWHERE);
        say(words.event_type(&event.event_type));
        for tag in event.tags() {
            say(words.tag(tag));
        }
        if !self.looks_into_payloads() {
            return;
        }
        for root in self.roots(words, event) {
            if self.paths.get(root).is_some()
                && let Some(payload) = event.payload.parsed()
            {
                self.walk(words, root, payload, &mut say);
            }
        }
    }

    fn roots<'a>(&self, words: &'a Words, event: &'a EventRecord) -> impl Iterator<Item = Path> + use<'a> {
        let scopes = [Some(&*event.event_type), None];
        scopes.into_iter().map(|scope| words.root(scope))
    }

    /// The scalars below a path that leads somewhere.
    fn walk(&self, words: &Words, path: Path, value: &Value, say: &mut impl FnMut(Place)) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    let path = words.member(path, key);
                    if self.paths.get(path).is_some() {
                        self.walk(words, path, value, say);
                    }
                }
            }
            Value::Array(elements) => {
                let path = words.element(path);
                if self.paths.get(path).is_some() {
                    for value in elements {
                        self.walk(words, path, value, say);
                    }
                }
            }
            _ => {
                if let Some(scalar) = Scalar::of(value) {
                    say(words.scalar(path, scalar));
                }
            }
        }
    }
}

impl Seats {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(keys) => keys.len(),
        }
    }

    fn insert(&mut self, key: usize) {
        match self {
            Self::One(sitting) if *sitting == key => {}
            Self::One(sitting) => *self = Self::Many(BTreeSet::from([*sitting, key])),
            Self::Many(keys) => {
                keys.insert(key);
            }
        }
    }

    /// Takes a stream away, and says whether nobody is left.
    fn remove(&mut self, key: usize) -> bool {
        match self {
            Self::One(sitting) => *sitting == key,
            Self::Many(keys) => {
                keys.remove(&key);
                keys.is_empty()
            }
        }
    }

    /// Asks each, and says whether somebody is left to be asked again.
    fn ask(&self, mut ask: impl FnMut(usize) -> Asked) -> bool {
        match self {
            Self::One(key) => ask(*key) == Asked::NotSelected,
            Self::Many(keys) => keys
                .iter()
                .fold(false, |is_left, &key| (ask(key) == Asked::NotSelected) | is_left),
        }
    }
}

/// Which of the queries select an event of the batch, found as the bus finds them; for the proofs.
///
/// Other streams with the same queries join before them, between them and after them, and leave before the batch comes.
#[cfg(feature = "internals")]
pub(crate) fn select_by_index(queries: &[EventQuery], batch: &CommittedBatch) -> Vec<usize> {
    let words = Words::default();
    let mut index = QueryIndex::default();
    let mut placements = HashMap::new();
    let count = queries.len();
    let of = |key: usize| &queries[key % count];
    let keys = (0..count).flat_map(|key| [count + key, key, 2 * count + key]);
    for key in keys.rev().chain(3 * count..4 * count) {
        placements.insert(key, index.insert(key, place::routes(&words, of(key))));
    }
    let mut leave = |index: &mut QueryIndex, key| {
        let placement = placements.remove(&key).expect("who leaves has joined");
        index.remove(key, &placement);
    };
    (count..4 * count).for_each(|key| leave(&mut index, key));
    let mut selected = BTreeSet::new();
    index.for_each_candidate(&words, batch, |key, event| {
        // Who has left would be out of bounds.
        if queries[key].selects(event) {
            selected.insert(key);
        }
        if selected.contains(&key) {
            Asked::Done
        } else {
            Asked::NotSelected
        }
    });
    (0..count).for_each(|key| leave(&mut index, key));
    assert!(
        index.seats.is_empty() && index.paths.is_empty(),
        "nothing stays behind"
    );
    selected.into_iter().collect()
}

//! Where the index finds a filter, and where an event leads to.
//!
//! A place is a word that an event can say: "has this tag", "is of this type", "is of this type and has this scalar at
//! this path of its payload". A filter gives several ways to be found, and any one of them is enough: each of its tags,
//! all of its types together, or for each payload predicate one of its scalars. Events that the filter selects say the
//! word of whichever was chosen.
//!
//! Words are hashed, with a key of the process. Two words of one hash make the index name a stream too many.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use serde_json::Value;

use crate::event::matching::Scalar;
use crate::event::query::{EventFilter, EventQuery};

/// The hash of a word that an event can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

/// The hash of a path into the payloads of one type, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path(u64);

/// What the index's tables are keyed by.
pub(super) trait Word: Copy + Eq {
    fn hash(self) -> u64;
}

impl Word for Place {
    fn hash(self) -> u64 {
        self.0
    }
}

impl Word for Path {
    fn hash(self) -> u64 {
        self.0
    }
}

impl Place {
    /// The word that every event says: the short list of streams which are found in no other way.
    pub(super) const ANYWHERE: Self = Self(0);
}

/// Makes places and paths of what queries and events say.
#[derive(Default)]
pub(super) struct Words {
    key: RandomState,
}

/// Keeps words of different kinds apart.
#[derive(Hash)]
enum Kind {
    Tag,
    Type,
    Root,
    Member,
    Element,
    Scalar,
}

impl Words {
    pub(super) fn tag(&self, tag: &str) -> Place {
        Place(self.key.hash_one((Kind::Tag, tag)))
    }

    pub(super) fn event_type(&self, name: &str) -> Place {
        Place(self.key.hash_one((Kind::Type, name)))
    }

    /// Where the paths into the payloads of this type begin, or those into all payloads.
    pub(super) fn root(&self, event_type: Option<&str>) -> Path {
        Path(self.key.hash_one((Kind::Root, event_type)))
    }

    pub(super) fn member(&self, path: Path, key: &str) -> Path {
        Path(self.key.hash_one((Kind::Member, path, key)))
    }

    /// Any element of the array at a path.
    pub(super) fn element(&self, path: Path) -> Path {
        Path(self.key.hash_one((Kind::Element, path)))
    }

    pub(super) fn scalar(&self, path: Path, scalar: Scalar<'_>) -> Place {
        Place(self.key.hash_one((Kind::Scalar, path, scalar)))
    }
}

/// One place where something can be found, and the paths that lead an event there.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) place: Place,
    pub(super) paths: Vec<Path>,
}

/// A part of a filter, which is found at any one of these spots.
pub(super) type Part = Vec<Spot>;

/// A way to find a filter: all of these parts have to be placed.
pub(super) type Route = Vec<Part>;

/// The ways to find one filter; the earlier ones are better when all else is equal.
pub(super) type Routes = Vec<Route>;

/// So many scalars of one predicate are considered.
const SCALARS_MAX: usize = 8;
/// A filter that would take more places than this for its types and predicates is found by its types alone.
const PARTS_MAX: usize = 256;

/// The ways to find each filter of a query. Filters that select nothing are left out.
pub(super) fn routes(words: &Words, query: &EventQuery) -> Vec<Routes> {
    let filters = query.filters().iter();
    filters.filter_map(|filter| routes_of(words, filter)).collect()
}

fn routes_of(words: &Words, filter: &EventFilter) -> Option<Routes> {
    let (tags, types) = (filter.tag_set(), filter.type_set());
    let predicates = filter.payload_predicates();
    let selects_nothing = tags.is_some_and(|tags| tags.is_empty())
        || types.is_some_and(|types| types.is_empty())
        || predicates.is_some_and(<[Value]>::is_empty);
    if selects_nothing {
        return None;
    }
    let mut routes = Routes::new();
    if let Some(tags) = tags {
        routes.push(vec![tags.iter().map(|tag| bare(words.tag(tag))).collect()]);
    }
    if let Some(predicates) = predicates {
        let roots: Vec<Path> = match types {
            Some(types) => types.iter().map(|name| words.root(Some(name))).collect(),
            None => vec![words.root(None)],
        };
        let is_small = types.is_none() || roots.len() * predicates.len() <= PARTS_MAX;
        routes.extend(is_small.then(|| by_payload(words, &roots, predicates)).flatten());
    }
    if let Some(types) = types {
        let parts = types.iter().map(|name| vec![bare(words.event_type(name))]);
        routes.push(parts.collect());
    }
    if routes.is_empty() {
        routes.push(vec![vec![bare(Place::ANYWHERE)]]);
    }
    Some(routes)
}

fn bare(place: Place) -> Spot {
    Spot {
        place,
        paths: Vec::new(),
    }
}

/// Each predicate below each root; nothing, when one of them has no scalar.
fn by_payload(words: &Words, roots: &[Path], predicates: &[Value]) -> Option<Route> {
    let mut route = Route::new();
    for &root in roots {
        for predicate in predicates {
            let mut found = Vec::new();
            collect_scalars(words, predicate, &mut vec![root], &mut found);
            // Texts and numbers tell events apart better than flags.
            found.sort_by_key(|(is_coarse, _)| *is_coarse);
            found.truncate(SCALARS_MAX);
            if found.is_empty() {
                return None;
            }
            route.push(found.into_iter().map(|(_, spot)| spot).collect());
        }
    }
    Some(route)
}

/// Every scalar below a path. What an array of a predicate demands is demanded of some element of the event's array.
fn collect_scalars(words: &Words, value: &Value, paths: &mut Vec<Path>, found: &mut Vec<(bool, Spot)>) {
    let Some(&path) = paths.last() else { return };
    let mut below = |path, value| {
        paths.push(path);
        collect_scalars(words, value, paths, found);
        paths.pop();
    };
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                below(words.member(path, key), value);
            }
        }
        Value::Array(elements) => {
            for value in elements {
                below(words.element(path), value);
            }
        }
        _ => {
            if let Some(scalar) = Scalar::of(value) {
                let is_coarse = matches!(scalar, Scalar::Null | Scalar::Flag(_));
                let place = words.scalar(path, scalar);
                let paths = paths.clone();
                found.push((is_coarse, Spot { place, paths }));
            }
        }
    }
}

//! Which events a query can concern, as searches of the index.
//!
//! A search only leaves out what `matching` would refuse; every event it finds is still asked there. A hash that two tags
//! share, or an entry whose event was removed, therefore does no harm.

use serde_json::Value;

use crate::event::query::{EventFilter, EventQuery};
use crate::log::sqlite::index::entry::tag_key;
use crate::log::sqlite::index::path::PayloadPath;
use crate::log::sqlite::index::view::Search;

/// The events that a query can concern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Candidates {
    Nothing,
    /// All events: there is a filter that no index serves.
    Everything,
    /// The events of one type.
    Type(String),
    /// What several searches find, or one that is for more than a type.
    Searches(Vec<Search>),
}

/// How many searches may be merged. Beyond that, reading everything is not slower.
const SEARCHES_MAX: usize = 64;
/// How many tags one search asks for. The rest is left to `matching`.
const TAGS_MAX: usize = 4;

pub(super) fn candidates(query: &EventQuery, paths: &[PayloadPath]) -> Candidates {
    let mut searches = Vec::new();
    for filter in query.filters() {
        match searches_of(filter, paths) {
            Some(found) => searches.extend(found),
            None => return Candidates::Everything,
        }
    }
    if searches.len() > SEARCHES_MAX {
        return Candidates::Everything;
    }
    match &searches[..] {
        [] => Candidates::Nothing,
        [Search::Type(name)] => Candidates::Type(name.clone()),
        _ => Candidates::Searches(searches),
    }
}

/// What finds the events of a filter, the narrowest way that there is; nothing, when no index does.
fn searches_of(filter: &EventFilter, paths: &[PayloadPath]) -> Option<Vec<Search>> {
    let (tags, types) = (filter.tag_set(), filter.type_set());
    let predicates = filter.payload_predicates();
    let selects_nothing = types.is_some_and(|types| types.is_empty())
        || tags.is_some_and(|tags| tags.is_empty())
        || predicates.is_some_and(<[_]>::is_empty);
    if selects_nothing {
        return Some(Vec::new());
    }
    let tags: Vec<i64> = tags
        .into_iter()
        .flatten()
        .take(TAGS_MAX)
        .map(|tag| tag_key(tag))
        .collect();
    let by_payload = predicates.and_then(|predicates| payload_keys(predicates, paths));
    match (by_payload, types) {
        (Some(keys), _) => {
            let with_tags = |key| Search::Keys(tags.iter().copied().chain([key]).collect());
            Some(keys.into_iter().map(with_tags).collect())
        }
        (None, _) if !tags.is_empty() => Some(vec![Search::Keys(tags)]),
        (None, Some(types)) => Some(types.iter().cloned().map(Search::Type).collect()),
        (None, None) => None,
    }
}

/// A key for each predicate; nothing, when one of them has no scalar at an indexed path.
fn payload_keys(predicates: &[Value], paths: &[PayloadPath]) -> Option<Vec<i64>> {
    let key = |predicate| paths.iter().find_map(|path| path.key_in(predicate));
    predicates.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn paths() -> Vec<PayloadPath> {
        vec![
            PayloadPath::parse("/order").unwrap(),
            PayloadPath::parse("/a/b").unwrap(),
        ]
    }

    fn searches(query: impl Into<EventQuery>) -> Candidates {
        candidates(&query.into(), &paths())
    }

    fn keys<const N: usize>(keys: [i64; N]) -> Search {
        Search::Keys(keys.to_vec())
    }

    #[test]
    fn the_narrowest_index_is_searched() {
        let of_type = |name: &str| Search::Type(String::from(name));
        let order = |number: i64| paths()[0].key_in(&json!({"order": number})).unwrap();
        assert_eq!(
            searches(EventQuery::types(["a"])),
            Candidates::Type(String::from("a"))
        );
        let cases = [
            (EventQuery::types(["a", "b"]), vec![of_type("a"), of_type("b")]),
            (EventQuery::tags(["x"]), vec![keys([tag_key("x")])]),
            (
                EventQuery::tags(["x", "y"]),
                vec![keys([tag_key("x"), tag_key("y")])],
            ),
            (
                EventQuery::any([
                    EventFilter::types(["a"]).tags(["x"]).payload(json!({"n": 1})),
                    EventFilter::types(["b"]),
                ]),
                vec![keys([tag_key("x")]), of_type("b")],
            ),
            (
                EventFilter::types(["a"])
                    .payload(json!({"order": 7, "n": 1}))
                    .into(),
                vec![keys([order(7)])],
            ),
            (
                EventFilter::all()
                    .tags(["x"])
                    .payloads([json!({"order": 7}), json!({"order": 8.0})])
                    .into(),
                vec![keys([tag_key("x"), order(7)]), keys([tag_key("x"), order(8)])],
            ),
            (
                EventFilter::types(["a", "b"])
                    .payloads([json!({"order": 7}), json!({"n": 1})])
                    .into(),
                vec![of_type("a"), of_type("b")],
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(
                searches(query.clone()),
                Candidates::Searches(expected),
                "{query:?}"
            );
        }
    }

    #[test]
    fn empty_sets_find_nothing_and_open_filters_read_everything() {
        let nothing = [
            EventQuery::any([]),
            EventQuery::types([""; 0]),
            EventQuery::tags([""; 0]),
            EventFilter::types(["a"]).payloads([]).into(),
        ];
        for query in nothing {
            assert_eq!(searches(query.clone()), Candidates::Nothing, "{query:?}");
        }
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        let everything = [
            EventQuery::all(),
            EventFilter::all().payload(json!(1)).into(),
            EventFilter::all().payload(json!({"order": [7]})).into(),
            EventFilter::all()
                .payloads([json!({"order": 7}), json!({"n": 1})])
                .into(),
            EventQuery::types(many),
        ];
        for query in everything {
            assert_eq!(searches(query.clone()), Candidates::Everything, "{query:?}");
        }
    }
}

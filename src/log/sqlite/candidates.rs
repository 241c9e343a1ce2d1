//! Which events a query can concern, as searches of the index.
//!
//! A search only leaves out what `matching` would refuse; every event it finds is still asked there. A hash that two tags
//! share, or an entry whose event was removed, therefore does no harm.
//!
//! The index knows what is stored, a query asks for what is shown: a type stands for all that are called so today, and the scalars
//! of a payload find only events whose payloads are shown as they are stored. The others are found by their types.

use serde_json::Value;

use crate::event::evolution::Evolution;
use crate::event::names::Names;
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

pub(super) fn candidates(
    query: &EventQuery,
    paths: &[PayloadPath],
    evolution: Option<&Evolution>,
) -> Candidates {
    let mut searches = Vec::new();
    for filter in query.filters() {
        match searches_of(filter, paths, evolution) {
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
fn searches_of(
    filter: &EventFilter,
    paths: &[PayloadPath],
    evolution: Option<&Evolution>,
) -> Option<Vec<Search>> {
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
    let stored = types.map(|types| stored_types(types, evolution));
    let changed = changed_types(stored.as_deref(), evolution);
    match (by_payload, stored) {
        (Some(keys), _) if changed.is_empty() || tags.is_empty() => {
            let with_tags = |key| Search::Keys(tags.iter().copied().chain([key]).collect());
            let by_payload = keys.into_iter().map(with_tags);
            Some(by_payload.chain(changed.into_iter().map(of_type)).collect())
        }
        (_, _) if !tags.is_empty() => Some(vec![Search::Keys(tags)]),
        (_, Some(stored)) => Some(stored.into_iter().map(of_type).collect()),
        (_, None) => None,
    }
}

fn of_type(name: &str) -> Search {
    Search::Type(name.to_owned())
}

/// As which types the events may be stored that these types ask for.
fn stored_types<'a>(types: &'a Names, evolution: Option<&'a Evolution>) -> Vec<&'a str> {
    let mut stored: Vec<&str> = match evolution {
        None => types.iter().map(String::as_str).collect(),
        Some(evolution) => types
            .iter()
            .flat_map(|name| evolution.stored_types(name))
            .collect(),
    };
    stored.sort_unstable();
    stored.dedup();
    stored
}

/// Those of the stored types, or of all, whose payloads the index does not know as they are shown.
fn changed_types<'a>(stored: Option<&[&'a str]>, evolution: Option<&'a Evolution>) -> Vec<&'a str> {
    let Some(evolution) = evolution else {
        return Vec::new();
    };
    let mut changed: Vec<&str> = match stored {
        None => evolution.changed_types().collect(),
        Some(stored) => stored
            .iter()
            .copied()
            .filter(|name| evolution.changes_payloads_of(name))
            .collect(),
    };
    changed.sort_unstable();
    changed
}

/// A key for each predicate; nothing, when one of them has no scalar at an indexed path.
fn payload_keys(predicates: &[Value], paths: &[PayloadPath]) -> Option<Vec<i64>> {
    let key = |predicate| paths.iter().find_map(|path| path.key_in(predicate));
    predicates.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::evolution::Registrations;
    use serde_json::json;

    fn paths() -> Vec<PayloadPath> {
        vec![
            PayloadPath::parse("/order").unwrap(),
            PayloadPath::parse("/a/b").unwrap(),
        ]
    }

    fn searches(query: impl Into<EventQuery>) -> Candidates {
        candidates(&query.into(), &paths(), None)
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
    #[test]
    fn what_is_shown_otherwise_than_it_is_stored_is_found_by_its_stored_types() {
        let mut registrations = Registrations::default();
        registrations.rename("old".into(), "new".into());
        registrations.upcast("old".into(), 1, |payload: Value| Ok::<_, String>(payload));
        registrations.rename("former".into(), "plain".into());
        let evolution = registrations.check().unwrap();
        let searches = |query: EventQuery| candidates(&query, &paths(), evolution.as_deref());
        let of_type = |name: &str| Search::Type(String::from(name));
        let order = paths()[0].key_in(&json!({"order": 7})).unwrap();
        let order_7 = |filter: EventFilter| EventQuery::from(filter.payload(json!({"order": 7})));
        let cases = [
            (EventQuery::types(["new"]), vec![of_type("new"), of_type("old")]),
            (
                EventQuery::types(["plain"]),
                vec![of_type("former"), of_type("plain")],
            ),
            (order_7(EventFilter::types(["plain"])), vec![keys([order])]),
            (
                order_7(EventFilter::types(["new"])),
                vec![keys([order]), of_type("old")],
            ),
            (order_7(EventFilter::all()), vec![keys([order]), of_type("old")]),
            (
                order_7(EventFilter::all().tags(["x"])),
                vec![keys([tag_key("x")])],
            ),
            (
                order_7(EventFilter::types(["plain"]).tags(["x"])),
                vec![keys([tag_key("x"), order])],
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(
                searches(query.clone()),
                Candidates::Searches(expected),
                "{query:?}"
            );
        }
        assert_eq!(
            searches(EventQuery::types(["old"])),
            Candidates::Type(String::from("old"))
        );
    }
}

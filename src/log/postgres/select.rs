//! Which events a query can concern, as a condition of SQL.
//!
//! The condition only leaves out what `matching` would refuse: every row that it finds is still asked there. Types and tags are searched
//! for with their indexes, and so are the scalars that stand at the indexed paths of payloads. What else a query says of payloads is left
//! to `matching`: `jsonb` compares numbers by their decimal digits, and a query by the value of their nearest 64-bit float, so containment
//! would leave out what a query selects; it cannot hold the character NUL; and without an index to read a payload as JSON costs the
//! server several times what it costs to send it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use serde_json::Value;

use crate::event::evolution::Evolution;
use crate::event::names::Names;
use crate::event::query::{EventFilter, EventQuery};
use crate::log::payload_path::PayloadPath;
use crate::log::postgres::payload;

/// What a half of the log knows of events.
#[derive(Clone)]
pub(super) struct Knowledge {
    pub(super) evolution: Option<Arc<Evolution>>,
    pub(super) paths: Arc<[PayloadPath]>,
}

impl Knowledge {
    pub(super) fn known(&self) -> Known<'_> {
        Known {
            evolution: self.evolution.as_deref(),
            paths: &self.paths,
        }
    }
}

/// What is known of events before one of them is read.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) evolution: Option<&'a Evolution>,
    /// The paths of payloads that are indexed.
    pub(super) paths: &'a [PayloadPath],
}

/// The events that a query can concern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Candidates {
    Nothing,
    /// All events: there is a filter that no index serves.
    Everything,
    /// Those for which one of these holds.
    Either(Vec<Terms>),
}

/// What an index is asked for one filter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// The types that may be stored, any of them.
    pub(super) types: Option<Vec<String>>,
    /// All of these.
    pub(super) tags: Option<Vec<String>>,
    pub(super) scalars: Option<Scalars>,
}

/// What the payloads say, or a type that stands for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scalars {
    /// What an indexed path is asked for, and which of these scalars stand there, any of them.
    pub(super) either: Vec<(String, Vec<String>)>,
    /// The stored types, any of them, whose payloads are not shown as they are stored.
    pub(super) changed: Vec<String>,
}

/// How many filters a statement names. Beyond that, reading everything is not slower.
const TERMS_MAX: usize = 64;

pub(super) fn candidates(query: &EventQuery, known: Known<'_>) -> Candidates {
    let mut either = Vec::new();
    for filter in query.filters() {
        match terms(filter, known) {
            None => {}
            Some(Terms {
                types: None,
                tags: None,
                scalars: None,
            }) => return Candidates::Everything,
            Some(terms) => either.push(terms),
        }
    }
    match either.len() {
        0 => Candidates::Nothing,
        1..=TERMS_MAX => Candidates::Either(either),
        _ => Candidates::Everything,
    }
}

/// Nothing: the filter selects no event.
fn terms(filter: &EventFilter, known: Known<'_>) -> Option<Terms> {
    let evolution = known.evolution;
    if filter.payload_predicates().is_some_and(<[_]>::is_empty) {
        return None;
    }
    let types = filter.type_set().map(|types| stored_types(types, evolution));
    let tags = filter
        .tag_set()
        .map(|tags| tags.iter().cloned().collect::<Vec<_>>());
    // No event has a control character in a type or tag, and PostgreSQL cannot be asked for NUL.
    let types = types.map(|mut types| {
        types.retain(|name| !name.contains('\0'));
        types
    });
    let has_none = |texts: &Option<Vec<String>>| texts.as_ref().is_some_and(Vec::is_empty);
    let asks_for_nul = tags.iter().flatten().any(|tag| tag.contains('\0'));
    if has_none(&types) || has_none(&tags) || asks_for_nul {
        return None;
    }
    let scalars = filter.payload_predicates().and_then(|predicates| {
        Some(Scalars {
            either: scalars(predicates, known.paths)?,
            changed: changed_types(types.as_deref(), evolution),
        })
    });
    Some(Terms { types, tags, scalars })
}

/// What the indexed paths are asked for; nothing, when one of the predicates has no scalar at any of them.
fn scalars(predicates: &[Value], paths: &[PayloadPath]) -> Option<Vec<(String, Vec<String>)>> {
    let mut either: Vec<(&PayloadPath, Vec<String>)> = Vec::new();
    for predicate in predicates {
        let found = paths
            .iter()
            .find_map(|path| Some((path, payload::key(path.scalar_in(predicate)?))));
        let (path, key) = found?;
        match either.iter_mut().find(|(known, _)| *known == path) {
            Some((_, keys)) => keys.push(key),
            None => either.push((path, vec![payload::UNKNOWN.to_owned(), key])),
        }
    }
    let asked = either.into_iter();
    Some(
        asked
            .map(|(path, keys)| (payload::expression(path), keys))
            .collect(),
    )
}

/// Those of the stored types, or of all, whose payloads the index does not know as they are shown.
fn changed_types(stored: Option<&[String]>, evolution: Option<&Evolution>) -> Vec<String> {
    let Some(evolution) = evolution else {
        return Vec::new();
    };
    let mut changed: Vec<String> = match stored {
        None => evolution.changed_types().map(str::to_owned).collect(),
        Some(stored) => stored
            .iter()
            .filter(|name| evolution.changes_payloads_of(name))
            .cloned()
            .collect(),
    };
    // No event has a control character in its type.
    changed.retain(|name| !name.contains('\0'));
    changed.sort_unstable();
    changed
}

/// As which types the events may be stored that these types ask for.
fn stored_types(types: &Names, evolution: Option<&Evolution>) -> Vec<String> {
    let stored: BTreeSet<String> = match evolution {
        None => types.iter().cloned().collect(),
        Some(evolution) => {
            let stored = types.iter().flat_map(|name| evolution.stored_types(name));
            stored.map(str::to_owned).collect()
        }
    };
    stored.into_iter().collect()
}

/// The condition, and its parameters, which are numbered from `first` on.
pub(super) fn condition(either: &[Terms], first: usize) -> (String, Vec<&Vec<String>>) {
    let mut sql = String::new();
    let mut parameters = Vec::new();
    let mut next = |texts| {
        parameters.push(texts);
        first + parameters.len() - 1
    };
    for (index, terms) in either.iter().enumerate() {
        let types = terms.types.as_ref().map(|types| any("type", next(types)));
        let tags = terms.tags.as_ref().map(|tags| format!("tags @> ${}", next(tags)));
        let scalars = terms.scalars.as_ref().map(|Scalars { either, changed }| {
            let asked = either.iter().map(|(asked, keys)| any(asked, next(keys)));
            let mut alternatives: Vec<String> = asked.collect();
            if !changed.is_empty() {
                alternatives.push(any("type", next(changed)));
            }
            format!("({})", alternatives.join(" OR "))
        });
        let terms: Vec<String> = [types, tags, scalars].into_iter().flatten().collect();
        let or = if index > 0 { " OR " } else { "" };
        // Writing into a text does not fail.
        let _ = write!(sql, "{or}({})", terms.join(" AND "));
    }
    (sql, parameters)
}

fn any(asked: &str, parameter: usize) -> String {
    format!("{asked} = ANY(${parameter})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::evolution::Registrations;
    use serde_json::json;

    const PLAIN: Known<'_> = Known {
        evolution: None,
        paths: &[],
    };

    fn paths() -> [PayloadPath; 2] {
        ["/order", "/a/b"].map(|pointer| PayloadPath::parse(pointer).unwrap())
    }

    #[test]
    fn an_index_is_asked_for_what_a_filter_names() {
        let query = EventQuery::any([
            EventFilter::types(["b", "a"]).tags(["x", "y"]).payload(json!(1)),
            EventFilter::all().tags(["z"]),
            EventFilter::types(["nobody"]).tags([""; 0]),
        ]);
        let Candidates::Either(either) = candidates(&query, PLAIN) else {
            panic!("each filter names something");
        };
        let (sql, parameters) = condition(&either, 4);
        assert_eq!(sql, "(tags @> $4) OR (type = ANY($5) AND tags @> $6)");
        assert_eq!(parameters, [&vec!["z"], &vec!["a", "b"], &vec!["x", "y"]]);
    }

    #[test]
    fn what_no_index_serves_is_everything_and_what_selects_nothing_is_nothing() {
        let of = |query: EventQuery| candidates(&query, PLAIN);
        let by_payload = EventFilter::all().payload(json!({"a": 1}));
        assert_eq!(of(EventQuery::all()), Candidates::Everything);
        assert_eq!(
            of(EventQuery::any([by_payload, EventFilter::types(["a"])])),
            Candidates::Everything
        );
        for nothing in [
            EventQuery::any([]),
            EventQuery::types([""; 0]),
            EventQuery::tags(["a\0b"]),
            EventQuery::types(["\0"]),
            EventFilter::all().payloads([]).into(),
        ] {
            assert_eq!(of(nothing.clone()), Candidates::Nothing, "{nothing:?}");
        }
        let many = (0..65).map(|number| EventFilter::types([number.to_string()]));
        assert_eq!(of(EventQuery::any(many)), Candidates::Everything);
    }

    #[test]
    fn scalars_at_indexed_paths_are_asked_for_with_what_the_server_cannot_tell() {
        let paths = paths();
        let known = Known {
            evolution: None,
            paths: &paths,
        };
        let query = EventFilter::types(["t"]).payloads([
            json!({"order": 7, "n": 1}),
            json!({"order": "x"}),
            json!({"a": {"b": true}}),
        ]);
        let Candidates::Either(either) = candidates(&query.into(), known) else {
            panic!("the filter names something");
        };
        let (sql, parameters) = condition(&either, 4);
        assert_eq!(
            sql,
            "(type = ANY($4) AND (payload_scalar(payload, ARRAY[E'a', E'b']::text[]) = ANY($5) OR \
             payload_scalar(payload, ARRAY[E'order']::text[]) = ANY($6)))"
        );
        let keys = ["?", "n401c000000000000", "\"x"].map(String::from);
        let mut found = parameters[2].clone();
        found.sort_by_key(|key| keys.iter().position(|known| known == key));
        assert_eq!(found, keys);
        assert_eq!(parameters[1], &vec![String::from("?"), String::from("true")]);
        let part = EventFilter::all().payloads([json!({"order": 7}), json!({"n": 1})]);
        assert_eq!(candidates(&part.into(), known), Candidates::Everything);
        let array = EventFilter::all().payload(json!({"order": [7]}));
        assert_eq!(candidates(&array.into(), known), Candidates::Everything);
    }

    #[test]
    fn what_is_shown_otherwise_than_it_is_stored_is_found_by_its_stored_types() {
        let mut registrations = Registrations::default();
        registrations.upcast("old".into(), 1, |payload: Value| Ok::<_, String>(payload));
        registrations.rename("former".into(), "plain".into());
        let evolution = registrations.check().unwrap();
        let paths = paths();
        let known = Known {
            evolution: evolution.as_deref(),
            paths: &paths,
        };
        let changed = |filter: EventFilter| {
            let query = filter.payload(json!({"order": 7})).into();
            let Candidates::Either(mut either) = candidates(&query, known) else {
                panic!("the filter names something");
            };
            either.remove(0).scalars.unwrap().changed
        };
        assert_eq!(changed(EventFilter::all()), ["old"]);
        assert_eq!(changed(EventFilter::types(["old", "plain"])), ["old"]);
        assert!(changed(EventFilter::types(["plain"])).is_empty());
    }
}

//! Which events a query can concern, as a condition of SQL.
//!
//! The condition only leaves out what `matching` would refuse: every row that it finds is still asked there. Types and tags are searched
//! for with their indexes. Payloads are not: PostgreSQL's `jsonb` compares numbers by their decimal digits, and a query by the value of
//! their nearest 64-bit float, so containment would leave out what a query selects; and it cannot hold the character NUL.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::event::evolution::Evolution;
use crate::event::names::Names;
use crate::event::query::{EventFilter, EventQuery};

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
}

/// How many filters a statement names. Beyond that, reading everything is not slower.
const TERMS_MAX: usize = 64;

pub(super) fn candidates(query: &EventQuery, evolution: Option<&Evolution>) -> Candidates {
    let mut either = Vec::new();
    for filter in query.filters() {
        match terms(filter, evolution) {
            None => {}
            Some(Terms {
                types: None,
                tags: None,
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
fn terms(filter: &EventFilter, evolution: Option<&Evolution>) -> Option<Terms> {
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
    (!has_none(&types) && !has_none(&tags) && !asks_for_nul).then_some(Terms { types, tags })
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
        sql.push_str(if index > 0 { " OR (" } else { "(" });
        if let Some(types) = &terms.types {
            // Writing into a text does not fail.
            let _ = write!(sql, "type = ANY(${})", next(types));
        }
        if let Some(tags) = &terms.tags {
            if terms.types.is_some() {
                sql.push_str(" AND ");
            }
            let _ = write!(sql, "tags @> ${}", next(tags));
        }
        sql.push(')');
    }
    (sql, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_index_is_asked_for_what_a_filter_names() {
        let query = EventQuery::any([
            EventFilter::types(["b", "a"]).tags(["x", "y"]).payload(json!(1)),
            EventFilter::all().tags(["z"]),
            EventFilter::types(["nobody"]).tags([""; 0]),
        ]);
        let Candidates::Either(either) = candidates(&query, None) else {
            panic!("each filter names something");
        };
        let (sql, parameters) = condition(&either, 4);
        assert_eq!(sql, "(tags @> $4) OR (type = ANY($5) AND tags @> $6)");
        assert_eq!(parameters, [&vec!["z"], &vec!["a", "b"], &vec!["x", "y"]]);
    }

    #[test]
    fn what_no_index_serves_is_everything_and_what_selects_nothing_is_nothing() {
        let of = |query: EventQuery| candidates(&query, None);
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
}

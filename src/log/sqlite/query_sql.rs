//! Which rows a query can concern, as SQL.
//!
//! The SQL only leaves out what `matching` would refuse; every row it finds is still asked there. A hash that two tags
//! share, or a tag's entry whose event was removed, therefore does no harm.

use rusqlite::types::Value;
use rusqlite::{Params, params_from_iter};

use crate::event::query::{EventFilter, EventQuery};
use crate::log::page::Range;

/// The events that a query can concern.
#[derive(Debug)]
pub(super) enum Candidates {
    Nothing,
    /// All events of the range: there is a filter that no index serves.
    Everything,
    /// The rows that a statement yields, in order: one search suffices.
    Rows(Search),
    /// The events whose sequences a statement yields, in order: several searches, merged.
    Sequences(Search),
}

/// A statement with its parameters. Numbers 1 and 2, which come before them, are the range.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) sql: String,
    pub(super) parameters: Vec<Value>,
}

impl Search {
    pub(super) fn parameters(self, range: Range) -> impl Params {
        let range = [range.after, range.through].map(|sequence| Value::from(sequence as i64));
        params_from_iter(range.into_iter().chain(self.parameters))
    }
}

/// The columns of an event's row, in the order in which they are read.
pub(super) const COLUMNS: &str = "event.sequence, event.batch_index, event.batch_size, event.recorded_at,
    event.type, event.tags, event.payload, event.metadata";

/// How many index searches one statement may merge. Beyond that, reading everything is not slower.
const SEARCHES_MAX: usize = 64;
/// How many tags, and how many types beside tags, one search asks for. The rest is left to `matching`.
const TAGS_MAX: usize = 4;
const TYPES_MAX: usize = 16;

pub(super) fn candidates(query: &EventQuery) -> Candidates {
    let mut searches = Searches::default();
    for filter in query.filters() {
        if selects_nothing(filter) {
            continue;
        }
        match (filter.tag_set(), filter.type_set()) {
            (Some(_), _) => searches.add_tags(filter),
            (None, Some(types)) if types.len() > SEARCHES_MAX => return Candidates::Everything,
            (None, Some(_)) => searches.add_types(filter),
            (None, None) => return Candidates::Everything,
        }
        if searches.sql.len() > SEARCHES_MAX {
            return Candidates::Everything;
        }
    }
    if searches.sql.is_empty() {
        return Candidates::Nothing;
    }
    let parameters = searches.parameters;
    if let [search] = &searches.sql[..] {
        let sql = format!(
            "SELECT {COLUMNS} FROM ({search}) AS found CROSS JOIN event ON event.sequence = found.sequence
             ORDER BY found.sequence"
        );
        return Candidates::Rows(Search { sql, parameters });
    }
    let sql = format!("{} ORDER BY 1", searches.sql.join("\nUNION "));
    Candidates::Sequences(Search { sql, parameters })
}

/// The hash under which a tag is indexed: 64-bit FNV-1a of its UTF-8 bytes. Part of the file format.
pub(super) fn tag_hash(tag: &str) -> i64 {
    let hash = tag.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}

fn selects_nothing(filter: &EventFilter) -> bool {
    filter.type_set().is_some_and(|types| types.is_empty())
        || filter.tag_set().is_some_and(|tags| tags.is_empty())
        || filter.payload_predicates().is_some_and(<[_]>::is_empty)
}

/// Searches of one index each, which are merged in the order of the sequence.
#[derive(Default)]
struct Searches {
    sql: Vec<String>,
    parameters: Vec<Value>,
}

impl Searches {
    /// Adds a parameter and gives its number; 1 and 2 are the range.
    fn parameter(&mut self, value: impl Into<Value>) -> usize {
        self.parameters.push(value.into());
        self.parameters.len() + 2
    }

    /// One search of the primary key of `event_tag`, narrowed by the other tags and the type.
    fn add_tags(&mut self, filter: &EventFilter) {
        let mut sql =
            String::from("SELECT t.sequence FROM event_tag AS t WHERE t.sequence > ?1 AND t.sequence <= ?2");
        for (index, tag) in filter.tag_set().into_iter().flatten().take(TAGS_MAX).enumerate() {
            let number = self.parameter(tag_hash(tag));
            sql += &if index == 0 {
                format!(" AND t.tag = ?{number}")
            } else {
                format!(
                    " AND EXISTS (SELECT 1 FROM event_tag AS u WHERE u.tag = ?{number} AND u.sequence = t.sequence)"
                )
            };
        }
        if let Some(types) = filter.type_set().filter(|types| types.len() <= TYPES_MAX) {
            let numbers: Vec<String> = types
                .iter()
                .map(|name| format!("?{}", self.parameter(name.clone())))
                .collect();
            sql += &format!(
                " AND (SELECT e.type FROM event AS e WHERE e.sequence = t.sequence) IN (SELECT id FROM event_type WHERE name IN ({}))",
                numbers.join(", ")
            );
        }
        self.sql.push(sql);
    }

    /// One search of `event_by_type` for each type.
    fn add_types(&mut self, filter: &EventFilter) {
        for name in filter.type_set().into_iter().flatten() {
            let number = self.parameter(name.clone());
            self.sql.push(format!(
                "SELECT sequence FROM event WHERE type = (SELECT id FROM event_type WHERE name = ?{number}) AND sequence > ?1 AND sequence <= ?2"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use serde_json::json;

    use crate::log::sqlite::schema;

    fn plan(query: &EventQuery) -> Vec<String> {
        let (Candidates::Rows(mut search) | Candidates::Sequences(mut search)) = candidates(query) else {
            panic!("an index serves {query:?}");
        };
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare_tables(&mut connection, "memory".as_ref()).unwrap();
        let range = Range {
            after: 0,
            through: 100,
        };
        search.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
        let mut statement = connection.prepare(&search.sql).unwrap();
        statement
            .query_map(search.parameters(range), |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn every_search_uses_its_index_and_nothing_is_sorted() {
        let by_type = "SEARCH event USING COVERING INDEX event_by_type (type=? AND rowid>? AND rowid<?)";
        let by_tag = "SEARCH t USING PRIMARY KEY (tag=? AND sequence>? AND sequence<?)";
        let cases = [
            (EventQuery::types(["a"]), vec![by_type]),
            (EventQuery::types(["a", "b"]), vec![by_type, by_type]),
            (EventQuery::tags(["x"]), vec![by_tag]),
            (
                EventQuery::tags(["x", "y"]),
                vec![by_tag, "SEARCH u EXISTS USING PRIMARY KEY (tag=? AND sequence=?)"],
            ),
            (
                EventQuery::any([
                    EventFilter::types(["a"]).tags(["x"]).payload(json!({"n": 1})),
                    EventFilter::types(["b"]),
                ]),
                vec![by_tag, "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)", by_type],
            ),
        ];
        for (query, expected) in cases {
            let plan = plan(&query);
            for line in expected {
                assert!(plan.iter().any(|step| step == line), "{line} in {plan:#?}");
            }
            let bad = plan.iter().find(|step| {
                step.starts_with("SCAN") || (step.contains("TEMP B-TREE") && step.contains("ORDER"))
            });
            assert_eq!(bad, None, "{plan:#?}");
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
            assert!(matches!(candidates(&query), Candidates::Nothing), "{query:?}");
        }
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        let everything = [
            EventQuery::all(),
            EventFilter::all().payload(json!(1)).into(),
            EventQuery::types(many),
        ];
        for query in everything {
            assert!(matches!(candidates(&query), Candidates::Everything), "{query:?}");
        }
    }

    #[test]
    fn tag_hashes_never_change() {
        assert_eq!(tag_hash(""), 0xcbf2_9ce4_8422_2325_u64.cast_signed());
        assert_eq!(tag_hash("a"), 0xaf63_dc4c_8601_ec8c_u64.cast_signed());
        assert_eq!(tag_hash("foobar"), 0x8594_4171_f739_67e8_u64.cast_signed());
    }
}

//! The rows of `event`, read one after the other.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use serde_json::{Map, Value};

use crate::log::page::{More, Range};
use crate::log::sqlite::index::entry::{Entry, tag_key};
use crate::log::sqlite::index::path::{PATHS_MAX, PayloadPath};
use crate::log::sqlite::index::run;
use crate::log::sqlite::verify::LogRow;
use crate::log::sqlite::verify::fingerprint::{Fingerprint, Unknown};
use crate::log::sqlite::verify::walk::{Place, Walk};
use crate::log::verification::{Finding, Verification};

/// How many rows are read before somebody is asked whether to go on.
const ROWS_AT_ONCE: u64 = 4096;

/// By the primary key.
const ROWS: &str = "SELECT sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata
    FROM event WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence";

/// What the events say of the index.
pub(super) struct Seen {
    pub(super) fingerprint: Fingerprint,
    pub(super) unknown: Unknown,
    pub(super) paths: Arc<[PayloadPath]>,
}

/// A key of an event, and what it stands for.
pub(super) struct Carried {
    pub(super) key: i64,
    pub(super) by: String,
}

/// Looks at all events. Nothing: nobody wants to know any more.
pub(super) fn verify(
    connection: &Connection,
    log: &LogRow,
    verification: &mut Verification,
    is_wanted: &mut dyn FnMut() -> More,
) -> rusqlite::Result<Option<Seen>> {
    let types = type_ids(connection)?;
    let mut seen = Seen {
        fingerprint: Fingerprint::default(),
        unknown: Unknown::default(),
        paths: paths(connection, verification)?,
    };
    let mut walk = Walk::new(log.pruned_through, log.removed_through, log.pruned_recorded_at);
    let mut statement = connection.prepare(ROWS)?;
    let mut rows = statement.query([i64::MIN, i64::MAX])?;
    while let Some(row) = rows.next()? {
        let place = place(row)?;
        if let Some(hole) = walk.take(place, verification) {
            seen.unknown.add(hole);
        }
        let type_id = row.get(4)?;
        let sequence = u64::try_from(place.sequence).unwrap_or(0);
        if !types.contains(&type_id) {
            verification.found(Finding::TypeUnknown { sequence, type_id });
        }
        event(row, sequence, log, &mut seen, verification)?;
        verification.events += 1;
        if verification.events.is_multiple_of(ROWS_AT_ONCE) && is_wanted() == More::No {
            return Ok(None);
        }
    }
    walk.end(verification);
    Ok(Some(seen))
}

/// The keys of the events in a stretch, with what they stand for.
pub(super) fn carried(
    connection: &Connection,
    range: Range,
    paths: &Arc<[PayloadPath]>,
    mut take: impl FnMut(u64, Carried),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(ROWS)?;
    let mut rows = statement.query(params![range.after as i64, range.through as i64])?;
    while let Some(row) = rows.next()? {
        let sequence = u64::try_from(place(row)?.sequence).unwrap_or(0);
        let (Ok(tags), Ok(payload)) = (tags(row.get_ref(5)?), json::<Value>(row.get_ref(6)?)) else {
            continue;
        };
        for tag in tags {
            let by = format!("the tag {tag:?}");
            take(
                sequence,
                Carried {
                    key: tag_key(&tag),
                    by,
                },
            );
        }
        for path in paths.iter() {
            if let Some(key) = path.key_in(&payload) {
                let by = format!("what stands at the path {}", path.pointer());
                take(sequence, Carried { key, by });
            }
        }
    }
    Ok(())
}

fn type_ids(connection: &Connection) -> rusqlite::Result<HashSet<i64>> {
    let mut statement = connection.prepare("SELECT id FROM event_type")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn paths(connection: &Connection, verification: &mut Verification) -> rusqlite::Result<Arc<[PayloadPath]>> {
    let paths = run::read_paths(connection)?;
    let rows: i64 = connection.query_row("SELECT count(*) FROM index_path", [], |row| row.get(0))?;
    let rows = usize::try_from(rows).unwrap_or(0);
    if rows != paths.len() || rows > PATHS_MAX {
        let problem = format!(
            "of the {rows} rows of index_path {} are JSON pointers, and {PATHS_MAX} are possible",
            paths.len()
        );
        verification.found(Finding::LogRow { problem });
    }
    Ok(paths.into())
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        sequence: row.get(0)?,
        batch_index: row.get(1)?,
        batch_size: row.get(2)?,
        recorded_at: row.get(3)?,
    })
}

/// Looks at the parts of an event, and takes its keys.
fn event(
    row: &Row<'_>,
    sequence: u64,
    log: &LogRow,
    seen: &mut Seen,
    verification: &mut Verification,
) -> rusqlite::Result<()> {
    let tags = tags(row.get_ref(5)?);
    let payload = json::<Value>(row.get_ref(6)?);
    let metadata = match row.get_ref(7)? {
        ValueRef::Null => Ok(()),
        value => json::<Map<String, Value>>(value).map(|_| ()),
    };
    for (part, problem) in [
        ("tags", tags.as_ref().err()),
        ("payload", payload.as_ref().err()),
        ("metadata", metadata.as_ref().err()),
    ] {
        if let Some(problem) = problem {
            let problem = problem.clone();
            verification.found(Finding::EventDamaged {
                sequence,
                part,
                problem,
            });
        }
    }
    let from_to = [log.pruned_through, log.indexed_through].map(|end| u64::try_from(end).unwrap_or(0));
    let is_indexed = from_to[0] < sequence && sequence <= from_to[1];
    let (Ok(tags), Ok(payload)) = (tags, payload) else {
        seen.unknown.add(Range {
            after: sequence.saturating_sub(1),
            through: sequence,
        });
        return Ok(());
    };
    if is_indexed {
        let of_payload = seen.paths.iter().filter_map(|path| path.key_in(&payload));
        let mut keys: Vec<i64> = tags.iter().map(|tag| tag_key(tag)).chain(of_payload).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            seen.fingerprint.expect(Entry { key, sequence });
        }
    }
    Ok(())
}

/// The tags of a row: texts, each once, none of them empty.
fn tags(value: ValueRef<'_>) -> Result<Vec<String>, String> {
    if value == ValueRef::Null {
        return Ok(Vec::new());
    }
    let tags: Vec<String> = json(value)?;
    let mut known = HashSet::with_capacity(tags.len());
    match tags
        .iter()
        .find(|tag| tag.is_empty() || !known.insert(tag.as_str()))
    {
        Some(tag) if tag.is_empty() => Err(String::from("one of them is empty")),
        Some(tag) => Err(format!("{tag:?} is there twice")),
        None => Ok(tags),
    }
}

fn json<T: serde::de::DeserializeOwned>(value: ValueRef<'_>) -> Result<T, String> {
    let text = value.as_str().map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_list_of_texts_each_once() {
        let read = |text: &str| tags(ValueRef::Text(text.as_bytes()));
        assert_eq!(read(r#"["a","b"]"#).unwrap(), ["a", "b"]);
        assert_eq!(tags(ValueRef::Null).unwrap(), [""; 0]);
        for wrong in [r#"["a",1]"#, r#"{"a":1}"#, r#"["a","a"]"#, r#"[""]"#, "[", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

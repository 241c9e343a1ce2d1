//! The rows of the events: many with one statement, because a statement's start and end cost as much as a row.

use std::sync::LazyLock;

use rusqlite::{CachedStatement, Connection};

use crate::event::batch::CommittedBatch;
use crate::event::record::{EventRecord, TAG_SEPARATOR};

/// How many rows one statement inserts. With more of them a row costs no less.
pub(super) const ROWS_AT_ONCE: usize = 16;

static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert_sql(1));
static INSERT_MANY: LazyLock<String> = LazyLock::new(|| insert_sql(ROWS_AT_ONCE));

fn insert_sql(rows: usize) -> String {
    let mut sql = String::from(
        "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata) VALUES ",
    );
    sql.push_str(&vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", "));
    sql
}

/// An event with what its row needs to know of its batch.
pub(super) struct Row<'a> {
    pub(super) batch: &'a CommittedBatch,
    pub(super) event: &'a EventRecord,
    pub(super) type_id: i64,
}

/// Inserts the rows, in their order.
pub(super) fn insert(connection: &Connection, rows: &[Row<'_>]) -> rusqlite::Result<()> {
    let (chunks, rest) = rows.as_chunks::<ROWS_AT_ONCE>();
    let mut tags_json = String::new();
    if !chunks.is_empty() {
        let mut insert = connection.prepare_cached(&INSERT_MANY)?;
        for chunk in chunks {
            insert_with(&mut insert, chunk, &mut tags_json)?;
        }
    }
    if !rest.is_empty() {
        let mut insert = connection.prepare_cached(&INSERT_ONE)?;
        for row in rest {
            insert_with(&mut insert, std::slice::from_ref(row), &mut tags_json)?;
        }
    }
    Ok(())
}

fn insert_with(
    insert: &mut CachedStatement<'_>,
    rows: &[Row<'_>],
    tags_json: &mut String,
) -> rusqlite::Result<()> {
    let mut parameters = 1..;
    let mut next = || parameters.next().expect("there is no last number");
    for Row {
        batch,
        event,
        type_id,
    } in rows
    {
        insert.raw_bind_parameter(next(), event.sequence as i64)?;
        insert.raw_bind_parameter(next(), (event.sequence - batch.first_sequence) as i64)?;
        insert.raw_bind_parameter(next(), (batch.last_sequence - batch.first_sequence + 1) as i64)?;
        insert.raw_bind_parameter(next(), batch.recorded_at.as_micros())?;
        insert.raw_bind_parameter(next(), type_id)?;
        tags_json.clear();
        push_tags_json(tags_json, event);
        insert.raw_bind_parameter(next(), (!tags_json.is_empty()).then_some(tags_json.as_str()))?;
        insert.raw_bind_parameter(next(), event.stored_payload())?;
        insert.raw_bind_parameter(next(), event.metadata.as_ref().map(|metadata| metadata.as_str()))?;
    }
    insert.raw_execute()?;
    Ok(())
}

/// Adds the event's tags as a JSON array; nothing, when there are none.
fn push_tags_json(json: &mut String, event: &EventRecord) {
    if event.tags.is_empty() {
        return;
    }
    let mut separator = '[';
    for tag in event.tags() {
        debug_assert!(!tag.contains(TAG_SEPARATOR), "control characters are refused");
        json.push(separator);
        if tag.contains(['"', '\\']) {
            json.push_str(&serde_json::Value::from(tag).to_string());
        } else {
            json.push('"');
            json.push_str(tag);
            json.push('"');
        }
        separator = ',';
    }
    json.push(']');
}

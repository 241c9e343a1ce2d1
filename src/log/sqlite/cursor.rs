//! The rows of durable streams.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;
use crate::log::cursor::{CursorWrite, NamedCursor, Pause, PauseKind, RollCall, StoredCursor};
use crate::log::letter::Attempt;
use crate::log::sqlite::claim;
use crate::log::sqlite::statement::Snapshot;

/// The columns of a row, in the order in which they are read.
macro_rules! columns {
    () => {
        "position, query, log_id, epoch, owner, steering, paused_by, paused_at, updated_at, attempt_at, attempts, retry"
    };
}

/// By the primary key.
const ONE: &str = concat!("SELECT ", columns!(), " FROM cursor WHERE name = ?1");

/// All of them, in the order of the primary key: there is a row per durable stream.
const ALL: &str = concat!("SELECT ", columns!(), ", name FROM cursor ORDER BY name");

const PUT: &str = "INSERT INTO cursor
        (name, position, query, log_id, epoch, owner, steering, paused_by, paused_at, updated_at, attempt_at, attempts, retry)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
    ON CONFLICT (name) DO UPDATE SET
        position = excluded.position, query = excluded.query, log_id = excluded.log_id,
        epoch = excluded.epoch, owner = excluded.owner, steering = excluded.steering,
        paused_by = excluded.paused_by, paused_at = excluded.paused_at, updated_at = excluded.updated_at,
        attempt_at = excluded.attempt_at, attempts = excluded.attempts, retry = excluded.retry";

pub(super) fn read(connection: &Connection, name: &str) -> rusqlite::Result<Option<StoredCursor>> {
    connection
        .prepare_cached(ONE)?
        .query_row([name], cursor)
        .optional()
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<NamedCursor>> {
    let mut statement = connection.prepare_cached(ALL)?;
    let rows = statement.query_map([], |row| {
        Ok(NamedCursor {
            name: row.get::<_, String>(12)?.into(),
            cursor: cursor(row)?,
        })
    })?;
    rows.collect()
}

/// Number and rows are read in one transaction, so that no row is newer than the number.
pub(super) fn roll_call(connection: &Connection) -> rusqlite::Result<RollCall> {
    let _snapshot = Snapshot::begin(connection)?;
    Ok(RollCall {
        number: newest_epoch(connection)?,
        rows: all(connection)?,
    })
}

pub(super) fn newest_epoch(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT epoch FROM log")?;
    statement.query_row([], |row| Ok(row.get::<_, i64>(0)? as u64))
}

pub(super) fn next_epoch(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("UPDATE log SET epoch = epoch + 1")?
        .execute([])?;
    newest_epoch(connection)
}

/// Takes back what was noted of an attempt. `false`: the epoch is not the stored one, nothing was written (D6).
pub(super) fn move_to(connection: &Connection, write: &CursorWrite<'_>) -> rusqlite::Result<bool> {
    let attempt = Attempt::from(write.run);
    let moved = connection
        .prepare_cached(
            "UPDATE cursor SET position = ?3, updated_at = ?4, attempt_at = ?5, attempts = ?6
             WHERE name = ?1 AND epoch = ?2",
        )?
        .execute(params![
            write.name,
            write.epoch as i64,
            write.position as i64,
            Timestamp::now().as_micros(),
            attempt.at as i64,
            attempt.count,
        ])?;
    Ok(moved > 0)
}

pub(super) fn put(connection: &Connection, name: &str, cursor: &StoredCursor) -> rusqlite::Result<()> {
    put_at(connection, name, cursor, Timestamp::now())
}

/// The same, as it was written at a time.
pub(super) fn put_at(
    connection: &Connection,
    name: &str,
    cursor: &StoredCursor,
    updated_at: Timestamp,
) -> rusqlite::Result<()> {
    let paused = cursor.paused.as_ref();
    let retry = cursor.retry.as_ref().map(serde_json::to_string).transpose();
    let retry = retry.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.prepare_cached(PUT)?.execute(params![
        name,
        cursor.position as i64,
        cursor.query,
        cursor.log_id,
        cursor.epoch as i64,
        cursor.owner as i64,
        cursor.steering as i64,
        paused.map(paused_by),
        paused.map(|pause| pause.since.as_micros()),
        updated_at.as_micros(),
        cursor.attempt.at as i64,
        cursor.attempt.count,
        retry,
    ])?;
    Ok(())
}

/// What was parked stays with the stream.
pub(super) fn rename(connection: &Connection, name: &str, to: &str) -> rusqlite::Result<()> {
    for sql in [
        "UPDATE cursor SET name = ?2 WHERE name = ?1",
        "UPDATE dead_letter SET stream = ?2 WHERE stream = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([name, to])?;
    }
    // Who runs it or stands by for it is told that it has another name, and ends.
    claim::remove_all(connection, name)
}

/// What was parked goes with the stream.
pub(super) fn remove(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM cursor WHERE name = ?1",
        "DELETE FROM dead_letter WHERE stream = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([name])?;
    }
    claim::remove_all(connection, name)
}

/// Comes before the name of a stream that took over, where otherwise who paused stands, which no control character can be in.
pub(super) const TAKEN_OVER: char = '\u{1f}';

fn paused_by(pause: &Pause) -> String {
    match pause.kind {
        PauseKind::ByHand => pause.by.to_string(),
        PauseKind::TakenOver => format!("{TAKEN_OVER}{}", pause.by),
    }
}

fn pause(paused_by: &str, since: Timestamp) -> Pause {
    let (kind, by) = match paused_by.strip_prefix(TAKEN_OVER) {
        Some(successor) => (PauseKind::TakenOver, successor),
        None => (PauseKind::ByHand, paused_by),
    };
    let by = by.into();
    Pause { by, since, kind }
}

fn cursor(row: &Row<'_>) -> rusqlite::Result<StoredCursor> {
    let number = |index| row.get::<_, i64>(index).map(|number| number as u64);
    let paused_by: Option<String> = row.get(6)?;
    let paused_at: Option<i64> = row.get(7)?;
    let retry: Option<String> = row.get(11)?;
    let retry = retry.map(|text| serde_json::from_str(&text)).transpose();
    Ok(StoredCursor {
        position: number(0)?,
        query: row.get(1)?,
        log_id: row.get(2)?,
        epoch: number(3)?,
        owner: number(4)?,
        steering: number(5)?,
        paused: paused_by.map(|by| pause(&by, Timestamp::from_micros(paused_at.unwrap_or(0)))),
        retry: retry
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(11, Type::Text, error.into()))?,
        updated_at: Timestamp::from_micros(row.get(8)?),
        attempt: Attempt {
            at: number(9)?,
            count: row.get(10)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;
    use crate::log::sqlite::schema;

    #[test]
    fn one_row_is_searched_and_all_are_read_in_order_without_a_sort() {
        assert_eq!(plan(ONE), ["SEARCH cursor USING PRIMARY KEY (name=?)"]);
        assert_eq!(plan(ALL), ["SCAN cursor"]);
    }

    #[test]
    fn a_row_comes_back_as_it_was_put() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare_tables(&mut connection, "memory".as_ref()).unwrap();
        let mut row = StoredCursor {
            position: 7,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch: 4,
            owner: 3,
            steering: 5,
            paused: Some(Pause {
                by: "anna".into(),
                since: Timestamp::from_micros(9),
                kind: PauseKind::ByHand,
            }),
            retry: None,
            updated_at: Timestamp::EPOCH,
            attempt: Attempt { at: 8, count: 2 },
        };
        put(&connection, "ledger", &row).unwrap();
        row.position = 2;
        row.paused.as_mut().unwrap().kind = PauseKind::TakenOver;
        put(&connection, "ledger", &row).unwrap();
        rename(&connection, "ledger", "books").unwrap();
        assert_eq!(read(&connection, "ledger").unwrap(), None);
        let found = read(&connection, "books").unwrap().unwrap();
        row.updated_at = found.updated_at;
        assert_eq!(found, row);
        remove(&connection, "books").unwrap();
        assert!(all(&connection).unwrap().is_empty());
        assert_eq!([next_epoch(&connection), next_epoch(&connection)], [Ok(1), Ok(2)]);
    }
}

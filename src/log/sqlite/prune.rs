//! The rows that leave: where batches end, how the oldest of them are removed, and how a read learns of it.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::ReadError;
use crate::log::Extent;
use crate::log::page::Range;
use crate::log::prune::HeldBy;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::cursor::TAKEN_OVER;

/// The cursor that is furthest behind, of streams that go on. There is a row per durable stream, and no index: it would cost every
/// move of a cursor.
const SLOWEST: &str = "SELECT name, position FROM cursor
    WHERE log_id = ?1 AND (paused_by IS NULL OR substr(paused_by, 1, 1) <> ?2) ORDER BY position LIMIT 1";

/// By the primary key.
const OLDEST: &str = "SELECT sequence, batch_index, batch_size FROM event ORDER BY sequence LIMIT 1";

/// By the primary key.
const NEWEST_UP_TO: &str = "SELECT sequence, batch_index, batch_size FROM event
    WHERE sequence <= ?1 ORDER BY sequence DESC LIMIT 1";

/// By the primary key.
const REMOVE: &str = "DELETE FROM event WHERE sequence <= ?1";

/// Comes before the rows are removed: the trigger passes over what is known to be pruned.
const NOTE: &str = "UPDATE log SET pruned_through = ?1, pruned_recorded_at =
    coalesce((SELECT recorded_at FROM event WHERE sequence <= ?1 ORDER BY sequence DESC LIMIT 1), pruned_recorded_at)";

pub(super) fn slowest_cursor(connection: &Connection, log_id: &str) -> rusqlite::Result<Option<HeldBy>> {
    connection
        .prepare_cached(SLOWEST)?
        .query_row(params![log_id, TAKEN_OVER.to_string()], |row| {
            Ok(HeldBy {
                stream: Some(row.get(0)?),
                position: row.get::<_, i64>(1)? as u64,
                dead_letter: None,
            })
        })
        .optional()
}

pub(super) fn oldest_batch(connection: &Connection) -> rusqlite::Result<Option<Range>> {
    connection.prepare_cached(OLDEST)?.query_row([], batch).optional()
}

pub(super) fn batch_at(connection: &Connection, sequence: u64) -> rusqlite::Result<Option<Range>> {
    connection
        .prepare_cached(NEWEST_UP_TO)?
        .query_row([sequence as i64], batch)
        .optional()
}

/// The batch that a row belongs to.
fn batch(row: &Row<'_>) -> rusqlite::Result<Range> {
    let number = |index| row.get::<_, i64>(index).map(|number| number as u64);
    let first_sequence = number(0)?.saturating_sub(number(1)?).max(1);
    Ok(Range {
        after: first_sequence - 1,
        through: first_sequence + number(2)?.max(1) - 1,
    })
}

pub(super) fn remove_through(connection: &Connection, through: u64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(NOTE)?
        .execute(params![through as i64])?;
    let removed = connection.prepare_cached(REMOVE)?.execute([through as i64])?;
    Ok(removed as u64)
}

/// What the log holds.
pub(super) fn extent(connection: &Connection) -> rusqlite::Result<Extent> {
    connection
        .prepare_cached(
            "SELECT pruned_through, max(removed_through, pruned_through, coalesce((SELECT max(sequence) FROM event), 0))
             FROM log",
        )?
        .query_row([], |row| {
            Ok(Extent {
                pruned_through: row.get::<_, i64>(0)? as u64,
                head: row.get::<_, i64>(1)? as u64,
            })
        })
}

/// Refuses a page that begins before what pruning left. Asked when the page was read, in its snapshot or a later one: before
/// it, a prune could come in between.
pub(super) fn check(connection: &Connection, after: u64) -> Result<(), ReadError> {
    let pruned_through = connection
        .prepare_cached("SELECT pruned_through FROM log")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map_err(storage("read how far the log is pruned"))? as u64;
    if after < pruned_through {
        return Err(ReadError::Pruned {
            after,
            pruned_through,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain;

    #[test]
    fn no_statement_on_events_scans_or_sorts() {
        for (sql, expected) in [
            (OLDEST, "SCAN event"),
            (NEWEST_UP_TO, "SEARCH event USING INTEGER PRIMARY KEY (rowid<?)"),
            (REMOVE, "SEARCH event USING INTEGER PRIMARY KEY (rowid<?)"),
        ] {
            // The oldest row is where a walk along the primary key begins, and it ends there.
            assert_eq!(explain::plan(sql), [expected], "{sql}");
        }
    }
}

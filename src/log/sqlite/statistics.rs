//! What a file holds, counted along its indexes: no event is read.

use rusqlite::{Connection, OptionalExtension};

use crate::clock::{Day, Timestamp};
use crate::log::sqlite::prune::extent;
use crate::log::sqlite::read::position_at;
use crate::log::sqlite::statement::Snapshot;
use crate::log::statistics::LogStatistics;

/// By `event_by_type`, once through.
const BY_TYPE: &str =
    "SELECT name, sum((SELECT count(*) FROM event WHERE type = event_type.id)) FROM event_type GROUP BY name";

/// Along the smaller index: there is a row per key.
const KEYS: &str = "SELECT count(*) FROM idempotency_key";

/// By the primary key.
const NEXT: &str = "SELECT sequence, recorded_at FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT 1";

/// By the primary key.
const NEWEST: &str = "SELECT recorded_at FROM event ORDER BY sequence DESC LIMIT 1";

/// By the primary key.
const IN_RANGE: &str = "SELECT count(*) FROM event WHERE sequence > ?1 AND sequence <= ?2";

pub(super) fn statistics(connection: &Connection) -> rusqlite::Result<LogStatistics> {
    let _snapshot = Snapshot::begin(connection)?;
    let extent = extent(connection)?;
    let mut statistics = LogStatistics::of(extent);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let page_bytes = number("PRAGMA page_size")?;
    statistics.bytes = (number("PRAGMA page_count")? * page_bytes).unsigned_abs();
    statistics.free_bytes = (number("PRAGMA freelist_count")? * page_bytes).unsigned_abs();
    statistics.idempotency_keys = number(KEYS)?.unsigned_abs();
    let mut by_type = connection.prepare(BY_TYPE)?;
    let counts = by_type.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
    })?;
    statistics.take_types(counts.collect::<rusqlite::Result<Vec<_>>>()?);
    let newest: Option<i64> = connection.query_row(NEWEST, [], |row| row.get(0)).optional()?;
    statistics.last_recorded_at = newest.map(|micros| Timestamp::from_micros(micros).into());
    let has_holes = statistics.events != extent.head - extent.pruned_through;
    let counting = if has_holes {
        Counting::Rows
    } else {
        Counting::Sequences
    };
    let days = days(connection, counting)?;
    statistics.first_recorded_at = first(connection)?;
    statistics.take_days(days);
    Ok(statistics)
}

/// How the events of a stretch are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// There is an event at every sequence.
    Sequences,
    Rows,
}

fn first(connection: &Connection) -> rusqlite::Result<Option<std::time::SystemTime>> {
    let first = next(connection, 0)?;
    Ok(first.map(|(_, recorded_at)| recorded_at.into()))
}

fn next(connection: &Connection, after: u64) -> rusqlite::Result<Option<(u64, Timestamp)>> {
    connection
        .prepare_cached(NEXT)?
        .query_row([after as i64], |row| {
            Ok((row.get::<_, i64>(0)? as u64, Timestamp::from_micros(row.get(1)?)))
        })
        .optional()
}

/// Walks from day to day: recorded times never decrease, so that a day is a stretch whose end is searched for.
fn days(connection: &Connection, counting: Counting) -> rusqlite::Result<Vec<(Day, u64)>> {
    let mut days = Vec::new();
    let mut after = 0;
    while let Some((sequence, recorded_at)) = next(connection, after)? {
        let day = recorded_at.day();
        // In a damaged file the end may be found before the beginning.
        let end = position_at(connection, day.next().start())?.max(sequence);
        let events = match counting {
            Counting::Sequences => end - (sequence - 1),
            Counting::Rows => connection
                .prepare_cached(IN_RANGE)?
                .query_row([sequence as i64 - 1, end as i64], |row| row.get::<_, i64>(0))?
                .unsigned_abs(),
        };
        days.push((day, events));
        after = end;
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;

    #[test]
    fn every_statement_searches() {
        let by_type = "SEARCH event USING COVERING INDEX event_by_type (type=?)";
        let by_sequence = "SEARCH event USING INTEGER PRIMARY KEY";
        for (sql, expected) in [(BY_TYPE, by_type), (NEXT, by_sequence), (IN_RANGE, by_sequence)] {
            let plan = plan(sql);
            assert!(plan.iter().any(|step| step.starts_with(expected)), "{plan:#?}");
        }
    }
}

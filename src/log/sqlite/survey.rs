//! All durable streams at once: one statement for their rows, and one for the dead letters of all.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::clock::Timestamp;
use crate::log::letter::LetterCounts;
use crate::log::sqlite::statement::Snapshot;
use crate::log::sqlite::{cursor, letter, prune};
use crate::log::survey::Survey;

/// In the order of the primary key, over all letters, whose number the policy of each stream limits.
const ALL_COUNTS: &str =
    "SELECT count(*) FILTER (WHERE state <> 'skipped'), count(*) FILTER (WHERE state = 'skipped'),
        count(DISTINCT key), min(parked_at) FILTER (WHERE state <> 'skipped'), stream
    FROM dead_letter GROUP BY stream";

/// By the primary key. What comes after a position that pruning has passed is not known any more.
const RECORDED_AFTER: &str = "SELECT recorded_at FROM event
    WHERE sequence > ?1 AND ?1 >= (SELECT pruned_through FROM log) ORDER BY sequence LIMIT 1";

/// All of it is read in one snapshot, so that no cursor is ahead of the head. Who claims the streams is looked up beside it.
pub(super) fn survey(connection: &Connection) -> rusqlite::Result<Survey> {
    let _snapshot = Snapshot::begin(connection)?;
    Ok(Survey {
        head: prune::extent(connection)?.head,
        rows: cursor::all(connection)?,
        letters: all_counts(connection)?,
        claims: Vec::new(),
    })
}

fn all_counts(connection: &Connection) -> rusqlite::Result<HashMap<Arc<str>, LetterCounts>> {
    let mut statement = connection.prepare_cached(ALL_COUNTS)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(4)?.into(), letter::counts_of_row(row)?))
    })?;
    rows.collect()
}

/// For each position, when the first event after it was recorded, if there is one.
pub(super) fn recorded_after(
    connection: &Connection,
    positions: &[u64],
) -> rusqlite::Result<Vec<Option<Timestamp>>> {
    let _snapshot = Snapshot::begin(connection)?;
    let mut statement = connection.prepare_cached(RECORDED_AFTER)?;
    let mut recorded_at = |position: &u64| {
        let micros = statement.query_row([*position as i64], |row| row.get(0));
        Ok(micros.optional()?.map(Timestamp::from_micros))
    };
    positions.iter().map(&mut recorded_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;

    #[test]
    fn letters_are_counted_in_one_walk_and_an_age_is_searched() {
        let counts = plan(ALL_COUNTS);
        assert!(counts.contains(&String::from("SCAN dead_letter")), "{counts:#?}");
        let is_sorted = |step: &&String| step.contains("TEMP B-TREE FOR GROUP BY");
        assert_eq!(counts.iter().find(is_sorted), None, "{counts:#?}");
        let age = plan(RECORDED_AFTER);
        let by_sequence = "SEARCH event USING INTEGER PRIMARY KEY (rowid>?)";
        assert!(age.iter().any(|step| step == by_sequence), "{age:#?}");
    }
}

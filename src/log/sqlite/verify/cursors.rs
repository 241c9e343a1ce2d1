//! The rows of `cursor` and of `dead_letter`: each belongs to this log, and lies inside it.

use rusqlite::Connection;
use serde_json::{Map, Value};

use crate::log::retry_request::RetryRequest;
use crate::log::sqlite::verify::LogRow;
use crate::log::verification::{Finding, Verification};

/// What is looked at of a cursor's row.
struct CursorRow {
    name: String,
    position: i64,
    query: String,
    log_id: String,
    epoch: i64,
    retry: Option<String>,
}

/// By no index: there are few.
const LETTERS: &str = "SELECT stream, first_sequence, last_sequence, state FROM dead_letter
    WHERE first_sequence < 1 OR last_sequence < first_sequence OR last_sequence > ?1
       OR state NOT IN ('parked', 'queued', 'skipped')";

/// Looks at all cursors and dead letters. The head is known by then.
pub(super) fn verify(
    connection: &Connection,
    log: &LogRow,
    verification: &mut Verification,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare("SELECT name, position, query, log_id, epoch, retry FROM cursor")?;
    let rows = statement.query_map([], |row| {
        Ok(CursorRow {
            name: row.get(0)?,
            position: row.get(1)?,
            query: row.get(2)?,
            log_id: row.get(3)?,
            epoch: row.get(4)?,
            retry: row.get(5)?,
        })
    })?;
    for cursor in rows {
        verification.cursors += 1;
        for finding in findings(cursor?, log, verification.head) {
            verification.found(finding);
        }
    }
    dead_letters(connection, verification)
}

fn dead_letters(connection: &Connection, verification: &mut Verification) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(LETTERS)?;
    let mut rows = statement.query([verification.head.cast_signed()])?;
    while let Some(row) = rows.next()? {
        let (last_sequence, state): (i64, String) = (row.get(2)?, row.get(3)?);
        verification.found(Finding::DeadLetterDamaged {
            stream: row.get(0)?,
            first_sequence: row.get(1)?,
            problem: format!(
                "it ends with event {last_sequence} and is {state:?}, the log ends at {}",
                verification.head
            ),
        });
    }
    Ok(())
}

fn findings(cursor: CursorRow, log: &LogRow, head: u64) -> Vec<Finding> {
    let CursorRow { name, position, .. } = &cursor;
    let mut findings = Vec::new();
    let mut damaged = |problem: String| {
        findings.push(Finding::CursorDamaged {
            name: name.clone(),
            problem,
        });
    };
    if cursor.epoch < 1 {
        damaged(format!("its epoch is {}, which is less than 1", cursor.epoch));
    }
    if let Err(error) = serde_json::from_str::<Vec<Map<String, Value>>>(&cursor.query) {
        damaged(format!("its query is not a list of filters: {error}"));
    }
    let retry = cursor.retry.as_deref().map(serde_json::from_str::<RetryRequest>);
    if let Some(Err(error)) = retry {
        damaged(format!(
            "its request to retry dead letters cannot be read: {error}"
        ));
    }
    match u64::try_from(*position) {
        Err(_) => damaged(format!("it stands at {position}, which is less than 0")),
        // The head says nothing of the position in another log.
        Ok(position) if position > head && cursor.log_id == log.log_id => {
            findings.push(Finding::CursorAhead {
                name: name.clone(),
                position,
                head,
            })
        }
        Ok(_) => {}
    }
    if cursor.log_id != log.log_id {
        findings.push(Finding::CursorForeign {
            name: cursor.name,
            cursor_log: cursor.log_id,
            log: log.log_id.clone(),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_this_log_inside_it_and_can_be_read() {
        let log = LogRow {
            log_id: String::from("here"),
            removed_through: 0,
            pruned_through: 0,
            pruned_recorded_at: 0,
            indexed_through: 0,
        };
        let found = |position, query: &str, log_id: &str, epoch| {
            let cursor = CursorRow {
                name: String::from("ledger"),
                position,
                query: query.to_owned(),
                log_id: log_id.to_owned(),
                epoch,
                retry: None,
            };
            findings(cursor, &log, 9)
        };
        assert_eq!(found(9, "[{}]", "here", 1), []);
        assert!(matches!(
            found(10, "[]", "here", 1)[..],
            [Finding::CursorAhead { .. }]
        ));
        assert!(matches!(
            found(10, "[]", "there", 1)[..],
            [Finding::CursorForeign { .. }]
        ));
        for (position, query, epoch) in [(-1, "[]", 1), (1, "{", 1), (1, "[1]", 1), (1, "[]", 0)] {
            let findings = found(position, query, "here", epoch);
            assert!(
                matches!(findings[..], [Finding::CursorDamaged { .. }]),
                "{position} {query} {epoch}: {findings:?}"
            );
        }
    }
}

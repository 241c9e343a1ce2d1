//! The rows of `idempotency_key`: each names a batch that the log has, or that was removed by hand.

use rusqlite::Connection;

use crate::log::sqlite::verify::LogRow;
use crate::log::verification::{Finding, Verification};

/// By the primary key of the events, for each row.
const KEYS: &str = "SELECT key.key, key.first_sequence, key.last_sequence, length(key.fingerprint), event.batch_index, event.batch_size
    FROM idempotency_key AS key LEFT JOIN event ON event.sequence = key.first_sequence";

/// What is looked at of a row.
struct KeyRow {
    first_sequence: i64,
    last_sequence: i64,
    fingerprint_bytes: i64,
    /// Of the event that the batch begins with: its place in the batch, and how many there are.
    batch: Option<(i64, i64)>,
}

/// Looks at all keys. The head is known by then.
pub(super) fn verify(
    connection: &Connection,
    log: &LogRow,
    verification: &mut Verification,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(KEYS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        verification.idempotency_keys += 1;
        let batch_index: Option<i64> = row.get(4)?;
        let key = KeyRow {
            first_sequence: row.get(1)?,
            last_sequence: row.get(2)?,
            fingerprint_bytes: row.get(3)?,
            batch: batch_index.zip(row.get(5)?),
        };
        if let Some(problem) = problem(&key, log.pruned_through, verification.head) {
            verification.found(Finding::IdempotencyKeyDamaged {
                key: row.get(0)?,
                problem,
            });
        }
    }
    Ok(())
}

fn problem(key: &KeyRow, pruned_through: i64, head: u64) -> Option<String> {
    let KeyRow {
        first_sequence: first,
        last_sequence: last,
        ..
    } = *key;
    if key.fingerprint_bytes != 16 {
        return Some(format!(
            "its fingerprint has {} bytes, not 16",
            key.fingerprint_bytes
        ));
    }
    if first < 1 || last < first {
        return Some(format!("it stands for the events {first} to {last}"));
    }
    if first <= pruned_through {
        return Some(format!(
            "it stands for event {first}, the log is pruned through {pruned_through}"
        ));
    }
    if last.unsigned_abs() > head {
        return Some(format!("it stands for event {last}, the log ends at {head}"));
    }
    match key.batch {
        Some(batch) if batch != (0, last - first + 1) => Some(format!(
            "it stands for the events {first} to {last}, which are not a batch"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_a_batch_inside_the_log() {
        let found = |first_sequence, last_sequence, fingerprint_bytes, batch| {
            let key = KeyRow {
                first_sequence,
                last_sequence,
                fingerprint_bytes,
                batch,
            };
            problem(&key, 3, 9)
        };
        assert_eq!(found(4, 6, 16, Some((0, 3))), None);
        assert_eq!(found(4, 6, 16, None), None, "its events were removed by hand");
        for (first, last, bytes, batch) in [
            (4, 6, 15, Some((0, 3))),
            (4, 6, 16, Some((1, 3))),
            (4, 6, 16, Some((0, 2))),
            (3, 6, 16, None),
            (7, 10, 16, None),
            (7, 6, 16, None),
            (0, 0, 16, None),
        ] {
            assert!(
                found(first, last, bytes, batch).is_some(),
                "{first} {last} {bytes} {batch:?}"
            );
        }
    }
}

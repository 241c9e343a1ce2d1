//! The rows of idempotency keys.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::StorageError;
use crate::event::fingerprint::Fingerprint;
use crate::log::once::{KeyReader, KeyWriter, NamedKey, StoredKey};
use crate::log::page::Range;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::read::SqliteReader;
use crate::log::sqlite::write::SqliteWriter;

/// By the index of the keys.
const ONE: &str = "SELECT first_sequence, last_sequence, fingerprint FROM idempotency_key WHERE key = ?1";

/// By the primary key.
const RANGE: &str = "SELECT first_sequence, last_sequence, fingerprint, key FROM idempotency_key
    WHERE first_sequence > ?1 AND first_sequence <= ?2 ORDER BY first_sequence";

const PUT: &str =
    "INSERT INTO idempotency_key (first_sequence, last_sequence, key, fingerprint) VALUES (?1, ?2, ?3, ?4)";

/// By the primary key. Whole batches leave, so one that begins before the end has its end there too.
const REMOVE: &str = "DELETE FROM idempotency_key WHERE first_sequence <= ?1";

/// Forgets the keys of batches that are pruned.
pub(super) fn remove_through(connection: &Connection, through: u64) -> rusqlite::Result<()> {
    connection.prepare_cached(REMOVE)?.execute([through as i64])?;
    Ok(())
}

fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredKey> {
    Ok(StoredKey {
        first_sequence: row.get::<_, i64>(0)? as u64,
        last_sequence: row.get::<_, i64>(1)? as u64,
        fingerprint: Fingerprint(row.get(2)?),
    })
}

impl KeyWriter for SqliteWriter {
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError> {
        let found = self
            .connection()
            .prepare_cached(ONE)
            .and_then(|mut statement| statement.query_row([key], stored).optional());
        found.map_err(storage("look for an idempotency key"))
    }

    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError> {
        let put = || {
            self.connection().prepare_cached(PUT)?.execute(params![
                stored.first_sequence as i64,
                stored.last_sequence as i64,
                key,
                stored.fingerprint.0,
            ])
        };
        put().map_err(storage("store an idempotency key"))?;
        Ok(())
    }
}

impl KeyReader for SqliteReader {
    fn idempotency_keys(&self, range: Range) -> Result<Vec<NamedKey>, StorageError> {
        self.with_connection(|lent| {
            let read = || {
                let mut statement = lent.connection.prepare_cached(RANGE)?;
                let rows = statement.query_map([range.after as i64, range.through as i64], |row| {
                    Ok(NamedKey {
                        key: row.get::<_, String>(3)?.into(),
                        stored: stored(row)?,
                    })
                })?;
                rows.collect::<rusqlite::Result<_>>()
            };
            read().map_err(storage("read the idempotency keys"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;

    #[test]
    fn every_statement_searches() {
        let by_sequence = "SEARCH idempotency_key USING INTEGER PRIMARY KEY (rowid";
        let by_key = "SEARCH idempotency_key USING INDEX sqlite_autoindex_idempotency_key_1 (key=?)";
        for (sql, expected) in [(ONE, by_key), (RANGE, by_sequence), (REMOVE, by_sequence)] {
            let plan = plan(sql);
            assert!(
                plan.len() == 1 && plan[0].starts_with(expected),
                "{sql}: {plan:?}"
            );
        }
    }
}

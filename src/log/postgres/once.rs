//! The rows of idempotency keys.

use tokio_postgres::Row;

use crate::error::StorageError;
use crate::event::fingerprint::Fingerprint;
#[cfg(feature = "sqlite")]
use crate::log::once::{KeyReader, NamedKey};
use crate::log::once::{KeyWriter, StoredKey};
#[cfg(feature = "sqlite")]
use crate::log::page::Range;
use crate::log::postgres::place::bounded;
#[cfg(feature = "sqlite")]
use crate::log::postgres::read::PostgresReader;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::PostgresWriter;

/// By the index of the digests.
const ONE: &str = "SELECT first_sequence, last_sequence, fingerprint FROM idempotency_key
    WHERE digest = sha256(convert_to($1, 'UTF8'))";

/// By the primary key.
#[cfg(feature = "sqlite")]
const RANGE: &str = "SELECT first_sequence, last_sequence, fingerprint, key FROM idempotency_key
    WHERE first_sequence > $1 AND first_sequence <= $2 ORDER BY first_sequence";

const PUT: &str = "INSERT INTO idempotency_key (first_sequence, last_sequence, key, fingerprint, digest)
    VALUES ($1, $2, $3, $4, sha256(convert_to($3, 'UTF8')))";

/// By the primary key. Whole batches leave, so one that begins before the end has its end there too.
const REMOVE: &str = "DELETE FROM idempotency_key WHERE first_sequence <= $1";

/// Forgets the keys of batches that are pruned.
pub(super) async fn remove_through(session: &mut Session, through: u64) -> Result<(), Trouble> {
    session.execute(REMOVE, &[&bounded(through)]).await?;
    Ok(())
}

fn stored(row: &Row) -> Result<StoredKey, Trouble> {
    let fingerprint: &[u8] = row.try_get(2)?;
    let fingerprint = fingerprint.try_into().map_err(|_| {
        let bytes = fingerprint.len();
        Trouble::Malformed(format!("a fingerprint has {bytes} bytes, and not 16"))
    })?;
    Ok(StoredKey {
        first_sequence: number(row, 0)?,
        last_sequence: number(row, 1)?,
        fingerprint: Fingerprint(fingerprint),
    })
}

impl KeyWriter for PostgresWriter {
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError> {
        self.with("look for an idempotency key", async |session| {
            let row = session.maybe(ONE, &[&key]).await?;
            row.map(|row| stored(&row)).transpose()
        })
    }

    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError> {
        let (first, last) = (bounded(stored.first_sequence), bounded(stored.last_sequence));
        self.with("store an idempotency key", async |session| {
            let fingerprint = &stored.fingerprint.0[..];
            session.execute(PUT, &[&first, &last, &key, &fingerprint]).await?;
            Ok(())
        })
    }
}

#[cfg(feature = "sqlite")]
impl KeyReader for PostgresReader {
    fn idempotency_keys(&self, range: Range) -> Result<Vec<NamedKey>, StorageError> {
        self.with("read the idempotency keys", async |session| {
            let (after, through) = (bounded(range.after), bounded(range.through));
            let rows = session.all(RANGE, &[&after, &through]).await?;
            let keys = rows.iter().map(|row| {
                Ok(NamedKey {
                    key: row.try_get::<_, &str>(3)?.into(),
                    stored: stored(row)?,
                })
            });
            keys.collect()
        })
    }
}

//! The file that holds the read models, and the idiom that keeps one right: the position in the same transaction as the rows.
//!
//! A durable stream delivers at least once. What it delivers again after a crash must not be counted again, so every
//! slice keeps the last sequence that its rows contain, moves it together with them, and ignores what lies before it.
//!
//! Nothing here is precious: it can be deleted and is filled again from the log.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use millstream::EventBatch;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::Result;

/// Raise this when a slice's tables change: older files are then thrown away and filled again.
const FORMAT: u32 = 1;

/// The read models of one log. The slices share the connection and take turns; SQLite has one writer at a time anyway.
pub(crate) struct Views {
    path: PathBuf,
    connection: Mutex<Connection>,
    repeated: Mutex<BTreeMap<&'static str, u64>>,
}

impl Views {
    /// Opens the read models of a log beside its file. Those of another log or another format are thrown away.
    pub(crate) fn open(path: PathBuf, log_id: &str, tables: &[&str]) -> Result<Self> {
        let made_for = format!("format {FORMAT} of log {log_id}");
        let mut connection = connect(&path)?;
        if read_made_for(&connection)?.is_some_and(|found| found != made_for) {
            drop(connection);
            remove(&path)?;
            connection = connect(&path)?;
        }
        let transaction = connection.transaction()?;
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS made_for (id TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS slices (name TEXT PRIMARY KEY, applied INTEGER NOT NULL) WITHOUT ROWID;",
        )?;
        transaction.execute(
            "INSERT INTO made_for (id) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM made_for)",
            params![made_for],
        )?;
        for tables in tables {
            transaction.execute_batch(tables)?;
        }
        transaction.commit()?;
        Ok(Self {
            path,
            connection: Mutex::new(connection),
            repeated: Mutex::default(),
        })
    }

    /// Applies a batch to the rows of a slice, unless they contain it already.
    ///
    /// This blocks, and is called from async handlers all the same: a commit takes some tens of microseconds, about as
    /// much as handing it to another thread would, and only once in some thousand commits SQLite waits for the disk. A
    /// handler that waits for a disk or computes for milliseconds every time belongs into `spawn_blocking`.
    pub(crate) fn apply_once(
        &self,
        slice: &'static str,
        batch: &EventBatch,
        write: impl FnOnce(&Connection, &EventBatch) -> Result<()>,
    ) -> Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A batch is delivered whole, so it is either contained to its end or not at all.
        if batch.last_sequence() <= applied(&transaction, slice)? {
            *locked(&self.repeated).entry(slice).or_default() += 1;
            return Ok(());
        }
        write(&transaction, batch)?;
        transaction
            .prepare_cached("INSERT OR REPLACE INTO slices (name, applied) VALUES (?1, ?2)")?
            .execute(params![slice, batch.last_sequence().cast_signed()])?;
        transaction.commit()?;
        Ok(())
    }

    /// The last sequence that the rows of a slice contain.
    pub(crate) fn applied(&self, slice: &str) -> Result<u64> {
        applied(&self.connection(), slice)
    }

    /// How many batches were given to a slice again and ignored.
    pub(crate) fn repeated(&self, slice: &str) -> u64 {
        locked(&self.repeated).get(slice).copied().unwrap_or(0)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        read(&self.connection())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        locked(&self.connection)
    }
}

fn applied(connection: &Connection, slice: &str) -> Result<u64> {
    let applied: Option<i64> = connection
        .prepare_cached("SELECT applied FROM slices WHERE name = ?1")?
        .query_row(params![slice], |row| row.get(0))
        .optional()?;
    Ok(applied.map_or(0, i64::cast_unsigned))
}

fn connect(path: &Path) -> Result<Connection> {
    // The default flags also read a name like `file:x?mode=ro` as a URI; a path is a path.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A power cut may take the newest transactions, whole ones; they are then applied again from the log.
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}

/// What the file was made for; none when it is new.
fn read_made_for(connection: &Connection) -> Result<Option<String>> {
    let exists = connection
        .prepare("SELECT 1 FROM sqlite_schema WHERE name = 'made_for'")?
        .exists([])?;
    if !exists {
        return Ok(None);
    }
    let id = connection
        .query_row("SELECT id FROM made_for", [], |row| row.get(0))
        .optional()?;
    Ok(Some(id.unwrap_or_default()))
}

fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `history.db` and `.views` make `history.db.views`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A panic while a lock was held left no half transaction behind: it was rolled back on the way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

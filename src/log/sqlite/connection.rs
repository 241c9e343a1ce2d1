//! How the file is opened.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{OpenError, StorageError};
use crate::log::opening::{Absent, Durability};
use crate::log::sqlite::turns::be_patient;

impl Durability {
    /// The pragma for a commit that is to be as durable as the store says.
    pub(super) fn pragma(self) -> &'static str {
        match self {
            Self::Full => "PRAGMA synchronous=FULL",
            Self::Relaxed => ORDERED,
        }
    }
}

/// The pragma for a commit that need not be synced.
pub(super) const ORDERED: &str = "PRAGMA synchronous=NORMAL";

/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 64;

pub(super) fn open_writer(
    path: &Path,
    durability: Durability,
    absent: Absent,
) -> Result<Connection, OpenError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, absent == Absent::Made);
    let open = || {
        let connection = open(path, flags)?;
        connection.execute_batch(durability.pragma())?;
        // The writer takes the types' numbers from the very table that SQLite would look them up in for each row.
        connection.execute_batch("PRAGMA foreign_keys=0")?;
        // Asks for the file's content, so that a file which is no database is found out here.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::ForeignFile {
            path: path.to_owned(),
            found: String::from("it is not an SQLite database"),
        },
        Some(ErrorCode::CannotOpen) if absent == Absent::Refused && !path.exists() => {
            let path = path.to_owned();
            OpenError::Missing { path }
        }
        _ => storage("open the file")(error).into(),
    })
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = open(path, flags)?;
        connection.execute_batch("PRAGMA query_only=1")?;
        Ok(connection)
    };
    open().map_err(storage("open the file for reading"))
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, flags)?;
    settle(&mut connection)?;
    Ok(connection)
}

/// What lies beside the file of a log that is there: every way to name that file leads to the same.
pub(super) fn side_path(log: &Path, ending: &str) -> PathBuf {
    let log = fs::canonicalize(log).unwrap_or_else(|_| log.to_owned());
    let mut path = log.into_os_string();
    path.push(ending);
    path.into()
}

/// Sets a connection as all of them are, whatever was done with it.
pub(super) fn settle(connection: &mut Connection) -> rusqlite::Result<()> {
    be_patient(connection)?;
    // Otherwise SQLite plans a statement anew when the bounds of its ranges change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// Names the operation that SQLite could not do.
pub(crate) fn storage(operation: &'static str) -> impl Fn(rusqlite::Error) -> StorageError {
    move |error| {
        let code = error.sqlite_error_code();
        let error = StorageError::new(operation, error);
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => error.busy(),
            Some(ErrorCode::DatabaseCorrupt) => error.damage(),
            _ => error,
        }
    }
}

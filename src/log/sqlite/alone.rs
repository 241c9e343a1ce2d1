//! Whether anybody has a log open: asked before its file is removed.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::StorageError;
use crate::log::sqlite::connection::storage;

/// Whether nobody has the log in this file open, in this process or in another one.
///
/// Every connection in write-ahead mode holds a lock on the file as long as it is open, and leaving that mode takes all of them.
/// A file that SQLite cannot read is nobody's.
pub(crate) fn is_alone(path: &Path) -> Result<bool, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let leave = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0))
    };
    match leave() {
        Ok(mode) => Ok(mode == "delete"),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Ok(false),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Ok(true),
            _ => Err(storage("find out who has the file open")(error)),
        },
    }
}

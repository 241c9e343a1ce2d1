//! The log in an SQLite file, in write-ahead mode. `docs/format.md` describes the file.
//!
//! In reading order: `schema` (the tables, their migrations, what is refused), `connection` (how the file is opened),
//! `write` (the committer's half), `query_sql` (which rows a query can concern), `read` (the readers' half).
//!
//! This code never opens the database file by other means than SQLite: closing it would drop SQLite's locks.

pub(crate) mod connection;
mod query_sql;
mod read;
mod schema;
mod write;

use std::path::Path;

use crate::error::OpenError;
use crate::log::sqlite::connection::Durability;
use crate::log::sqlite::read::SqliteReader;
use crate::log::sqlite::write::SqliteWriter;

/// Opens a log, or makes one, and gives its two halves.
pub(crate) fn open(
    path: &Path,
    durability: Durability,
    idle_readers_max: usize,
) -> Result<(SqliteWriter, SqliteReader), OpenError> {
    let mut connection = connection::open_writer(path, durability)?;
    let log_id = schema::prepare(&mut connection, path)?;
    let writer = SqliteWriter::new(connection, durability);
    let reader = SqliteReader::new(path, log_id, idle_readers_max)?;
    Ok((writer, reader))
}

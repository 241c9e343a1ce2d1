//! The log in an SQLite file, in write-ahead mode. `docs/format.md` describes the file.
//!
//! In reading order: `schema` (the tables, their migrations, what is refused), `connection` (how the file is opened),
//! `write`, `insert` and `checkpoint` (the committer's half), `query_sql` (which rows a query can concern), `read` (the readers' half).
//!
//! This code never opens the database file by other means than SQLite: closing it would drop SQLite's locks.

mod checkpoint;
pub(crate) mod connection;
mod insert;
mod query_sql;
mod read;
mod schema;
mod write;

use std::path::Path;
#[cfg(feature = "internals")]
use std::sync::Arc;

use crate::error::OpenError;
#[cfg(feature = "internals")]
use crate::event::batch::CommittedBatch;
#[cfg(feature = "internals")]
use crate::event::query::EventQuery;
#[cfg(feature = "internals")]
use crate::log::page::{PageBounds, Range};
use crate::log::sqlite::checkpoint::Checkpoints;
use crate::log::sqlite::connection::{Durability, storage};
use crate::log::sqlite::read::SqliteReader;
use crate::log::sqlite::write::SqliteWriter;
#[cfg(feature = "internals")]
use crate::log::{LogWriter, Sync};

/// Opens a log, or makes one, and gives its two halves.
pub(crate) fn open(
    path: &Path,
    durability: Durability,
    idle_readers_max: usize,
) -> Result<(SqliteWriter, SqliteReader), OpenError> {
    let mut connection = connection::open_writer(path, durability)?;
    let log_id = schema::prepare(&mut connection, path)?;
    let checkpoints = Checkpoints::of(&mut connection).map_err(storage("watch the write-ahead log"))?;
    let writer = SqliteWriter::new(connection, durability, Some(checkpoints));
    let reader = SqliteReader::new(path, log_id, idle_readers_max)?;
    Ok((writer, reader))
}

/// Which events of the batch each query selects, found in a log that has nothing else; for the proofs.
#[cfg(feature = "internals")]
pub(crate) fn select(queries: &[EventQuery], batch: CommittedBatch) -> Vec<Vec<u64>> {
    let range = Range {
        after: 0,
        through: batch.events.len() as u64,
    };
    let bounds = PageBounds {
        batches_max: 1,
        bytes_max: usize::MAX,
    };
    let mut connection = rusqlite::Connection::open_in_memory().expect("memory can be opened");
    schema::prepare_tables(&mut connection, "memory".as_ref()).expect("an empty database can be prepared");
    let mut writer = SqliteWriter::new(connection, Durability::Relaxed, None);
    if !batch.events.is_empty() {
        writer.begin(Sync::Ordered).expect("nobody else writes");
        writer
            .append(&Arc::new(batch))
            .expect("checked events can be appended");
        writer.commit().expect("nothing hinders the commit");
    }
    let mut select = |query| {
        let page = writer
            .select(query, range, bounds)
            .expect("what was appended can be read");
        assert_eq!(page.through, range.through, "one page reaches the end");
        let events = page.batches.iter().flat_map(|batch| &batch.events);
        events.map(|event| event.sequence).collect()
    };
    queries.iter().map(&mut select).collect()
}

//! The log in an SQLite file, in write-ahead mode. `docs/format.md` describes the file.
//!
//! In reading order: `schema` (the tables, their migrations, what is refused), `connection` (how the file is opened),
//! `index` (where tags and payloads are found), `write`, `insert`, `cursor`, `claim`, `letter`, `once`, `prune` and `checkpoint` (the committer's
//! half), `presence` (by what a store is seen to live), `turns` (how several processes share the file), `beside` and `guard` (who else writes into the file, and how that is kept in its place), `candidates` (which events a query can concern), `statement`, `names`, `row` and `pages` (how rows are read), `read` (the
//! readers' half), `survey`, `statistics`, `backup`, `copy` and `verify` (what is asked of a whole file), `alone` (whether somebody has it open).
//!
//! This code never opens the database file by other means than SQLite: closing it would drop SQLite's locks.

pub(crate) mod alone;
mod backup;
pub(crate) mod beside;
mod candidates;
mod checkpoint;
mod claim;
pub(crate) mod connection;
pub(crate) mod copy;
mod cursor;
#[cfg(test)]
mod explain;
pub(crate) mod guard;
pub(crate) mod index;
mod insert;
mod letter;
mod names;
mod once;
mod pages;
mod presence;
mod prune;
mod read;
mod row;
mod schema;
mod statement;
mod statistics;
mod survey;
mod turns;
mod verify;
mod write;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use crate::error::OpenError;
#[cfg(feature = "internals")]
use crate::event::batch::CommittedBatch;
use crate::event::evolution::Evolution;
#[cfg(feature = "internals")]
use crate::event::query::EventQuery;
use crate::log::opening::{Absent, Durability};
#[cfg(feature = "internals")]
use crate::log::page::{PageBounds, Range};
use crate::log::sqlite::checkpoint::Checkpoints;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::index::path::PayloadPath;
use crate::log::sqlite::index::upkeep::{Sizes, Upkeep};
use crate::log::sqlite::names::TypeNames;
use crate::log::sqlite::read::SqliteReader;
use crate::log::sqlite::schema::Made;
use crate::log::sqlite::write::SqliteWriter;
#[cfg(feature = "internals")]
use crate::log::{LogWriter, Sync};

/// How a log is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) durability: Durability,
    pub(crate) absent: Absent,
    pub(crate) idle_readers_max: usize,
    /// Paths into the payload that are to be indexed, beside those that already are.
    pub(crate) paths: Vec<PayloadPath>,
    pub(crate) sizes: Sizes,
    /// What older events are brought up to date with.
    pub(crate) evolution: Option<Arc<Evolution>>,
    /// How many pages the file may have, as if the disk were full then; for the proofs.
    pub(crate) pages_max: Option<u32>,
}

/// Opens a log, or makes one, and gives its two halves.
pub(crate) fn open(path: &Path, options: &Options) -> Result<(SqliteWriter, SqliteReader), OpenError> {
    let mut connection = connection::open_writer(path, options.durability, options.absent)?;
    let log_id = schema::prepare(&mut connection, path, options.absent, Made::Log)?;
    if let Some(log_id) = schema::copy_of(&connection).map_err(storage("read the log's row"))? {
        let path = path.to_owned();
        return Err(OpenError::PartialCopy { path, log_id });
    }
    halves(connection, path, log_id, options)
}

/// The two halves of a log whose file is prepared.
fn halves(
    mut connection: Connection,
    path: &Path,
    log_id: String,
    options: &Options,
) -> Result<(SqliteWriter, SqliteReader), OpenError> {
    schema::declare_paths(&mut connection, &options.paths)?;
    if let Some(pages_max) = options.pages_max {
        connection
            .pragma_update(None, "max_page_count", pages_max)
            .map_err(storage("limit the file"))?;
    }
    let checkpoints = Checkpoints::of(&mut connection).map_err(storage("watch the write-ahead log"))?;
    let shared = index::view::shared();
    let names = TypeNames::new(options.evolution.clone());
    let reader = SqliteReader::new(path, log_id, Arc::clone(&shared), options)?;
    let index = Upkeep::new(shared, options.sizes);
    let writer = SqliteWriter::new(connection, options.durability, index, names, Some(checkpoints));
    Ok((writer.shared(path), reader))
}

/// Which events of the batch each query selects, found in a log that has nothing else and indexes these paths; for the proofs.
#[cfg(feature = "internals")]
pub(crate) fn select(queries: &[EventQuery], paths: &[PayloadPath], batch: CommittedBatch) -> Vec<Vec<u64>> {
    let range = Range {
        after: 0,
        through: batch.events.len() as u64,
    };
    let bounds = PageBounds {
        batches_max: 1,
        bytes_max: usize::MAX,
    };
    let mut connection = Connection::open_in_memory().expect("memory can be opened");
    schema::prepare_tables(&mut connection, "memory".as_ref()).expect("an empty database can be prepared");
    schema::declare_paths(&mut connection, paths).expect("there are few paths");
    let index = Upkeep::new(index::view::shared(), Sizes::default());
    let mut writer = SqliteWriter::new(connection, Durability::Relaxed, index, TypeNames::default(), None);
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

//! The readers' half: connections that are lent for a read, and the small reads beside the pages.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::clock::Timestamp;
use crate::error::{BackupError, ReadError, StorageError, VerifyError};
use crate::event::evolution::Evolution;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::backup::{BackedUp, BackupProgress};
use crate::log::copy::CopySource;
use crate::log::cursor::{NamedCursor, StoredCursor};
use crate::log::owner::{Claim, InstanceId, Sign};
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::sqlite::candidates::{Candidates, candidates};
use crate::log::sqlite::connection::{open_reader, storage};
use crate::log::sqlite::index::view::{IndexView, Shared};
use crate::log::sqlite::names::TypeNames;
use crate::log::sqlite::pages::{self, Source};
use crate::log::sqlite::presence::Presence;
use crate::log::sqlite::{Options, backup, claim, cursor, prune, statistics, survey, verify};
use crate::log::statistics::LogStatistics;
use crate::log::survey::Survey;
use crate::log::verification::Verification;
use crate::log::{Extent, LogReader};
use crate::sync::Mutex;

/// Connections for reading, opened when they are needed and kept for the next read.
pub(crate) struct SqliteReader {
    path: PathBuf,
    log_id: String,
    /// Where signs of life of instances are looked for; it holds none of its own.
    presence: Presence,
    index: Arc<Mutex<Shared>>,
    evolution: Option<Arc<Evolution>>,
    idle: Mutex<Idle>,
}

/// The connections that wait for the next read.
struct Idle {
    connections: Vec<ReadConnection>,
    /// 0, once the store is closed.
    connections_max: usize,
}

pub(super) struct ReadConnection {
    pub(super) connection: Connection,
    type_names: TypeNames,
    pub(super) index: IndexView,
}

impl SqliteReader {
    pub(super) fn new(
        path: &Path,
        log_id: String,
        index: Arc<Mutex<Shared>>,
        options: &Options,
    ) -> Result<Self, StorageError> {
        let evolution = options.evolution.clone();
        let first = ReadConnection::open(path, &index, evolution.clone())?;
        Ok(Self {
            path: path.to_owned(),
            log_id,
            presence: Presence::beside(path),
            index,
            evolution,
            idle: Mutex::new(Idle {
                connections: vec![first],
                connections_max: options.idle_readers_max,
            }),
        })
    }

    /// Lends a connection. One whose read failed is not used again.
    pub(super) fn with_connection<T, E: From<StorageError>>(
        &self,
        read: impl FnOnce(&mut ReadConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self.idle.lock().connections.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => ReadConnection::open(&self.path, &self.index, self.evolution.clone())?,
        };
        let outcome = read(&mut connection)?;
        let mut idle = self.idle.lock();
        if idle.connections.len() < idle.connections_max {
            idle.connections.push(connection);
        }
        Ok(outcome)
    }
}

impl ReadConnection {
    fn open(
        path: &Path,
        index: &Arc<Mutex<Shared>>,
        evolution: Option<Arc<Evolution>>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            connection: open_reader(path)?,
            type_names: TypeNames::new(evolution),
            index: IndexView::new(Arc::clone(index)),
        })
    }
}

impl LogReader for SqliteReader {
    fn copy_source(&self) -> Option<&dyn CopySource> {
        Some(self)
    }

    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let mut first = None;
        self.pages(query, range, bounds, &mut |page| {
            first = Some(page);
            More::No
        })?;
        Ok(first.expect("there is always a page, if an empty one"))
    }

    fn pages(
        &self,
        query: &EventQuery,
        range: Range,
        bounds: PageBounds,
        take: &mut dyn FnMut(Page) -> More,
    ) -> Result<(), ReadError> {
        self.with_connection(|lent| {
            let connection = &lent.connection;
            let mut source = Source {
                connection,
                type_names: &mut lent.type_names,
                index: &mut lent.index,
            };
            let mut after = range.after;
            let mut refused = None;
            pages::read(
                &mut source,
                query,
                range,
                bounds,
                &mut |page| match prune::check(connection, after) {
                    Ok(()) => {
                        after = page.through;
                        take(page)
                    }
                    Err(error) => {
                        refused = Some(error);
                        More::No
                    }
                },
            )?;
            refused.map_or(Ok(()), Err)
        })
    }

    fn extent(&self) -> Result<Extent, StorageError> {
        self.with_connection(|lent| prune::extent(&lent.connection).map_err(storage("read the head")))
    }

    fn head(&self) -> Result<u64, StorageError> {
        Ok(self.extent()?.head)
    }

    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError> {
        self.with_connection(|lent| position_at(&lent.connection, time).map_err(storage("find the time")))
    }

    fn statistics(&self) -> Result<LogStatistics, StorageError> {
        self.with_connection(|lent| {
            statistics::statistics(&lent.connection).map_err(storage("count what the log holds"))
        })
    }

    fn verify(&self, is_wanted: &mut dyn FnMut() -> More) -> Result<Verification, VerifyError> {
        self.with_connection(|lent| verify::verify(&lent.connection, is_wanted))
    }

    fn backup_to(
        &self,
        target: &Path,
        tell: &mut dyn FnMut(BackupProgress) -> More,
    ) -> Result<BackedUp, BackupError> {
        self.with_connection(|lent| backup::backup_to(&lent.connection, target, tell))
    }

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        self.with_connection(|lent| cursor::all(&lent.connection).map_err(storage("read the cursors")))
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.with_connection(|lent| cursor::read(&lent.connection, name).map_err(storage("read a cursor")))
    }

    fn survey(&self) -> Result<Survey, StorageError> {
        let survey = self
            .with_connection(|lent| survey::survey(&lent.connection).map_err(storage("read the cursors")));
        Ok(Survey {
            claims: self.claims(None)?,
            ..survey?
        })
    }

    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError> {
        let claims = self.with_connection(|lent| {
            let claims = match of {
                Some(stream) => claim::of_stream(&lent.connection, stream),
                None => claim::all(&lent.connection),
            };
            claims.map_err(storage("read who runs the streams"))
        })?;
        let mut signs = HashMap::new();
        // Who cannot be looked for counts as there: the rows say so.
        let mut has_gone = |id: &InstanceId| {
            let sign = || matches!(self.presence.sign(id), Ok(Sign::Gone));
            *signs.entry(InstanceId::clone(id)).or_insert_with(sign)
        };
        let living = claims.into_iter().filter(|claim| !has_gone(&claim.instance));
        Ok(living.collect())
    }

    fn recorded_after(&self, positions: &[u64]) -> Result<Vec<Option<Timestamp>>, StorageError> {
        self.with_connection(|lent| {
            survey::recorded_after(&lent.connection, positions).map_err(storage("read how old events are"))
        })
    }

    /// Asks for the file by its name, and does not open it.
    fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        let free = fs4::available_space(&self.path);
        free.map(Some)
            .map_err(|error| StorageError::new("ask for the free space of the disk", error))
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn release(&self) {
        let mut idle = self.idle.lock();
        idle.connections_max = 0;
        let connections = std::mem::take(&mut idle.connections);
        drop(idle);
        drop(connections);
    }

    fn is_blocking(&self) -> bool {
        true
    }

    fn batch_end(&self, sequence: u64) -> Result<u64, StorageError> {
        self.with_connection(|lent| {
            batch_end(&lent.connection, sequence).map_err(storage("read the end of a batch"))
        })
    }

    fn is_indexed(&self, query: &EventQuery) -> bool {
        let paths = IndexView::new(Arc::clone(&self.index)).paths();
        !matches!(
            candidates(query, &paths, self.evolution.as_deref()),
            Candidates::Everything
        )
    }
}

/// Reads the first page of what `query` selects in `range`.
pub(super) fn page(
    source: &mut Source<'_>,
    query: &EventQuery,
    range: Range,
    bounds: PageBounds,
) -> Result<Page, ReadError> {
    let mut first = None;
    pages::read(source, query, range, bounds, &mut |page| {
        first = Some(page);
        More::No
    })?;
    Ok(first.expect("there is always a page, if an empty one"))
}

/// The end of the batch that `sequence` lies in, or `sequence` itself, when it lies in none.
fn batch_end(connection: &Connection, sequence: u64) -> rusqlite::Result<u64> {
    let end: Option<i64> = connection
        .prepare_cached(
            "SELECT sequence - batch_index + batch_size - 1 FROM event WHERE sequence <= ?1
             ORDER BY sequence DESC LIMIT 1",
        )?
        .query_row([sequence as i64], |row| row.get(0))
        .optional()?;
    Ok(end.map_or(sequence, |end| sequence.max(end as u64)))
}

/// The first event after `after` that `query` selects.
pub(super) fn first_match(
    source: &mut Source<'_>,
    query: &EventQuery,
    after: u64,
) -> Result<Option<u64>, ReadError> {
    let bounds = PageBounds {
        batches_max: 1,
        bytes_max: 1,
    };
    let newest = "SELECT coalesce(max(sequence), 0) FROM event";
    let head: i64 = source
        .connection
        .prepare_cached(newest)
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(storage("read the head"))?;
    let mut range = Range {
        after,
        through: head as u64,
    };
    while range.after < range.through {
        let page = page(source, query, range, bounds)?;
        if let Some(event) = page.batches.iter().flat_map(|batch| &batch.events).next() {
            return event.decodable().map(|event| Some(event.sequence));
        }
        range.after = page.through;
    }
    Ok(None)
}

/// The event at `sequence`, if it is there.
pub(super) fn event_at(source: &mut Source<'_>, sequence: u64) -> Result<Option<EventRecord>, ReadError> {
    let range = Range {
        after: sequence - 1,
        through: sequence,
    };
    let bounds = PageBounds {
        batches_max: 1,
        bytes_max: 1,
    };
    let page = page(source, &EventQuery::all(), range, bounds)?;
    let mut events = page.batches.iter().flat_map(|batch| &batch.events);
    Ok(events.next().cloned())
}

/// The last sequence before the first event recorded at `time` or later. Recorded times never decrease along the log,
/// so that a binary search over the primary key finds it.
pub(super) fn position_at(connection: &Connection, time: Timestamp) -> rusqlite::Result<u64> {
    let mut next_event = connection.prepare_cached(
        "SELECT sequence, recorded_at FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT 1",
    )?;
    let newest: Option<i64> =
        connection.query_row("SELECT max(sequence) FROM event", [], |row| row.get(0))?;
    // Everything up to `earlier` is older than `time`, everything after `later` is not.
    let (mut earlier, mut later) = (0, newest.unwrap_or(0));
    while earlier < later {
        let middle = earlier + (later - earlier) / 2;
        let next: Option<(i64, i64)> = next_event
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match next {
            Some((sequence, recorded_at)) if recorded_at < time.as_micros() => earlier = sequence,
            _ => later = middle,
        }
    }
    Ok(later as u64)
}

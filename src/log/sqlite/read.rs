//! The readers' half: pages, decoded from rows.

use std::cell::OnceCell;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Params, Row};

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::draft::{Drafts, weight_bytes};
use crate::event::matching::Selectable;
use crate::event::query::EventQuery;
use crate::event::record::{EventRecord, TAG_SEPARATOR};
use crate::log::cursor::{NamedCursor, StoredCursor};
use crate::log::page::{EXAMINED_MAX, More, Page, PageBounds, Range};
use crate::log::sqlite::candidates::{Candidates, candidates};
use crate::log::sqlite::connection::{open_reader, storage};
use crate::log::sqlite::cursor;
use crate::log::sqlite::index::scan::Sequences;
use crate::log::sqlite::index::view::{IndexView, Search, Shared};
use crate::log::sqlite::names::TypeNames;
use crate::log::sqlite::prune;
use crate::log::sqlite::statement::{ROW, ROWS_OF_TYPE, SCAN, Snapshot};
use crate::log::sqlite::tags::{StoredTags, stored_tags};
use crate::log::{Extent, LogReader};
use crate::sync::Mutex;

/// Connections for reading, opened when they are needed and kept for the next read.
pub(crate) struct SqliteReader {
    path: PathBuf,
    log_id: String,
    index: Arc<Mutex<Shared>>,
    idle: Mutex<Idle>,
}

/// The connections that wait for the next read.
struct Idle {
    connections: Vec<ReadConnection>,
    /// 0, once the store is closed.
    connections_max: usize,
}

struct ReadConnection {
    connection: Connection,
    type_names: TypeNames,
    index: IndexView,
}

/// What a page is read with.
pub(super) struct Source<'a> {
    pub(super) connection: &'a Connection,
    pub(super) type_names: &'a mut TypeNames,
    pub(super) index: &'a mut IndexView,
}

impl SqliteReader {
    pub(super) fn new(
        path: &Path,
        log_id: String,
        index: Arc<Mutex<Shared>>,
        idle_max: usize,
    ) -> Result<Self, StorageError> {
        let first = ReadConnection::open(path, &index)?;
        Ok(Self {
            path: path.to_owned(),
            log_id,
            index,
            idle: Mutex::new(Idle {
                connections: vec![first],
                connections_max: idle_max,
            }),
        })
    }

    /// Lends a connection. One whose read failed is not used again.
    fn with_connection<T, E: From<StorageError>>(
        &self,
        read: impl FnOnce(&mut ReadConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self.idle.lock().connections.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => ReadConnection::open(&self.path, &self.index)?,
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
    fn open(path: &Path, index: &Arc<Mutex<Shared>>) -> Result<Self, StorageError> {
        Ok(Self {
            connection: open_reader(path)?,
            type_names: TypeNames::default(),
            index: IndexView::new(Arc::clone(index)),
        })
    }
}

impl LogReader for SqliteReader {
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
            pages(
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

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        self.with_connection(|lent| cursor::all(&lent.connection).map_err(storage("read the cursors")))
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.with_connection(|lent| cursor::read(&lent.connection, name).map_err(storage("read a cursor")))
    }

    fn log_id(&self) -> &str {
        &self.log_id
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
        !matches!(candidates(query, &paths), Candidates::Everything)
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
    pages(source, query, range, bounds, &mut |page| {
        first = Some(page);
        More::No
    })?;
    Ok(first.expect("there is always a page, if an empty one"))
}

/// Reads what `query` selects in `range`, page by page. The statements end with this call: none is left open to hold an
/// old head.
fn pages(
    source: &mut Source<'_>,
    query: &EventQuery,
    range: Range,
    bounds: PageBounds,
    take: &mut dyn FnMut(Page) -> More,
) -> Result<(), ReadError> {
    let candidates = candidates(query, &source.index.paths());
    let mut builder = PageBuilder {
        connection: source.connection,
        type_names: source.type_names,
        query,
        selects_all: query.selects_everything(),
        bounds: PageBounds {
            bytes_max: bounds.bytes_max.min(PAGE_BYTES_MAX),
            ..bounds
        },
        take,
        bytes: 0,
        examined: 0,
        drafts: Drafts::default(),
        batches: Vec::new(),
        open: None,
        last: range.after,
    };
    let is_wanted = match candidates {
        Candidates::Nothing => More::Yes,
        Candidates::Everything => builder.scan(range)?,
        Candidates::Type(name) => builder.of_type(range, &name)?,
        Candidates::Searches(searches) => builder.search(range, source.index, &searches)?,
    };
    if is_wanted == More::Yes {
        builder.close_batch();
        builder.close_page(range.through);
    }
    Ok(())
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
            return Ok(Some(event.sequence));
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

/// Groups rows into batches, and batches into pages.
struct PageBuilder<'a> {
    connection: &'a Connection,
    type_names: &'a mut TypeNames,
    query: &'a EventQuery,
    selects_all: bool,
    bounds: PageBounds,
    take: &'a mut dyn FnMut(Page) -> More,
    bytes: usize,
    /// The rows that were looked at for this page.
    examined: u64,
    /// The events of the page, whose texts share one buffer.
    drafts: Drafts,
    batches: Vec<BatchDraft>,
    open: Option<BatchDraft>,
    /// The sequence of the row taken last.
    last: u64,
}

/// No page weighs more, whatever the options say: ranges of its buffer have 32 bits.
const PAGE_BYTES_MAX: usize = 1 << 30;

/// A batch of the page, whose events are still drafts.
struct BatchDraft {
    first_sequence: u64,
    last_sequence: u64,
    recorded_at: Timestamp,
    /// What the page held before it.
    before: Fill,
    events: usize,
}

/// How much a page holds.
#[derive(Clone, Copy)]
struct Fill {
    events: usize,
    text_bytes: usize,
}

impl PageBuilder<'_> {
    /// Reads the whole range, in the order of the primary key, as long as more is wanted.
    fn scan(&mut self, range: Range) -> Result<More, ReadError> {
        self.rows(SCAN, [range.after as i64, range.through as i64])
    }

    /// Reads the events of one type, as long as more is wanted.
    fn of_type(&mut self, range: Range, name: &str) -> Result<More, ReadError> {
        self.rows(ROWS_OF_TYPE, (range.after as i64, range.through as i64, name))
    }

    /// Reads the rows that one statement yields, as long as more is wanted.
    fn rows(&mut self, sql: &str, parameters: impl Params) -> Result<More, ReadError> {
        let failed = storage("read a page");
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        let mut rows = statement.query(parameters).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            if self.take(row)? == More::No {
                return Ok(More::No);
            }
        }
        Ok(More::Yes)
    }

    /// Reads the rows that the index finds, as long as more is wanted.
    fn search(
        &mut self,
        range: Range,
        index: &mut IndexView,
        searches: &[Search],
    ) -> Result<More, ReadError> {
        let failed = storage("search a page");
        let staged = index.staged(searches, range);
        // The runs, and what they are said to hold, are those of one snapshot.
        let _snapshot = Snapshot::begin(self.connection).map_err(&failed)?;
        let stretches = index.stretches(self.connection, searches, range, &staged);
        for stretch in stretches.map_err(&failed)? {
            let is_wanted = match stretch.sequences {
                Some(mut sequences) => self.found(stretch.range, &mut *sequences)?,
                None => self.scan(stretch.range)?,
            };
            if is_wanted == More::No {
                return Ok(More::No);
            }
        }
        Ok(More::Yes)
    }

    /// Reads the rows of a stretch whose sequences were found, as long as more is wanted.
    fn found(&mut self, range: Range, sequences: &mut dyn Sequences) -> Result<More, ReadError> {
        let failed = storage("search a page");
        let mut read = self.connection.prepare_cached(ROW).map_err(&failed)?;
        let mut from = range.after + 1;
        while let Some(sequence) = sequences.next(self.connection, from).map_err(&failed)? {
            if sequence > range.through {
                break;
            }
            let mut rows = read.query([sequence as i64]).map_err(&failed)?;
            if let Some(row) = rows.next().map_err(&failed)?
                && self.take(row)? == More::No
            {
                return Ok(More::No);
            }
            from = sequence + 1;
        }
        Ok(More::Yes)
    }

    /// Takes one row. When it begins another batch, and the page is full, the page is handed out first; a row that is not
    /// wanted then is left to another read.
    fn take(&mut self, row: &Row<'_>) -> Result<More, ReadError> {
        let failed = storage("read a row");
        let number = |index| row.get::<_, i64>(index).map(|number| number as u64);
        let sequence = number(0).map_err(&failed)?;
        if sequence <= self.last {
            let problem = format!("it stands after event {}; check the file's integrity", self.last);
            return Err(ReadError::Damaged { sequence, problem });
        }
        self.last = sequence;
        self.examined += 1;
        let first_sequence = sequence.saturating_sub(number(1).map_err(&failed)?);
        let is_open = |open: &BatchDraft| open.first_sequence == first_sequence;
        if !self.open.as_ref().is_some_and(is_open) {
            if let Some(through) = self.close_batch()
                && (self.bounds.are_reached(self.batches.len(), self.bytes) || self.examined >= EXAMINED_MAX)
                && self.close_page(through) == More::No
            {
                return Ok(More::No);
            }
            let size = number(2).map_err(&failed)?.max(1);
            let recorded_at = row.get(3).map_err(&failed)?;
            self.open = Some(BatchDraft {
                first_sequence,
                last_sequence: first_sequence + size - 1,
                recorded_at: Timestamp::from_micros(recorded_at),
                before: self.fill(),
                events: 0,
            });
        }
        self.take_event(row, sequence)?;
        Ok(More::Yes)
    }

    fn take_event(&mut self, row: &Row<'_>, sequence: u64) -> Result<(), ReadError> {
        let damaged = |problem: String| ReadError::Damaged { sequence, problem };
        let type_id = row.get(4).map_err(storage("read a row"))?;
        let event_type = self
            .type_names
            .name(self.connection, type_id)
            .map_err(storage("read the name of a type"))?;
        let text_of = |column: usize| {
            let value = row.get_ref(column).map_err(storage("read a row"))?;
            let text = value.as_str_or_null();
            text.map_err(|error| damaged(error.to_string()))
        };
        let payload = text_of(6)?.ok_or_else(|| damaged(String::from("there is no payload")))?;
        let tags = match text_of(5)? {
            Some(json) => stored_tags(json).map_err(|error| damaged(error.to_string()))?,
            None => StoredTags::None,
        };
        let drafts = &mut self.drafts;
        let place = drafts.place(tags.iter(), payload, text_of(7)?);
        if !self.selects_all {
            let (tags, payload) = drafts.texts(&place);
            let row = RowView {
                event_type: &event_type,
                tags,
                payload,
                parsed: OnceCell::new(),
            };
            if !self.query.selects(&row) {
                drafts.discard(&place);
                return Ok(());
            }
        }
        drafts.keep(sequence, event_type, place);
        Ok(())
    }

    fn fill(&self) -> Fill {
        Fill {
            events: self.drafts.events(),
            text_bytes: self.drafts.text_bytes(),
        }
    }

    /// Ends the open batch and says where it ended. A batch of which nothing is selected is left out.
    fn close_batch(&mut self) -> Option<u64> {
        let mut open = self.open.take()?;
        let last_sequence = open.last_sequence;
        let fill = self.fill();
        open.events = fill.events - open.before.events;
        if open.events > 0 {
            self.bytes += weight_bytes(open.events, fill.text_bytes - open.before.text_bytes);
            self.batches.push(open);
        }
        Some(last_sequence)
    }

    /// Hands the page out, and asks whether another one is wanted.
    fn close_page(&mut self, through: u64) -> More {
        self.bytes = 0;
        self.examined = 0;
        let Fill { events, text_bytes } = self.fill();
        let mut drafts = mem::take(&mut self.drafts).share();
        let batches = self.batches.drain(..).map(|batch| {
            Arc::new(CommittedBatch {
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                recorded_at: batch.recorded_at,
                events: drafts.take(batch.events, batch.recorded_at),
            })
        });
        let page = Page {
            batches: batches.collect(),
            through,
        };
        self.type_names.renew();
        let more = (self.take)(page);
        if more == More::Yes {
            // The next page is probably as large.
            self.drafts = Drafts::with_capacity(events, text_bytes + text_bytes / 8);
        }
        more
    }
}

/// A row, as the query sees it.
struct RowView<'a> {
    event_type: &'a str,
    tags: &'a str,
    payload: &'a str,
    parsed: OnceCell<Option<serde_json::Value>>,
}

impl Selectable for RowView<'_> {
    fn event_type(&self) -> &str {
        self.event_type
    }

    fn has_tag(&self, tag: &str) -> bool {
        !tag.is_empty() && self.tags.split(TAG_SEPARATOR).any(|found| found == tag)
    }

    fn parsed_payload(&self) -> Option<&serde_json::Value> {
        self.parsed
            .get_or_init(|| serde_json::from_str(self.payload).ok())
            .as_ref()
    }
}

//! Rows become events, batches and pages.

use std::mem;
use std::sync::Arc;

use rusqlite::{Connection, Params, Row};

use crate::clock::Timestamp;
use crate::error::ReadError;
use crate::event::batch::CommittedBatch;
use crate::event::draft::{Drafts, weight_bytes};
use crate::event::evolution::Evolution;
use crate::event::query::EventQuery;
use crate::log::page::{EXAMINED_MAX, More, Page, PageBounds, Range};
use crate::log::show::{self, RowView, ShownRow};
use crate::log::sqlite::candidates::{Candidates, candidates};
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::index::scan::Sequences;
use crate::log::sqlite::index::view::{IndexView, Search};
use crate::log::sqlite::names::{TypeNames, ids_of_type};
use crate::log::sqlite::row::{StoredTags, stored_tags};
use crate::log::sqlite::statement::{ROW, ROWS_OF_TYPE, SCAN, Snapshot};

/// What a page is read with.
pub(super) struct Source<'a> {
    pub(super) connection: &'a Connection,
    pub(super) type_names: &'a mut TypeNames,
    pub(super) index: &'a mut IndexView,
}

/// Reads what `query` selects in `range`, page by page. The statements end with this call: none is left open to hold an
/// old head.
pub(super) fn read(
    source: &mut Source<'_>,
    query: &EventQuery,
    range: Range,
    bounds: PageBounds,
    take: &mut dyn FnMut(Page) -> More,
) -> Result<(), ReadError> {
    let evolution = source.type_names.evolution().cloned();
    let candidates = candidates(query, &source.index.paths(), evolution.as_deref());
    let mut builder = PageBuilder {
        connection: source.connection,
        evolution: evolution.as_deref(),
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
        Candidates::Type(name) => builder.of_type(range, source.index, name)?,
        Candidates::Searches(searches) => builder.search(range, source.index, &searches)?,
    };
    if is_wanted == More::Yes {
        builder.close_batch();
        builder.close_page(range.through);
    }
    Ok(())
}

/// Groups rows into batches, and batches into pages.
struct PageBuilder<'a> {
    connection: &'a Connection,
    evolution: Option<&'a Evolution>,
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
    may_have_faults: bool,
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
    fn of_type(&mut self, range: Range, index: &mut IndexView, name: String) -> Result<More, ReadError> {
        let ids = ids_of_type(self.connection, &name).map_err(storage("read a page"))?;
        match ids[..] {
            [] => Ok(More::Yes),
            [id] => self.rows(ROWS_OF_TYPE, (range.after as i64, range.through as i64, id)),
            _ => self.search(range, index, &[Search::Type(name)]),
        }
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
                may_have_faults: false,
            });
        }
        self.take_event(row, sequence)?;
        Ok(More::Yes)
    }

    fn take_event(&mut self, row: &Row<'_>, sequence: u64) -> Result<(), ReadError> {
        let damaged = |problem: String| ReadError::Damaged { sequence, problem };
        let type_id = row.get(4).map_err(storage("read a row"))?;
        let kind = self
            .type_names
            .kind(self.connection, type_id)
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
        let shown = match self.evolution {
            Some(evolution) if !kind.is_current => {
                if !evolution.may_be_selected(&kind.name, self.query) {
                    return Ok(());
                }
                let before = self.open.as_ref().map_or(0, |open| open.before.text_bytes);
                let row = show::Row {
                    sequence,
                    payload,
                    batch_bytes: self.drafts.text_bytes() - before,
                };
                ShownRow::of(evolution, kind, row)
            }
            _ => ShownRow::as_stored(kind),
        };
        let payload = shown.payload.as_deref().unwrap_or(payload);
        let drafts = &mut self.drafts;
        let place = drafts.place(tags.iter(), payload, text_of(7)?);
        if !self.selects_all {
            let (tags, payload) = drafts.texts(&place);
            let row = RowView::new(&shown.event_type, tags, payload, shown.fault());
            if !self.query.selects(&row) {
                drafts.discard(&place);
                return Ok(());
            }
        }
        if let Some(open) = &mut self.open {
            open.may_have_faults |= shown.fault().is_some();
        }
        drafts.keep(sequence, shown.event_type, place, shown.lineage);
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
                may_have_faults: batch.may_have_faults,
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

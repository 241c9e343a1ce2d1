//! Rows become events, events become batches, batches become pages.

use std::mem;
use std::sync::Arc;

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::error::ReadError;
use crate::event::batch::CommittedBatch;
use crate::event::draft::{Drafts, weight_bytes};
use crate::event::evolution::Evolution;
use crate::event::query::EventQuery;
use crate::log::page::{EXAMINED_MAX, More, Page, PageBounds};
use crate::log::postgres::session::number;
use crate::log::postgres::texts::Texts;
use crate::log::postgres::trouble::Trouble;
use crate::log::show::{self, Kind, RowView, ShownRow};

/// The columns that [`Assembly::take`] reads, in their order, as they lie in the table: to join the tags would cost the server more than
/// to send them.
pub(super) const COLUMNS: &str =
    "sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata";

/// No page weighs more, whatever the options say: ranges of its buffer have 32 bits.
const PAGE_BYTES_MAX: usize = 1 << 30;
/// How many types are kept for a page.
const KINDS_MAX: usize = 256;

/// Groups rows into batches, and batches into pages.
pub(super) struct Assembly<'a> {
    evolution: Option<&'a Evolution>,
    query: &'a EventQuery,
    selects_all: bool,
    bounds: PageBounds,
    take: &'a mut dyn FnMut(Page) -> More,
    /// The types of the page's events. The one met last comes first: a log has few types, and they come in runs.
    kinds: Vec<Kind>,
    bytes: usize,
    /// The rows that were looked at for this page.
    examined: u64,
    /// The events of the page, whose texts share one buffer.
    drafts: Drafts,
    batches: Vec<BatchDraft>,
    open: Option<BatchDraft>,
    /// Where the page begins: everything up to here was handed out.
    after: u64,
}

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

impl<'a> Assembly<'a> {
    pub(super) fn new(
        evolution: Option<&'a Evolution>,
        query: &'a EventQuery,
        after: u64,
        bounds: PageBounds,
        take: &'a mut dyn FnMut(Page) -> More,
    ) -> Self {
        Self {
            evolution,
            selects_all: query.selects_everything(),
            query,
            bounds: PageBounds {
                bytes_max: bounds.bytes_max.min(PAGE_BYTES_MAX),
                ..bounds
            },
            take,
            kinds: Vec::new(),
            bytes: 0,
            examined: 0,
            drafts: Drafts::default(),
            batches: Vec::new(),
            open: None,
            after,
        }
    }

    /// Where the page begins that is being made.
    pub(super) fn begins_after(&self) -> u64 {
        self.after
    }

    /// Takes one row. When it begins another batch, and the page is full, the page is handed out first; a row that is not wanted
    /// then is left to another read.
    pub(super) fn take(&mut self, row: &Row) -> Result<More, Trouble> {
        let sequence = number(row, 0)?;
        self.examined += 1;
        let index: i32 = row.try_get(1)?;
        let first_sequence = sequence
            .saturating_sub(u64::from(index.max(0).unsigned_abs()))
            .max(1);
        let is_open = |open: &BatchDraft| open.first_sequence == first_sequence;
        if !self.open.as_ref().is_some_and(is_open) {
            if let Some(through) = self.close_batch()
                && (self.bounds.are_reached(self.batches.len(), self.bytes) || self.examined > EXAMINED_MAX)
                && self.close_page(through) == More::No
            {
                return Ok(More::No);
            }
            let size: i32 = row.try_get(2)?;
            self.open = Some(BatchDraft {
                first_sequence,
                last_sequence: first_sequence + u64::from(size.max(1).unsigned_abs()) - 1,
                recorded_at: Timestamp::from_micros(row.try_get(3)?),
                before: self.fill(),
                events: 0,
                may_have_faults: false,
            });
        }
        self.take_event(row, sequence)?;
        Ok(More::Yes)
    }

    fn take_event(&mut self, row: &Row, sequence: u64) -> Result<(), Trouble> {
        let kind = self.kind(row, sequence)?;
        let tags: Option<Texts<'_>> = row.try_get(6)?;
        let payload: &str = row.try_get(7)?;
        let metadata: Option<&str> = row.try_get(8)?;
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
        let tags = tags.into_iter().flatten();
        let drafts = &mut self.drafts;
        let place = drafts.place(tags, payload, metadata);
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

    fn kind(&mut self, row: &Row, sequence: u64) -> Result<Kind, Trouble> {
        let name: &str = row.try_get(4)?;
        let version = number(row, 5)?;
        let is_it = |kind: &Kind| &*kind.name == name && u64::from(kind.version) == version;
        match self.kinds.iter().position(is_it) {
            Some(0) => {}
            Some(index) => self.kinds.swap(0, index),
            None => {
                let version = u32::try_from(version).map_err(|_| {
                    let problem = format!("its schema version is {version}, which is no version");
                    ReadError::Damaged { sequence, problem }
                })?;
                self.kinds.truncate(KINDS_MAX - 1);
                self.kinds.insert(0, Kind::new(name, version, self.evolution));
            }
        }
        Ok(self.kinds[0].clone())
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

    /// Everything up to `through` was looked at: hands the page out, and asks whether another one is wanted.
    pub(super) fn close(&mut self, through: u64) -> More {
        self.close_batch();
        self.close_page(through)
    }

    fn close_page(&mut self, through: u64) -> More {
        self.bytes = 0;
        self.examined = 0;
        // Whoever drops the events of this page counts on other memory than whoever reads the next.
        self.kinds.clear();
        self.after = through;
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
        (self.take)(page)
    }
}

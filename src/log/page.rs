//! What is read from a log in one go.

use std::sync::Arc;

use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::query::EventQuery;

/// A stretch of the log: after one sequence, up to and with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The sequence before the first one in it.
    pub after: u64,
    /// The last sequence in it.
    pub through: u64,
}

/// How much one page may hold. A page with less than a whole batch is of no use, so the first batch is taken in any case.
#[derive(Clone, Copy, Debug)]
pub struct PageBounds {
    /// A page with so many batches is full.
    pub batches_max: usize,
    /// A page that weighs so much in memory is full.
    pub bytes_max: usize,
}

impl PageBounds {
    /// Whether a page that holds this much is full.
    pub fn are_reached(&self, batches: usize, bytes: usize) -> bool {
        batches >= self.batches_max || bytes >= self.bytes_max
    }
}

/// The batches of a stretch of the log, with the events that a query selects.
#[derive(Debug)]
pub struct Page {
    /// In the order of the log.
    pub batches: Vec<Arc<CommittedBatch>>,
    /// Everything after the range's start and up to here was examined.
    pub through: u64,
}

/// Whether another page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Go on.
    Yes,
    /// That was enough.
    No,
}

/// How many events one page may examine: bounds the time of a page whose query selects next to nothing.
pub(crate) const EXAMINED_MAX: u64 = 100_000;

/// Makes a page of the batches of a log, given in order: selects, and ends where the bounds or the range do.
#[derive(Debug)]
pub struct PageBuilder<'q> {
    query: &'q EventQuery,
    range: Range,
    bounds: PageBounds,
    page: Page,
    bytes: usize,
}

impl<'q> PageBuilder<'q> {
    /// An empty page of a range. It examines 100,000 sequences of it at the most.
    pub fn new(query: &'q EventQuery, range: Range, bounds: PageBounds) -> Self {
        let examined_through = range.after.saturating_add(EXAMINED_MAX);
        Self {
            query,
            range: Range {
                through: range.through.min(examined_through),
                ..range
            },
            bounds,
            page: Page {
                batches: Vec::new(),
                through: range.after,
            },
            bytes: 0,
        }
    }

    /// Takes the next batch that reaches beyond the start of the range, and says whether one more is wanted. One that was not wanted
    /// is not in the page.
    pub fn take(&mut self, batch: &Arc<CommittedBatch>) -> More {
        if batch.first_sequence > self.range.through || self.is_full() {
            return More::No;
        }
        self.page.through = batch.last_sequence;
        if let Some(selected) = EventBatch::select(Arc::clone(batch), self.query, self.range.after) {
            let selected = selected.into_selected();
            self.bytes += selected.weight_bytes();
            self.page.batches.push(selected);
        }
        if self.is_full() { More::No } else { More::Yes }
    }

    /// Ends the page. When no batch was refused, the log has none in the rest of the range.
    pub fn finish(mut self) -> Page {
        if !self.is_full() {
            self.page.through = self.page.through.max(self.range.through);
        }
        self.page
    }

    fn is_full(&self) -> bool {
        self.bounds.are_reached(self.page.batches.len(), self.bytes)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    fn batch(first: u64, types: &[&str]) -> Arc<CommittedBatch> {
        let events = types.iter().map(|name| NewEvent::new(*name, 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        Arc::new(CommittedBatch::stamp(records, first, Timestamp::EPOCH))
    }

    fn page(query: &EventQuery, range: Range, batches_max: usize) -> Page {
        let bounds = PageBounds {
            batches_max,
            bytes_max: usize::MAX,
        };
        let mut page = PageBuilder::new(query, range, bounds);
        for batch in [batch(1, &["a", "b"]), batch(3, &["b"]), batch(6, &["a", "a"])] {
            if batch.last_sequence > range.after && page.take(&batch) == More::No {
                break;
            }
        }
        page.finish()
    }

    #[test]
    fn a_page_says_how_far_it_was_examined_and_cuts_no_batch() {
        let range = |after, through| Range { after, through };
        let shown = |query: &EventQuery, range, batches_max| {
            let page = page(query, range, batches_max);
            let events = page.batches.iter().flat_map(|batch| &batch.events);
            let sequences: Vec<u64> = events.map(|event| event.sequence).collect();
            (sequences, page.through)
        };
        let (all, a) = (EventQuery::all(), EventQuery::types(["a"]));
        assert_eq!(shown(&all, range(0, 9), 9), (vec![1, 2, 3, 6, 7], 9));
        assert_eq!(shown(&all, range(0, 9), 2), (vec![1, 2, 3], 3));
        assert_eq!(shown(&a, range(1, 9), 9), (vec![6, 7], 9));
        assert_eq!(shown(&a, range(1, 5), 9), (vec![], 5));
        assert_eq!(shown(&all, range(0, 6), 9), (vec![1, 2, 3, 6, 7], 7));
        assert_eq!(
            shown(&EventQuery::types(["z"]), range(0, u64::MAX), 9),
            (vec![], EXAMINED_MAX)
        );
    }
}

//! Where a stream's batches come from: the window while it reaches back to the position, the log when it does not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use tokio::runtime::Handle;

use crate::bus::{Bus, Look, LookBounds, SeatKey};
use crate::error::ReadError;
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::handle::{LogHandle, PAGES_AHEAD_MAX, PagesAhead};
use crate::log::page::{Page, PageBounds, Range};
use crate::log::shelf;

/// What all feeds of a store share.
pub(crate) struct Source {
    pub(crate) log: Arc<LogHandle>,
    pub(crate) bus: Arc<Bus>,
    page: PageBounds,
    /// What the shared pages may weigh together.
    shelf_bytes_max: usize,
    /// What the pages in the hands of all streams at work may weigh together, as long as that leaves each of them
    /// `PAGE_BYTES_MIN`.
    pages_bytes_max: usize,
    feeds_at_work: AtomicUsize,
}

/// However many streams are at work, each may take so much at once.
const PAGE_BYTES_MIN: usize = 16 << 10;

/// The share of the pages' budget that is for those on the shelf. The rest is for those in the hands of streams.
pub(crate) fn shelf_bytes_max(pages_bytes_max: usize) -> usize {
    pages_bytes_max / 4 * 3
}

impl Source {
    pub(crate) fn new(log: Arc<LogHandle>, bus: Arc<Bus>, page: PageBounds, pages_bytes_max: usize) -> Self {
        Self {
            log,
            bus,
            page,
            shelf_bytes_max: shelf_bytes_max(pages_bytes_max),
            pages_bytes_max: pages_bytes_max - shelf_bytes_max(pages_bytes_max),
            feeds_at_work: AtomicUsize::new(0),
        }
    }

    pub(crate) fn feed_begins(&self) {
        self.feeds_at_work.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn feed_ends(&self) {
        self.feeds_at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// The bounds of the next page: the more streams are at work, the smaller it is (S5).
    pub(crate) fn bounds(&self) -> PageBounds {
        self.page_of(self.share().min(self.shelf_bytes_max / shelf::PAGES_MIN))
    }

    /// The same for a stream that reads its pages alone, some of them ahead.
    fn bounds_alone(&self) -> PageBounds {
        self.page_of(self.share().min(self.page.bytes_max) / (1 + PAGES_AHEAD_MAX))
    }

    /// What each stream at work may have in its hands.
    fn share(&self) -> usize {
        // Relaxed: an estimate.
        self.pages_bytes_max / self.feeds_at_work.load(Ordering::Relaxed).max(1)
    }

    fn page_of(&self, share: usize) -> PageBounds {
        PageBounds {
            bytes_max: self.page.bytes_max.min(share.max(PAGE_BYTES_MIN)),
            ..self.page
        }
    }
}

/// One stream's way to its batches: its seat on the bus, and the pages that are read ahead.
pub(crate) struct Feed {
    source: Arc<Source>,
    query: Arc<EventQuery>,
    seat: SeatKey,
    /// The pages that are read while the ones before them are handled.
    ahead: Option<PagesAhead>,
    /// Whether the log has an index for the query, once it was asked.
    is_indexed: Option<bool>,
}

/// What there is for the stream after a position.
pub(crate) enum Found {
    Nothing { head: u64 },
    Page(Selected),
    Behind { after: u64, head: u64 },
    Closed,
}

/// The selected batches of a page, and how far the page reaches.
pub(crate) struct Selected {
    pub(crate) batches: VecDeque<EventBatch>,
    pub(crate) through: u64,
    /// The page reaches up to the head, and who looked is woken when there is more.
    pub(crate) may_rest: bool,
}

impl Feed {
    /// Takes a seat for a stream that has seen everything up to `position`.
    pub(crate) fn new(source: Arc<Source>, query: Arc<EventQuery>, position: u64) -> Self {
        let seat = source.bus.join(Arc::clone(&query), position);
        Self {
            source,
            query,
            seat,
            ahead: None,
            is_indexed: None,
        }
    }

    pub(crate) fn seat(&self) -> SeatKey {
        self.seat
    }

    /// The stream goes on from another position: what was read ahead is of no use.
    pub(crate) fn start_over(&mut self) {
        self.ahead = None;
    }

    /// Looks at the bus. The waker of one who is going to rest is kept when there is nothing.
    pub(crate) fn look(&mut self, after: u64, rest: Option<&Waker>) -> Found {
        let found = look(&self.source, self.seat, &self.query, after, rest);
        self.found(&found);
        found
    }

    /// Who is no longer behind the window has no use for pages of the log (S5).
    pub(crate) fn found(&mut self, found: &Found) {
        if !matches!(found, Found::Behind { .. }) {
            self.ahead = None;
        }
    }

    /// Reads a page of the log, and sees to it that those after it are read meanwhile.
    ///
    /// A page with all events is shared with other streams. A query that an index serves reads its own events only,
    /// unless the shared page is there anyway.
    ///
    /// Cancel safe: the position is the caller's, and a page that is not taken is read again.
    pub(crate) async fn read(&mut self, range: Range) -> Result<Selected, ReadError> {
        let log = Arc::clone(&self.source.log);
        let page = match Handle::try_current() {
            Ok(runtime) if log.reader.is_blocking() => {
                let ask = || log.reader.is_indexed(&self.query);
                if !*self.is_indexed.get_or_insert_with(ask) {
                    Some(log.shared_page(&runtime, range, self.source.bounds()).await?)
                } else if self.ahead.is_none() {
                    log.shared.page(range.after)
                } else {
                    None
                }
            }
            _ => None,
        };
        match page {
            Some(page) => Ok(Selected::of(&page, &self.query, range)),
            None => self.read_alone(range).await,
        }
    }

    async fn read_alone(&mut self, range: Range) -> Result<Selected, ReadError> {
        let ahead = match &mut self.ahead {
            Some(ahead) => ahead.page(range.after).await.transpose()?,
            None => None,
        };
        let page = match ahead {
            Some(page) => page,
            None => {
                self.ahead = None;
                let bounds = self.source.bounds_alone();
                self.source.log.page(&self.query, range, bounds).await?
            }
        };
        let reads_ahead = self.ahead.as_ref().is_some_and(|ahead| !ahead.are_over());
        if page.through < range.through && !reads_ahead {
            let next = Range {
                after: page.through,
                through: range.through,
            };
            let bounds = self.source.bounds_alone();
            self.ahead = self.source.log.pages_ahead(&self.query, next, bounds);
        }
        let batches = page.batches.into_iter().map(EventBatch::whole);
        Ok(Selected {
            batches: batches.collect(),
            through: page.through,
            may_rest: false,
        })
    }
}

impl Selected {
    /// What a shared page has for a query in a range that begins inside it.
    fn of(page: &Page, query: &EventQuery, range: Range) -> Self {
        let begin = page
            .batches
            .partition_point(|batch| batch.last_sequence <= range.after);
        let through = page.through.min(range.through);
        let batches = page.batches[begin..]
            .iter()
            .take_while(|batch| batch.first_sequence <= through);
        Self {
            batches: batches
                .filter_map(|batch| EventBatch::select(Arc::clone(batch), query, range.after))
                .collect(),
            through,
            may_rest: false,
        }
    }
}

/// The look of a seat whose feed may be in other hands.
pub(crate) fn look(
    source: &Source,
    seat: SeatKey,
    query: &Arc<EventQuery>,
    after: u64,
    rest: Option<&Waker>,
) -> Found {
    let bounds = source.bounds();
    let bounds = LookBounds {
        batches_max: bounds.batches_max,
        bytes_max: bounds.bytes_max,
    };
    match source.bus.look(seat, after, bounds, rest) {
        Look::Nothing { head } => Found::Nothing { head },
        Look::Behind { after, head } => Found::Behind { after, head },
        Look::Closed => Found::Closed,
        Look::Batches {
            batches,
            through,
            may_rest,
        } => Found::Page(Selected {
            batches: batches
                .into_iter()
                .filter_map(|batch| EventBatch::select(batch, query, after))
                .collect(),
            through,
            may_rest,
        }),
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.source.bus.leave(self.seat);
    }
}

//! The pages that streams on their way through the log share: which are there, which are being read, and which are let go.
//!
//! Pure: it decides and does nothing. A page holds all events of its stretch, so that it serves every query. What it promises:
//!
//! - a page is given out only for a position inside the stretch that was examined for it;
//! - no batch is cut in two: stretches begin and end where batches do;
//! - of those who want the same page one reads it, and the others wait for as long as that run lasts, and no longer;
//! - the pages weigh no more than the budget, and what was taken goes before what is still to be taken;
//! - what nobody comes to take is let go after a while, so that it is in nobody's way.

#[cfg(all(test, not(millstream_loom)))]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::batch::CommittedBatch;
use crate::log::page::{More, Page, Range};

pub(crate) struct Shelf {
    /// By the sequence after which they begin. Their stretches do not overlap.
    pages: BTreeMap<u64, Shelved>,
    /// Invariant: each is finished, whatever becomes of its reader.
    runs: Vec<Run>,
    bytes: usize,
    bytes_max: usize,
    /// What the pages weigh that nobody has taken yet.
    untaken_bytes: usize,
    /// Counts what was shelved or taken: the age of a page.
    uses: u64,
    /// What all pages weighed that were ever shelved.
    shelved_bytes: u64,
    runs_begun: u64,
    /// How many sequences the last page reached over that was full, or seemed to be.
    page_span: u64,
}

struct Shelved {
    page: Arc<Page>,
    bytes: usize,
    last_use: u64,
    /// What had been shelved before it.
    shelved_at: u64,
    is_taken: bool,
}

/// A stretch that is being read, page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    /// What is not shelved yet.
    pub(crate) left: Range,
    /// Whether the stretch ends where a batch does, so that another one may begin there.
    is_aligned: bool,
    /// Whether its next page goes straight to whoever wants it, and so is taken when it is shelved.
    is_awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(u64);

/// What there is of the stretch that somebody wants.
#[derive(Debug)]
pub(crate) enum Found {
    Page(Arc<Page>),
    /// Somebody is reading it, or what lies a little before it; look again when a page is shelved or the run is finished.
    Underway,
    /// Nobody is. Whoever is told so has to read, to take the first page as it comes, and to finish the run.
    Missing(Run),
}

/// How many pages a run reads at the most: bounds its read transaction, and lets the next stretch be read beside it.
const RUN_PAGES: u64 = 4;
/// How many pages are read ahead of a stream.
const PAGES_AHEAD_MAX: u64 = 8;
/// How many pages there is to be room for. What is read ahead of one stream fits, even when it takes none of it meanwhile:
/// a page that is let go before it was taken was read in vain.
pub(crate) const PAGES_MIN: usize = 16;
const _: () = assert!(PAGES_AHEAD_MAX + RUN_PAGES <= PAGES_MIN as u64 / 4 * 3);
/// How far behind a stream those are whom it lets read first, in events.
const FOLLOWED_EVENTS_MAX: u64 = 100_000;
/// How many events a page is taken for, before one was read.
const PAGE_SPAN_FIRST: u64 = 1_024;

impl Shelf {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            pages: BTreeMap::new(),
            runs: Vec::new(),
            bytes: 0,
            bytes_max,
            untaken_bytes: 0,
            uses: 0,
            shelved_bytes: 0,
            runs_begun: 0,
            page_span: PAGE_SPAN_FIRST,
        }
    }

    /// The page in which the sequence after `range.after` lies, if it is there.
    pub(crate) fn page(&mut self, after: u64) -> Option<Arc<Page>> {
        let (_, shelved) = self.pages.range_mut(..=after).next_back()?;
        if shelved.page.through <= after {
            return None;
        }
        if !shelved.is_taken {
            shelved.is_taken = true;
            self.untaken_bytes -= shelved.bytes;
        }
        self.uses += 1;
        shelved.last_use = self.uses;
        Some(Arc::clone(&shelved.page))
    }

    /// What there is for one who wants what follows `range.after`. When that is nothing, a run over it begins.
    pub(crate) fn find(&mut self, range: Range) -> Found {
        if let Some(page) = self.page(range.after) {
            return Found::Page(page);
        }
        if self.runs.iter().any(|run| run.covers(range.after)) || self.is_followed(range.after) {
            return Found::Underway;
        }
        Found::Missing(self.begin(range, true))
    }

    /// The run that should be begun now for one who has taken what lies up to `range.after`: the first stretch that is
    /// neither there nor under way, when that is not too far ahead.
    pub(crate) fn ahead(&mut self, range: Range) -> Option<Run> {
        if self.untaken_bytes >= self.untaken_bytes_max() || self.is_followed(range.after) {
            return None;
        }
        let mut after = range.after;
        let mut pages = 0;
        while pages < PAGES_AHEAD_MAX && after < range.through {
            if let Some((_, shelved)) = self.pages.range(..=after).next_back()
                && shelved.page.through > after
            {
                after = shelved.page.through;
                pages += 1;
            } else if let Some(run) = self.runs.iter().find(|run| run.covers(after)) {
                if !run.is_aligned {
                    return None;
                }
                pages += (run.left.through - after).div_ceil(self.page_span);
                after = run.left.through;
            } else {
                let through = range.through;
                return Some(self.begin(Range { after, through }, false));
            }
        }
        None
    }

    /// A run ends where a batch does, as its reader has found out.
    pub(crate) fn align(&mut self, id: RunId, through: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id) {
            run.left.through = through;
            run.is_aligned = true;
        }
    }

    /// Takes the next page of a run, and says whether another one is wanted. What is let go for it goes into `evicted`, to
    /// be dropped outside the lock.
    pub(crate) fn shelve(&mut self, id: RunId, page: &Arc<Page>, evicted: &mut Vec<Arc<Page>>) -> More {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else {
            return More::No;
        };
        let after = run.left.after;
        run.left.after = page.through;
        let is_taken = std::mem::take(&mut run.is_awaited);
        let is_over = page.through >= run.left.through;
        let span = page.through.saturating_sub(after).max(1);
        // A page that ends with its run may be a small rest of it, which says nothing of how much a page holds.
        if !is_over || span > self.page_span {
            self.page_span = span;
        }
        self.put(after, page, is_taken);
        while self.bytes > self.bytes_max
            && let Some(page) = self.evict()
        {
            evicted.push(page);
        }
        while self.untaken_bytes >= self.untaken_bytes_max()
            && let Some(page) = self.let_go_forgotten()
        {
            evicted.push(page);
        }
        if is_over || self.untaken_bytes >= self.untaken_bytes_max() {
            More::No
        } else {
            More::Yes
        }
    }

    /// Forgets a run, however it ended.
    pub(crate) fn finish(&mut self, id: RunId) {
        self.runs.retain(|run| run.id != id);
    }

    /// Whether somebody reads a little behind this position. Streams that are near each other would each read everything,
    /// at the same pace, and never meet; so who is in front lets the run behind it end first. A stream whose handler is
    /// slow has no run under way, and keeps nobody.
    fn is_followed(&self, position: u64) -> bool {
        let is_near = |run: &Run| {
            let is_over = run.left.after >= run.left.through;
            let is_behind = run.left.after < position && position - run.left.after <= FOLLOWED_EVENTS_MAX;
            is_behind && !is_over
        };
        self.runs.iter().any(is_near)
    }

    fn untaken_bytes_max(&self) -> usize {
        self.bytes_max / 4 * 3
    }

    /// A run over the first few pages of the range, as far as they are not there.
    fn begin(&mut self, range: Range, is_awaited: bool) -> Run {
        let span = self.page_span.saturating_mul(RUN_PAGES);
        let next = self.pages.range(range.after + 1..).next();
        let limit = next.map_or(range.through, |(after, _)| range.through.min(*after));
        self.runs_begun += 1;
        let run = Run {
            id: RunId(self.runs_begun),
            left: Range {
                after: range.after,
                through: limit.min(range.after.saturating_add(span)),
            },
            is_aligned: false,
            is_awaited,
        };
        self.runs.push(run);
        run
    }

    fn put(&mut self, after: u64, page: &Arc<Page>, is_taken: bool) {
        // Who begins inside a batch has a part of it, which is of use to nobody else.
        let is_cut = page
            .batches
            .first()
            .is_some_and(|batch| batch.first_sequence <= after);
        let earlier = self.pages.range(..=after).next_back();
        let is_there = earlier.is_some_and(|(_, earlier)| earlier.page.through > after);
        if is_cut || is_there || page.through <= after {
            return;
        }
        let next = self.pages.range(after + 1..page.through).next();
        let page = match next {
            Some((next, _)) => Arc::new(up_to(page, *next)),
            None => Arc::clone(page),
        };
        let bytes = PAGE_BYTES
            + page
                .batches
                .iter()
                .map(|batch| batch.weight_bytes())
                .sum::<usize>();
        self.uses += 1;
        self.bytes += bytes;
        if !is_taken {
            self.untaken_bytes += bytes;
        }
        let shelved_at = self.shelved_bytes;
        self.shelved_bytes += bytes as u64;
        let shelved = Shelved {
            page,
            bytes,
            last_use: self.uses,
            shelved_at,
            is_taken,
        };
        self.pages.insert(after, shelved);
    }

    /// Takes out the page that was taken longest ago; if there is none, the one that waits longest to be taken.
    fn evict(&mut self) -> Option<Arc<Page>> {
        let oldest = |(_, shelved): &(&u64, &Shelved)| (!shelved.is_taken, shelved.last_use);
        let (after, _) = self.pages.iter().min_by_key(oldest)?;
        self.let_go(*after)
    }

    /// Takes out the page that waits longest to be taken, if the shelf was filled twice since. It was read ahead of a stream that has gone,
    /// or that was given what is live before it came there; or its stream is so slow that to read it again costs little.
    fn let_go_forgotten(&mut self) -> Option<Arc<Page>> {
        let untaken = self.pages.iter().filter(|(_, shelved)| !shelved.is_taken);
        let (after, oldest) = untaken.min_by_key(|(_, shelved)| shelved.shelved_at)?;
        if self.shelved_bytes - oldest.shelved_at < 2 * self.bytes_max as u64 {
            return None;
        }
        self.let_go(*after)
    }

    fn let_go(&mut self, after: u64) -> Option<Arc<Page>> {
        let shelved = self.pages.remove(&after)?;
        self.bytes -= shelved.bytes;
        if !shelved.is_taken {
            self.untaken_bytes -= shelved.bytes;
        }
        Some(shelved.page)
    }
}

/// What a page weighs beside its batches.
const PAGE_BYTES: usize = 256;

impl Run {
    fn covers(&self, after: u64) -> bool {
        self.left.after <= after && after < self.left.through
    }
}

/// The part of a page before another one, which begins where a batch does.
fn up_to(page: &Page, through: u64) -> Page {
    let is_before = |batch: &&Arc<CommittedBatch>| batch.first_sequence <= through;
    Page {
        batches: page.batches.iter().take_while(is_before).cloned().collect(),
        through,
    }
}

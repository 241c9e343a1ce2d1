//! The pages that streams on their way through the log share: which are there, which are being read, and which are let go.
//!
//! Pure: it decides and does nothing. A page holds all events of its stretch, so that it serves every query. What it promises:
//!
//! - a page is given out only for a position inside the stretch that was examined for it;
//! - no batch is cut in two: stretches begin and end where batches do;
//! - of those who want the same page one reads it, and the others wait for as long as that run lasts, and no longer;
//! - the pages weigh no more than the budget, and what was taken goes before what is still to be taken.

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
    runs_begun: u64,
    /// How many sequences the page read last reached over.
    page_span: u64,
}

struct Shelved {
    page: Arc<Page>,
    bytes: usize,
    last_use: u64,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(u64);

/// What there is of the stretch that somebody wants.
#[derive(Debug)]
pub(crate) enum Found {
    Page(Arc<Page>),
    /// Somebody is reading it, or what lies a little before it; look again when a page is shelved or the run is finished.
    Underway,
    /// Nobody is. Whoever is told so has to read, and to finish the run.
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
        Found::Missing(self.begin(range))
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
                return Some(self.begin(Range { after, through }));
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
        self.page_span = page.through.saturating_sub(after).max(1);
        let is_over = page.through >= run.left.through;
        self.put(after, page);
        while self.bytes > self.bytes_max
            && let Some(page) = self.evict()
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
    fn begin(&mut self, range: Range) -> Run {
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
        };
        self.runs.push(run);
        run
    }

    fn put(&mut self, after: u64, page: &Arc<Page>) {
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
        self.untaken_bytes += bytes;
        let shelved = Shelved {
            page,
            bytes,
            last_use: self.uses,
            is_taken: false,
        };
        self.pages.insert(after, shelved);
    }

    /// Takes out the page that was taken longest ago; if there is none, the one that waits longest to be taken.
    fn evict(&mut self) -> Option<Arc<Page>> {
        let oldest = |(_, shelved): &(&u64, &Shelved)| (!shelved.is_taken, shelved.last_use);
        let (after, _) = self.pages.iter().min_by_key(oldest)?;
        let after = *after;
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

#[cfg(all(test, not(millstream_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::clock::Timestamp;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    /// A log of batches of 1 to 4 events, with a hole now and then, as the ranges of its batches.
    fn log(shape: &[(u64, bool)]) -> Vec<Range> {
        let mut after = 0;
        let mut batches = Vec::new();
        for (size, is_removed) in shape {
            let through = after + size;
            if !is_removed {
                batches.push(Range { after, through });
            }
            after = through;
        }
        batches
    }

    fn batch(range: &Range) -> Arc<CommittedBatch> {
        let events = (range.after..range.through).map(|number| NewEvent::new("a", number));
        let (events, _) = check_batch(events, &Limits::default()).unwrap();
        Arc::new(CommittedBatch::stamp(events, range.after + 1, Timestamp::EPOCH))
    }

    /// What a read yields: as a page the next `batches_max` batches of the range, cut where the range begins.
    fn read(log: &[Range], range: Range, batches_max: usize) -> Page {
        let inside = |batch: &&Range| batch.through > range.after && batch.through <= range.through;
        let found: Vec<&Range> = log.iter().filter(inside).take(batches_max).collect();
        let through = match found.last() {
            Some(last) if found.len() == batches_max => last.through,
            _ => range.through,
        };
        Page {
            batches: found.into_iter().map(batch).collect(),
            through,
        }
    }

    fn end_of_batch(log: &[Range], sequence: u64) -> u64 {
        let inside = |batch: &&Range| batch.after < sequence && sequence <= batch.through;
        log.iter().find(inside).map_or(sequence, |batch| batch.through)
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Somebody wants what follows a position, up to the head as it was then.
        Find {
            after: u64,
            through: u64,
        },
        Ahead {
            after: u64,
        },
        Align {
            run: usize,
        },
        Shelve {
            run: usize,
            batches_max: usize,
        },
        /// A run ends: it is done, has failed, or was given up.
        Finish {
            run: usize,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..100u64, 0..100u64).prop_map(|(after, through)| Step::Find { after, through }),
            2 => (0..100u64).prop_map(|after| Step::Ahead { after }),
            4 => (0..8usize).prop_map(|run| Step::Align { run }),
            8 => (0..8usize, 1..5usize).prop_map(|(run, batches_max)| Step::Shelve { run, batches_max }),
            2 => (0..8usize).prop_map(|run| Step::Finish { run }),
        ]
    }

    /// Does to a shelf what readers and streams do, and checks each answer against the log.
    fn drive(log: &[Range], head: u64, bytes_max: usize, steps: Vec<Step>) {
        let mut shelf = Shelf::new(bytes_max);
        shelf.page_span = 3;
        let mut runs: Vec<Run> = Vec::new();
        for step in steps {
            match step {
                Step::Find { after, through } => {
                    let range = Range {
                        after: after.min(head - 1),
                        through: head,
                    };
                    let range = Range {
                        through: end_of_batch(log, through).clamp(range.after + 1, head),
                        ..range
                    };
                    match shelf.find(range) {
                        Found::Page(page) => check(log, &page, range.after),
                        Found::Underway => {
                            assert!(
                                runs.iter().any(|run| run.left.after <= range.after),
                                "nobody reads"
                            )
                        }
                        Found::Missing(run) => {
                            assert!(
                                !runs.iter().any(|known| known.covers(range.after)),
                                "two read the same"
                            );
                            assert_eq!(run.left.after, range.after);
                            assert!(run.left.through <= range.through);
                            runs.push(run);
                        }
                    }
                }
                Step::Ahead { after } => {
                    let after = end_of_batch(log, after.min(head));
                    runs.extend(shelf.ahead(Range { after, through: head }));
                }
                Step::Align { run } => {
                    if let Some(run) = runs.get_mut(run) {
                        run.left.through = end_of_batch(log, run.left.through);
                        run.is_aligned = true;
                        shelf.align(run.id, run.left.through);
                    }
                }
                Step::Shelve { run, batches_max } => {
                    let Some(run) = runs.get_mut(run).filter(|run| run.is_aligned) else {
                        continue;
                    };
                    let page = Arc::new(read(log, run.left, batches_max));
                    let mut evicted = Vec::new();
                    let more = shelf.shelve(run.id, &page, &mut evicted);
                    run.left.after = page.through;
                    if run.left.after >= run.left.through {
                        assert_eq!(more, More::No);
                    }
                }
                Step::Finish { run } => {
                    if run < runs.len() {
                        shelf.finish(runs.remove(run).id);
                    }
                }
            }
            // A run that has nothing left is over.
            for run in runs.extract_if(.., |run| run.left.after >= run.left.through) {
                shelf.finish(run.id);
            }
            check_budget(&shelf);
        }
        for run in runs {
            shelf.finish(run.id);
        }
        let everything = Range {
            after: 0,
            through: head,
        };
        assert!(
            !matches!(shelf.find(everything), Found::Underway),
            "nobody is left to wait for"
        );
    }

    /// A page has all batches of its stretch, each whole, and reaches beyond the position.
    fn check(log: &[Range], page: &Page, after: u64) {
        assert!(page.through > after);
        let begin = page
            .batches
            .first()
            .map_or(after, |batch| (batch.first_sequence - 1).min(after));
        let expected: Vec<(u64, u64)> = log
            .iter()
            .filter(|batch| batch.through > begin && batch.through <= page.through)
            .map(|batch| (batch.after + 1, batch.through))
            .collect();
        let found = page.batches.iter();
        let found: Vec<(u64, u64)> = found
            .map(|batch| (batch.first_sequence, batch.last_sequence))
            .collect();
        assert_eq!(found, expected, "after {after}");
        let is_cut = log
            .iter()
            .any(|batch| batch.after < page.through && page.through < batch.through);
        assert!(!is_cut, "a batch is cut at {}", page.through);
    }

    fn check_budget(shelf: &Shelf) {
        let bytes: usize = shelf.pages.values().map(|shelved| shelved.bytes).sum();
        let untaken = shelf.pages.values().filter(|shelved| !shelved.is_taken);
        assert_eq!(bytes, shelf.bytes);
        assert_eq!(
            untaken.map(|shelved| shelved.bytes).sum::<usize>(),
            shelf.untaken_bytes
        );
        assert!(bytes <= shelf.bytes_max);
        let mut reached = 0;
        for (after, shelved) in &shelf.pages {
            assert!(
                reached <= *after && *after < shelved.page.through,
                "stretches overlap"
            );
            reached = shelved.page.through;
        }
    }

    proptest! {
        #[test]
        fn a_shelf_gives_what_the_log_has_whatever_is_evicted_failed_or_given_up(
            shape in prop::collection::vec((1..5u64, prop::bool::weighted(0.2)), 1..40),
            bytes_max in prop_oneof![Just(0usize), Just(4_000), Just(1_000_000)],
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let head = shape.iter().map(|(size, _)| size).sum();
            drive(&log(&shape), head, bytes_max, steps);
        }
    }

    #[test]
    fn what_is_read_ahead_of_a_stream_fits_and_is_not_let_go_before_it_is_taken() {
        const EVENTS: u64 = 400;
        let log = log(&[(1, false); EVENTS as usize]);
        let bytes = PAGE_BYTES + 4 * batch(&log[0]).weight_bytes();
        let mut shelf = Shelf::new(PAGES_MIN * bytes);
        shelf.page_span = 4;
        let mut evicted = Vec::new();
        let mut after = 0;
        while after < EVENTS {
            let range = Range {
                after,
                through: EVENTS,
            };
            let mut runs = Vec::new();
            match shelf.find(range) {
                Found::Page(page) => after = page.through,
                Found::Missing(run) => runs.push(run),
                Found::Underway => panic!("each run is over"),
            }
            // The readers are faster than the stream: all that may be read is read before it takes the next page.
            while let Some(run) = runs.pop().or_else(|| shelf.ahead(Range { after, ..range })) {
                let mut left = run.left;
                shelf.align(run.id, left.through);
                loop {
                    let page = Arc::new(read(&log, left, 4));
                    left.after = page.through;
                    if shelf.shelve(run.id, &page, &mut evicted) == More::No {
                        break;
                    }
                }
                shelf.finish(run.id);
                let in_vain = evicted.drain(..).find(|page| page.through > after);
                assert!(in_vain.is_none(), "{in_vain:?} was let go before {after}");
            }
        }
    }

    #[test]
    fn who_is_in_front_waits_for_a_run_behind_it_and_for_nobody_without_one() {
        let head = 3 * FOLLOWED_EVENTS_MAX;
        let from = |after| Range { after, through: head };
        let mut shelf = Shelf::new(usize::MAX);
        let Found::Missing(behind) = shelf.find(from(0)) else {
            panic!("nobody reads");
        };
        let in_front = from(FOLLOWED_EVENTS_MAX);
        assert!(matches!(shelf.find(in_front), Found::Underway));
        assert_eq!(shelf.ahead(in_front), None);
        let far_in_front = from(2 * FOLLOWED_EVENTS_MAX);
        assert!(matches!(shelf.find(far_in_front), Found::Missing(_)));
        // The run that is over, or was given up, keeps nobody, whatever becomes of the stream that it was for.
        shelf.finish(behind.id);
        assert!(matches!(shelf.find(in_front), Found::Missing(_)));
    }

    #[test]
    fn what_was_taken_is_let_go_before_what_is_still_to_be_taken() {
        let log = log(&[(1, false); 8]);
        let bytes = PAGE_BYTES + batch(&log[0]).weight_bytes();
        let mut shelf = Shelf::new(2 * bytes);
        let Found::Missing(run) = shelf.find(Range { after: 0, through: 8 }) else {
            panic!("nothing was read yet");
        };
        let mut evicted = Vec::new();
        for after in 0..2 {
            let page = Arc::new(read(&log, Range { after, through: 8 }, 1));
            shelf.shelve(run.id, &page, &mut evicted);
        }
        assert!(shelf.page(1).is_some());
        let page = Arc::new(read(&log, Range { after: 2, through: 8 }, 1));
        shelf.shelve(run.id, &page, &mut evicted);
        assert!(shelf.page(0).is_some() && shelf.page(1).is_none() && shelf.page(2).is_some());
    }
}

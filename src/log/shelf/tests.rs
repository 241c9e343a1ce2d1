//! The shelf against a log, whatever is evicted, fails or is given up.

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
fn what_nobody_comes_to_take_is_not_for_ever_in_the_way_of_others() {
    const EVENTS: u64 = 4_000;
    let log = log(&[(1, false); EVENTS as usize]);
    let bytes = PAGE_BYTES + 4 * batch(&log[0]).weight_bytes();
    let mut shelf = Shelf::new(PAGES_MIN * bytes);
    shelf.page_span = 4;
    // Gives the first page, as to whoever had it read.
    let shelve = |shelf: &mut Shelf, run: Run| {
        let mut left = run.left;
        shelf.align(run.id, left.through);
        let mut first = None;
        loop {
            let page = Arc::new(read(&log, left, 4));
            left.after = page.through;
            let more = shelf.shelve(run.id, &page, &mut Vec::new());
            first.get_or_insert(page);
            if more == More::No {
                break;
            }
        }
        shelf.finish(run.id);
        first.expect("a run has a page")
    };
    // Read ahead of two streams that take nothing more.
    for after in [EVENTS - 400, EVENTS - 200] {
        let end = Range {
            after,
            through: EVENTS,
        };
        while let Some(run) = shelf.ahead(end) {
            shelve(&mut shelf, run);
        }
    }
    let (mut after, mut runs) = (0, 0);
    while after < EVENTS / 2 {
        let range = Range {
            after,
            through: EVENTS,
        };
        match shelf.find(range) {
            Found::Page(page) => after = page.through,
            Found::Missing(run) => {
                runs += 1;
                after = shelve(&mut shelf, run).through;
            }
            Found::Underway => panic!("each run is over"),
        }
    }
    let enough = EVENTS / 2 / (RUN_PAGES * 4);
    let in_the_way = 2 * PAGES_MIN as u64;
    assert!(runs <= enough + in_the_way, "{runs} runs where {enough} would do");
}

#[test]
fn a_small_rest_at_the_end_of_a_run_does_not_make_the_next_runs_small() {
    const EVENTS: u64 = 10_000;
    const PAGE: usize = 100;
    // Runs end with a rest of one event, and of any other size up to a whole page.
    for span in 1..=PAGE as u64 {
        let log = log(&[(1, false); EVENTS as usize]);
        let mut shelf = Shelf::new(usize::MAX);
        shelf.page_span = span;
        let (mut after, mut runs) = (0, 0);
        while after < EVENTS {
            let range = Range {
                after,
                through: EVENTS,
            };
            let Found::Missing(run) = shelf.find(range) else {
                panic!("nothing behind {after} was read yet");
            };
            runs += 1;
            shelf.align(run.id, run.left.through);
            while after < run.left.through {
                let left = Range { after, ..run.left };
                let page = Arc::new(read(&log, left, PAGE));
                after = page.through;
                shelf.shelve(run.id, &page, &mut Vec::new());
            }
            shelf.finish(run.id);
        }
        let enough = EVENTS / (RUN_PAGES * PAGE as u64);
        assert!(
            runs <= enough + 4,
            "{runs} runs where {enough} would do, from {span}"
        );
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
    let run = shelf.ahead(Range { after: 0, through: 8 });
    let run = run.expect("nothing was read yet");
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

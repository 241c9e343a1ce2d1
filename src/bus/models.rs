//! Loom models of the bus: every interleaving of a publisher and a stream. One property each.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::bus::{Bus, Look, LookBounds, SeatKey};
use crate::clock::Timestamp;
use crate::event::batch::CommittedBatch;
use crate::event::limits::Limits;
use crate::event::new_event::{NewEvent, check_batch};
use crate::event::query::EventQuery;

const BOUNDS: LookBounds = LookBounds {
    batches_max: 1,
    bytes_max: usize::MAX,
};
const WIDE: usize = 1 << 20;

fn batch(sequence: u64) -> Arc<CommittedBatch> {
    let (records, _) = check_batch([NewEvent::new("a", sequence)], &Limits::default()).unwrap();
    Arc::new(CommittedBatch::stamp(records, sequence, Timestamp::EPOCH))
}

fn publish(bus: &Bus, sequence: u64) {
    for waker in bus.publish(&[batch(sequence)]) {
        waker.wake();
    }
}

/// What a stream sees after `position`, waiting until there is something: the sequences, and how far they reach. What
/// the window has lost is read from a log, which has everything up to the head.
async fn next(bus: &Bus, seat: SeatKey, position: u64) -> (Vec<u64>, u64) {
    poll_fn(
        |context| match bus.look(seat, position, BOUNDS, Some(context.waker())) {
            Look::Nothing { .. } => Poll::Pending,
            Look::Batches { batches, through, .. } => {
                let seen = batches.iter().map(|batch| batch.first_sequence);
                Poll::Ready((seen.collect(), through))
            }
            Look::Behind { after, head } => Poll::Ready((((after + 1)..=head).collect(), head)),
            Look::Closed => Poll::Ready((Vec::new(), u64::MAX)),
        },
    )
    .await
}

/// Follows the log up to `end`.
fn follow(bus: &Bus, seat: SeatKey, mut position: u64, end: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while position < end {
        let (batches, through) = block_on(next(bus, seat, position));
        assert!(through > position, "every page moves the position");
        seen.extend(batches);
        position = through;
    }
    seen
}

#[test]
fn no_wake_up_is_lost_between_a_look_and_a_publish() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                publish(&bus, 2);
            }
        });
        assert_eq!(follow(&bus, seat, 0, 2), [1, 2]);
        publisher.join().unwrap();
    });
}

#[test]
fn eviction_while_reading_neither_skips_nor_repeats() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, batch(1).weight_bytes()));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                publish(&bus, 2);
                publish(&bus, 3);
            }
        });
        assert_eq!(follow(&bus, seat, 0, 3), [1, 2, 3]);
        publisher.join().unwrap();
    });
}

#[test]
fn subscribing_while_publishing_misses_nothing_after_the_position() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                publish(&bus, 2);
            }
        });
        let position = bus.head();
        let seat = bus.join(Arc::new(EventQuery::all()), position);
        let expected: Vec<u64> = ((position + 1)..=2).collect();
        assert_eq!(follow(&bus, seat, position, 2), expected);
        publisher.join().unwrap();
    });
}

#[test]
fn settled_is_never_said_of_a_stream_that_has_something_to_see() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || publish(&bus, 1)
        });
        let asker = thread::spawn({
            let bus = Arc::clone(&bus);
            move || bus.unselected(seat)
        });
        let look = bus.look(seat, 0, BOUNDS, Some(Waker::noop()));
        assert!(matches!(look, Look::Nothing { .. } | Look::Batches { .. }));
        // The stream is still at 0, so nothing after 0 is settled.
        let settled = asker.join().unwrap().filter(|unselected| unselected.after == 0);
        assert!(settled.is_none_or(|unselected| unselected.through == 0));
        publisher.join().unwrap();
    });
}

#[test]
fn what_was_given_out_is_settled_when_it_was_handled_and_not_before() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let handled = Arc::new(AtomicU64::new(0));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                publish(&bus, 2);
            }
        });
        let asker = thread::spawn({
            let (bus, handled) = (Arc::clone(&bus), Arc::clone(&handled));
            move || {
                let unselected = bus.unselected(seat);
                let handled = handled.load(Ordering::Acquire);
                if let Some(unselected) = unselected.filter(|unselected| handled >= unselected.after) {
                    assert!(unselected.through <= handled, "every event is selected");
                }
            }
        });
        if let Look::Batches { through, .. } = bus.look(seat, 0, BOUNDS, Some(Waker::noop())) {
            handled.store(through, Ordering::Release);
        }
        asker.join().unwrap();
        publisher.join().unwrap();
    });
}

/// Follows the log up to `end`, and rests after a page without another look when it may.
fn follow_with_rests(bus: &Bus, seat: SeatKey, end: u64) -> Vec<u64> {
    let (mut position, mut seen) = (0, Vec::new());
    block_on(poll_fn(|context| {
        while position < end {
            match bus.look(seat, position, BOUNDS, Some(context.waker())) {
                Look::Batches {
                    batches,
                    through,
                    may_rest,
                } => {
                    seen.extend(batches.iter().map(|batch| batch.first_sequence));
                    position = through;
                    if may_rest && position < end {
                        return Poll::Pending;
                    }
                }
                Look::Nothing { .. } => return Poll::Pending,
                Look::Behind { .. } | Look::Closed => {
                    unreachable!("the window is wide, nobody closes the bus")
                }
            }
        }
        Poll::Ready(())
    }));
    seen
}

#[test]
fn who_rests_after_a_page_is_woken_by_what_comes_next() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                publish(&bus, 2);
            }
        });
        assert_eq!(follow_with_rests(&bus, seat, 2), [1, 2]);
        publisher.join().unwrap();
    });
}

#[test]
fn closing_ends_who_waits_and_loses_nothing_published_before() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let closer = thread::spawn({
            let bus = Arc::clone(&bus);
            move || {
                publish(&bus, 1);
                for waker in bus.close() {
                    waker.wake();
                }
            }
        });
        let (seen, through) = block_on(next(&bus, seat, 0));
        assert_eq!((seen, through), (vec![1], 1));
        assert_eq!(block_on(next(&bus, seat, 1)).1, u64::MAX);
        closer.join().unwrap();
    });
}

/// The canary: a stream that rests without leaving its waker is left behind in some interleaving, and loom finds it.
#[test]
#[should_panic(expected = "deadlock")]
fn canary_a_stream_that_leaves_no_waker_is_found_out() {
    loom::model(|| {
        let bus = Arc::new(Bus::new(0, WIDE));
        let seat = bus.join(Arc::new(EventQuery::all()), 0);
        let publisher = thread::spawn({
            let bus = Arc::clone(&bus);
            move || publish(&bus, 1)
        });
        block_on(poll_fn(|_| match bus.look(seat, 0, BOUNDS, None) {
            Look::Nothing { .. } => Poll::Pending,
            _ => Poll::Ready(()),
        }));
        publisher.join().unwrap();
    });
}

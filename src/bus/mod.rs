//! The bus: a window onto the log's tail, and one seat per stream.
//!
//! Publishing pushes a batch into the window, evicts what exceeds the byte budget, moves the head, and marks the seats
//! whose query selects the batch. A seat that is not selected is not touched. Taking a look from a seat answers with
//! batches from the window, with "read the log up to here", or with "nothing is left for you, you will be woken".
//!
//! All of that happens under one lock, which is why nothing can fall between a look and a wake-up:
//!
//! - a seat without a mark has nothing to see in (its position, head];
//! - a seat's mark is not above the first batch that it has yet to see;
//! - whoever was told to rest left a waker, and the publish that marks the seat hands that waker out.
//!
//! A waker is kept until the next look from its seat, so that a wake-up that got lost can be repeated (D8).
//!
//! The bus does no I/O, starts no task, and does not know the log.

mod index;
#[cfg(all(test, millstream_loom))]
mod models;
mod place;
mod sharded;
mod window;

use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use crate::bus::index::{Asked, Placement, QueryIndex};
use crate::bus::place::Words;
use crate::bus::window::{Tail, Window};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::sync::Mutex;

#[cfg(feature = "internals")]
pub(crate) use index::select_by_index;

pub(crate) struct Bus {
    words: Words,
    state: Mutex<State>,
}

struct State {
    window: Window,
    seats: Slab<Seat>,
    index: QueryIndex,
    /// How many seats were ever taken.
    serials: u64,
    is_closed: bool,
}

/// One stream's place: all the bus keeps of it.
struct Seat {
    serial: u64,
    query: Arc<EventQuery>,
    placement: Placement,
    /// What lies at or below is of no interest to the stream.
    position: u64,
    /// From here on there may be something to see.
    mark: Option<u64>,
    /// Whether the stream found nothing when it looked last, and is to be woken when the mark is set.
    rests: bool,
    /// Whether the stream looks ahead of what it has settled.
    is_ahead: bool,
    /// Whom to wake. It stays when the stream goes on, for the next time.
    waker: Option<Waker>,
}

/// Names a seat, and after its stream has left, none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatKey {
    index: usize,
    serial: u64,
}

/// How much one look takes from the window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookBounds {
    pub(crate) batches_max: usize,
    pub(crate) bytes_max: usize,
}

/// What there is to see after a position.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing up to the head. The waker, if one was given, is kept.
    Nothing { head: u64 },
    /// Batches of the window that the query may select, and how far they reach: there is nothing else up to there.
    Batches {
        batches: Vec<Arc<CommittedBatch>>,
        through: u64,
    },
    /// The window does not reach back that far: the log has what comes after this sequence, up to the head.
    Behind { after: u64, head: u64 },
    /// Nothing up to the head, and nothing will come any more; or the stream has left its seat.
    Closed,
}

impl Bus {
    /// A bus onto a log that ends at `head`, with an empty window of so many bytes.
    pub(crate) fn new(head: u64, window_bytes_max: usize) -> Self {
        Self {
            words: Words::default(),
            state: Mutex::new(State {
                window: Window::new(head, window_bytes_max),
                seats: Slab::new(),
                index: QueryIndex::default(),
                serials: 0,
                is_closed: false,
            }),
        }
    }

    /// The last published sequence.
    pub(crate) fn head(&self) -> u64 {
        self.state.lock().window.head()
    }

    /// How much of the newest batches is in memory.
    pub(crate) fn window_bytes(&self) -> usize {
        self.state.lock().window.bytes()
    }

    /// Takes a seat for a stream that has seen everything up to `position`.
    pub(crate) fn join(&self, query: Arc<EventQuery>, position: u64) -> SeatKey {
        let routes = place::routes(&self.words, &query);
        let mut state = self.state.lock();
        let mark = (position < state.window.head()).then(|| position + 1);
        state.serials += 1;
        let serial = state.serials;
        let index = state.seats.vacant_key();
        let placement = state.index.insert(index, routes);
        state.seats.insert(Seat {
            serial,
            query,
            placement,
            position,
            mark,
            rests: false,
            is_ahead: false,
            waker: None,
        });
        SeatKey { index, serial }
    }

    /// Gives the seat up. The waker, if there was one, is dropped outside the lock, and nobody is woken any more.
    pub(crate) fn leave(&self, key: SeatKey) {
        let mut state = self.state.lock();
        let seat = state.seats.remove(key.index);
        state.index.remove(key.index, &seat.placement);
        drop(state);
        drop(seat);
    }

    /// Shows batches in the order of the log, and returns whom to wake, outside the lock.
    #[must_use = "a wake-up that is not passed on delays its stream by the poll interval"]
    pub(crate) fn publish(&self, batches: &[Arc<CommittedBatch>]) -> Vec<Waker> {
        self.parse_ahead(batches);
        let mut wakers = Vec::new();
        let mut evicted = Vec::new();
        let mut state = self.state.lock();
        let State {
            window, seats, index, ..
        } = &mut *state;
        for batch in batches {
            index.for_each_candidate(&self.words, batch, |key, event| {
                let seat = &mut seats[key];
                if seat.mark.is_some() {
                    return Asked::Done;
                }
                if event.sequence <= seat.position || !seat.query.selects(event) {
                    return Asked::NotSelected;
                }
                seat.mark = Some(batch.first_sequence);
                wakers.extend(seat.to_wake());
                Asked::Done
            });
            window.push(Arc::clone(batch), &mut evicted);
        }
        drop(state);
        wakers
    }

    /// Parses the payloads that a stream asks for. The lock is held only to find out which; a stream that joins in between
    /// has them parsed under it.
    fn parse_ahead(&self, batches: &[Arc<CommittedBatch>]) {
        let events = || batches.iter().flat_map(|batch| &batch.events);
        let state = self.state.lock();
        if !state.index.looks_into_payloads() {
            return;
        }
        let wanted: Vec<_> = events()
            .filter(|event| state.index.looks_into(&self.words, event))
            .collect();
        drop(state);
        for event in wanted {
            event.payload.parsed();
        }
    }

    /// Lets those who rest know that nothing will come any more, and returns whom to wake.
    #[must_use = "a stream that is not woken does not notice the end"]
    pub(crate) fn close(&self) -> Vec<Waker> {
        let mut state = self.state.lock();
        state.is_closed = true;
        let seats = state.seats.iter();
        seats.filter_map(|(_, seat)| seat.to_wake()).collect()
    }

    /// Repeats the wake-ups of all seats that have something to see and still rest (D8).
    pub(crate) fn overdue(&self) -> Vec<Waker> {
        let state = self.state.lock();
        let rests = state.seats.iter().filter(|(_, seat)| seat.mark.is_some());
        rests.filter_map(|(_, seat)| seat.to_wake()).collect()
    }

    /// Looks at what there is after `position`; a look consumes nothing. With nothing to see, the waker of one who is going to rest is kept and
    /// woken when there is.
    pub(crate) fn look(&self, key: SeatKey, position: u64, bounds: LookBounds, rest: Option<&Waker>) -> Look {
        let mut state = self.state.lock();
        let State {
            window,
            seats,
            is_closed,
            ..
        } = &mut *state;
        let Some(seat) = seats.get_mut(key.index).filter(|seat| seat.serial == key.serial) else {
            return Look::Closed;
        };
        let head = window.head();
        seat.position = position;
        seat.rests = false;
        let unseen = match seat.mark {
            Some(mark) if position < head => mark.max(position + 1),
            _ => {
                seat.mark = None;
                if *is_closed {
                    return Look::Closed;
                }
                let earlier_waker = rest.and_then(|waker| seat.rest(waker));
                drop(state);
                drop(earlier_waker);
                return Look::Nothing { head };
            }
        };
        let look = match window.after(unseen - 1, bounds) {
            Tail::Batches { batches, through } => Look::Batches { batches, through },
            Tail::OutOfReach => Look::Behind {
                after: unseen - 1,
                head,
            },
        };
        // Not moved beyond what is given out: only the position says what was taken, and a look may be repeated.
        seat.mark = Some(unseen);
        look
    }

    /// Gives a stream in its seat another position, back or forth, as if it had just joined there. Only for whoever looks
    /// from the seat.
    pub(crate) fn reseat(&self, key: SeatKey, position: u64) {
        let mut state = self.state.lock();
        let head = state.window.head();
        if let Some(seat) = state.seat(key) {
            seat.position = position;
            seat.mark = (position < head).then(|| position + 1);
            seat.rests = false;
        }
    }

    /// Wakes the stream no more, and lets nothing count as settled for it, until it looks again. What is published is still
    /// marked.
    pub(crate) fn leave_alone(&self, key: SeatKey) {
        if let Some(seat) = self.state.lock().seat(key) {
            seat.rests = false;
        }
    }

    /// The stream looks ahead of what it has settled: it is woken as others are, and nothing counts as settled for it.
    pub(crate) fn hold(&self, key: SeatKey) {
        if let Some(seat) = self.state.lock().seat(key) {
            seat.is_ahead = true;
        }
    }

    /// The stream looks from what it has settled again.
    pub(crate) fn release(&self, key: SeatKey) {
        if let Some(seat) = self.state.lock().seat(key) {
            seat.is_ahead = false;
        }
    }

    /// How far a resting stream is settled: the head, when there is nothing for it to see; nothing, when it does not rest, or
    /// looks ahead.
    pub(crate) fn settled(&self, key: SeatKey) -> Option<u64> {
        let state = self.state.lock();
        let seat = state.seats.get(key.index)?;
        let is_seated = seat.serial == key.serial;
        (is_seated && seat.rests && !seat.is_ahead && seat.mark.is_none())
            .then(|| state.window.head().max(seat.position))
    }
}

impl State {
    fn seat(&mut self, key: SeatKey) -> Option<&mut Seat> {
        self.seats
            .get_mut(key.index)
            .filter(|seat| seat.serial == key.serial)
    }
}

impl Seat {
    fn to_wake(&self) -> Option<Waker> {
        self.waker.as_ref().filter(|_| self.rests).cloned()
    }

    /// Begins to rest, and gives back the waker of somebody else, to be dropped outside the lock.
    fn rest(&mut self, waker: &Waker) -> Option<Waker> {
        self.rests = true;
        match &self.waker {
            Some(own) if own.will_wake(waker) => None,
            _ => self.waker.replace(waker.clone()),
        }
    }
}

#[cfg(all(test, not(millstream_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use crate::clock::Timestamp;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const ONE: LookBounds = LookBounds {
        batches_max: 1,
        bytes_max: usize::MAX,
    };

    fn batch(first: u64, types: &[&str]) -> Arc<CommittedBatch> {
        let events = types.iter().map(|name| NewEvent::new(*name, 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        Arc::new(CommittedBatch::stamp(records, first, Timestamp::EPOCH))
    }

    fn publish(bus: &Bus, batches: &[Arc<CommittedBatch>]) {
        for waker in bus.publish(batches) {
            waker.wake();
        }
    }

    fn seen(look: Look) -> (Vec<u64>, u64) {
        match look {
            Look::Batches { batches, through } => (
                batches.iter().map(|batch| batch.first_sequence).collect(),
                through,
            ),
            other => panic!("expected batches, found {other:?}"),
        }
    }

    #[test]
    fn a_seat_that_is_not_selected_is_settled_and_not_woken() {
        let bus = Bus::new(0, 1 << 20);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let key = bus.join(Arc::new(EventQuery::types(["b"])), 0);
        assert_eq!(bus.settled(key), None);
        assert!(matches!(
            bus.look(key, 0, ONE, Some(&waker)),
            Look::Nothing { head: 0 }
        ));
        publish(&bus, &[batch(1, &["a", "a"]), batch(3, &["a"])]);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert_eq!(bus.settled(key), Some(3));
        publish(&bus, &[batch(4, &["a", "b"]), batch(6, &["b"])]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(bus.settled(key), None);
        assert_eq!(seen(bus.look(key, 3, ONE, Some(&waker))), (vec![4], 5));
        assert_eq!(seen(bus.look(key, 5, ONE, Some(&waker))), (vec![6], 6));
        assert!(matches!(
            bus.look(key, 6, ONE, Some(&waker)),
            Look::Nothing { head: 6 }
        ));
    }

    #[test]
    fn who_looks_ahead_is_woken_and_nothing_counts_as_settled() {
        let bus = Bus::new(0, 1 << 20);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let key = bus.join(Arc::new(EventQuery::all()), 0);
        publish(&bus, &[batch(1, &["a"])]);
        assert_eq!(seen(bus.look(key, 0, ONE, Some(&waker))), (vec![1], 1));
        bus.hold(key);
        assert!(matches!(
            bus.look(key, 1, ONE, Some(&waker)),
            Look::Nothing { head: 1 }
        ));
        assert_eq!(bus.settled(key), None);
        bus.release(key);
        assert_eq!(bus.settled(key), Some(1));
        bus.hold(key);
        publish(&bus, &[batch(2, &["a"])]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_position_out_of_the_window_is_sent_to_the_log_and_comes_back() {
        let bus = Bus::new(10, 1);
        let waker = Waker::noop();
        let key = bus.join(Arc::new(EventQuery::all()), 4);
        assert!(matches!(
            bus.look(key, 4, ONE, Some(waker)),
            Look::Behind { after: 4, head: 10 }
        ));
        publish(&bus, &[batch(11, &["a"])]);
        assert!(matches!(
            bus.look(key, 10, ONE, Some(waker)),
            Look::Behind { after: 10, head: 11 }
        ));
        assert!(matches!(
            bus.look(key, 11, ONE, Some(waker)),
            Look::Nothing { head: 11 }
        ));
    }

    #[test]
    fn a_seat_that_was_moved_sees_what_comes_after_its_new_position() {
        let bus = Bus::new(0, 1 << 20);
        let waker = Waker::noop();
        let key = bus.join(Arc::new(EventQuery::all()), 0);
        publish(&bus, &[batch(1, &["a"]), batch(2, &["a"]), batch(3, &["a"])]);
        assert!(matches!(
            bus.look(key, 3, ONE, Some(waker)),
            Look::Nothing { head: 3 }
        ));
        bus.reseat(key, 1);
        assert_eq!(bus.settled(key), None);
        assert_eq!(seen(bus.look(key, 1, ONE, Some(waker))), (vec![2], 2));
        bus.reseat(key, 3);
        assert!(matches!(
            bus.look(key, 3, ONE, Some(waker)),
            Look::Nothing { head: 3 }
        ));
    }

    #[test]
    fn who_is_left_alone_is_not_woken_and_misses_nothing() {
        let bus = Bus::new(0, 1 << 20);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let key = bus.join(Arc::new(EventQuery::all()), 0);
        assert!(matches!(
            bus.look(key, 0, ONE, Some(&waker)),
            Look::Nothing { .. }
        ));
        bus.leave_alone(key);
        publish(&bus, &[batch(1, &["a"])]);
        assert!(bus.overdue().is_empty());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert_eq!(bus.settled(key), None);
        assert_eq!(seen(bus.look(key, 0, ONE, Some(&waker))), (vec![1], 1));
    }

    #[test]
    fn d8_a_lost_wake_up_is_repeated() {
        let bus = Bus::new(0, 1 << 20);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let key = bus.join(Arc::new(EventQuery::all()), 0);
        assert!(matches!(
            bus.look(key, 0, ONE, Some(&waker)),
            Look::Nothing { .. }
        ));
        drop(bus.publish(&[batch(1, &["a"])]));
        for waker in bus.overdue() {
            waker.wake();
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(seen(bus.look(key, 0, ONE, Some(&waker))), (vec![1], 1));
        assert!(bus.overdue().is_empty());
    }

    #[test]
    fn a_late_look_of_a_stream_that_left_touches_nobody_elses_seat() {
        let bus = Bus::new(0, 1 << 20);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let left = bus.join(Arc::new(EventQuery::all()), 0);
        bus.leave(left);
        assert!(matches!(bus.look(left, 0, ONE, None), Look::Closed));
        let taken = bus.join(Arc::new(EventQuery::all()), 0);
        assert!(matches!(
            bus.look(taken, 0, ONE, Some(&waker)),
            Look::Nothing { .. }
        ));
        assert!(matches!(
            bus.look(left, 9, ONE, Some(Waker::noop())),
            Look::Closed
        ));
        publish(&bus, &[batch(1, &["a"])]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_look_that_nobody_acted_upon_loses_nothing() {
        let bus = Bus::new(0, 1 << 20);
        let key = bus.join(Arc::new(EventQuery::all()), 0);
        publish(&bus, &[batch(1, &["a"])]);
        for _ in 0..2 {
            assert_eq!(seen(bus.look(key, 0, ONE, Some(Waker::noop()))), (vec![1], 1));
        }
    }

    #[test]
    fn a_position_ahead_of_the_head_sees_only_what_comes_after_it() {
        let bus = Bus::new(0, 1 << 20);
        let waker = Waker::noop();
        let key = bus.join(Arc::new(EventQuery::all()), 2);
        assert!(matches!(
            bus.look(key, 2, ONE, Some(waker)),
            Look::Nothing { head: 0 }
        ));
        publish(&bus, &[batch(1, &["a", "a"]), batch(3, &["a"])]);
        assert_eq!(seen(bus.look(key, 2, ONE, Some(waker))), (vec![3], 3));
    }
}

//! Which call of a partitioned stream starts next. Pure.
//!
//! The events of each lane queue in the order of the log, and the first of the queue is in at most one call: so a lane has its
//! order, and never two calls under way. Of the lanes that can go on, the one with the oldest event does: that is what the
//! position waits for.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::event::batch::EventBatch;
use crate::log::letter::LetterLimits;
use crate::stream::dispose::Disposal;
use crate::stream::keyed::hand::Hand;
use crate::stream::keyed::partition::{Lane, Partition};

pub(crate) struct Lanes {
    hand: Hand,
    /// The selected batches behind what is in hand, and how far they reach.
    page: VecDeque<EventBatch>,
    page_through: u64,
    lookahead_batches: usize,
    /// The lanes that have something in hand.
    queues: HashMap<Lane, Queue>,
    /// The lanes whose first events can be called with, by the first of these.
    ready: BTreeSet<(u64, Lane)>,
    /// The lanes that wait before they try again.
    due: BTreeSet<(Instant, Lane)>,
}

struct Queue {
    events: VecDeque<EventBatch>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Called,
    Waits { until: Instant },
}

impl Lanes {
    pub(crate) fn new(position: u64, lookahead_batches: u32) -> Self {
        Self {
            hand: Hand::new(position),
            page: VecDeque::new(),
            page_through: position,
            lookahead_batches: lookahead_batches as usize,
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            due: BTreeSet::new(),
        }
    }

    pub(crate) fn hand(&self) -> &Hand {
        &self.hand
    }

    pub(crate) fn hand_mut(&mut self) -> &mut Hand {
        &mut self.hand
    }

    #[cfg(test)]
    pub(crate) fn lookahead_batches(&self) -> usize {
        self.lookahead_batches
    }

    /// Where the next page begins, if one is wanted.
    pub(crate) fn wants_after(&self, bytes_max: usize) -> Option<u64> {
        let has_room = self.page.is_empty() && self.has_room(bytes_max);
        has_room.then(|| self.page_through.max(self.hand.taken_through()))
    }

    /// Whether more of the page can be taken into the hand.
    pub(crate) fn can_fill(&self, bytes_max: usize) -> bool {
        !self.page.is_empty() && self.has_room(bytes_max)
    }

    fn has_room(&self, bytes_max: usize) -> bool {
        let hand = &self.hand;
        hand.is_empty() || (hand.batches() < self.lookahead_batches && hand.bytes() < bytes_max)
    }

    /// A page lies behind what is in hand; there is nothing else up to `through`.
    pub(crate) fn take_page(&mut self, batches: VecDeque<EventBatch>, through: u64) {
        assert!(self.page.is_empty(), "a page is finished before the next one");
        self.page = batches;
        self.page_through = self.page_through.max(through);
        self.end_page();
    }

    fn end_page(&mut self) {
        if self.page.is_empty() {
            self.hand.take_through(self.page_through);
        }
    }

    /// Takes batches into the hand, as long as there is room. What the user's closure says is asked before anything changes.
    pub(crate) fn fill(&mut self, partition: &Partition, bytes_max: usize) {
        while let Some(batch) = self.page.front().filter(|_| self.has_room(bytes_max)) {
            let shares = partition.share_out(batch);
            let batch = self.page.pop_front().expect("it was there");
            let open = self.hand.take(&batch);
            let is_whole = open.as_ref().is_some_and(|open| open.len() == batch.len());
            // What was settled before it was let go is left out.
            let shares = match open {
                Some(open) if !is_whole => partition.share_out(&open),
                Some(_) => shares,
                None => Vec::new(),
            };
            for share in shares {
                self.push(share.lane, share.events);
            }
        }
        self.end_page();
    }

    fn push(&mut self, lane: Lane, events: EventBatch) {
        let queue = self.queues.entry(lane).or_insert_with(|| Queue {
            events: VecDeque::new(),
            state: State::Ready,
        });
        queue.events.push_back(events);
        if queue.events.len() == 1 {
            self.ready.insert((first_of(&queue.events[0]), lane));
        }
    }

    /// What can be called with next.
    pub(crate) fn next(&self) -> Option<(Lane, &EventBatch)> {
        let (_, lane) = self.ready.first()?;
        let queue = self.queues.get(lane)?;
        Some((*lane, queue.events.front()?))
    }

    /// A call with the first events of a lane begins, or with a part of them.
    pub(crate) fn begin(&mut self, lane: Lane) {
        self.leave_state(lane, State::Called);
    }

    /// The call did not come about, or is to be repeated at once.
    pub(crate) fn put_back(&mut self, lane: Lane) {
        self.leave_state(lane, State::Ready);
    }

    /// The call failed, and is to be repeated later.
    pub(crate) fn wait(&mut self, lane: Lane, until: Instant) {
        self.leave_state(lane, State::Waits { until });
    }

    /// Lets the lanes go on whose time has come.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some((_, lane)) = self.due.first().copied().filter(|(until, _)| *until <= now) {
            self.leave_state(lane, State::Ready);
        }
    }

    /// Lets all lanes go on.
    pub(crate) fn wake_all(&mut self) {
        while let Some((_, lane)) = self.due.first().copied() {
            self.leave_state(lane, State::Ready);
        }
    }

    /// When the first lane goes on that waits.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// The handler took the first events of a lane, up to here.
    pub(crate) fn settle(&mut self, lane: Lane, through: u64) {
        let events = self.pop(lane);
        self.hand.settle(&events, through);
        self.keep_rest(lane, &events, through);
    }

    /// Of the first events of a lane, up to here, these are set aside, and the others handled.
    pub(crate) fn set_aside(&mut self, lane: Lane, disposal: Disposal, limits: LetterLimits) {
        let Disposal { letters, through } = disposal;
        let events = self.pop(lane);
        self.hand.set_aside(lane, &events, (letters, limits), through);
        self.keep_rest(lane, &events, through);
    }

    fn pop(&mut self, lane: Lane) -> EventBatch {
        self.leave_state(lane, State::Called);
        let queue = self.queues.get_mut(&lane);
        let events = queue.and_then(|queue| queue.events.pop_front());
        events.expect("only what is in hand is settled")
    }

    fn keep_rest(&mut self, lane: Lane, events: &EventBatch, through: u64) {
        let queue = self.queues.get_mut(&lane).expect("a lane in hand has a queue");
        if let Some(rest) = events.rest(through) {
            queue.events.push_front(rest);
        }
        if queue.events.is_empty() {
            self.queues.remove(&lane);
        } else {
            self.leave_state(lane, State::Ready);
        }
    }

    /// Nothing is parked under this key any more: what queued behind it is to be handled after all, before what else its lane has.
    pub(crate) fn reopen(&mut self, key: &str) {
        for (lane, events) in self.hand.reopen(key) {
            let first = first_of(&events);
            let Some(queue) = self.queues.get_mut(&lane) else {
                self.push(lane, events);
                continue;
            };
            // What is called with, or waits to be, stays the first.
            let fixed = usize::from(queue.state != State::Ready);
            let earlier = queue.events.iter().skip(fixed);
            let place = fixed + earlier.take_while(|events| first_of(events) < first).count();
            let was_first = queue.events.front().map(first_of);
            queue.events.insert(place, events);
            if place == 0 {
                self.ready.remove(&(was_first.unwrap_or(0), lane));
                self.ready.insert((first, lane));
            }
        }
    }

    /// Lets go of everything that can be read again. No call is under way.
    pub(crate) fn let_go(&mut self) {
        self.hand.let_go();
        self.queues.clear();
        self.ready.clear();
        self.due.clear();
        self.page.clear();
        self.page_through = self.hand.position();
    }

    /// The state of a lane changes, and where it is listed with it.
    fn leave_state(&mut self, lane: Lane, next: State) {
        let queue = self.queues.get_mut(&lane).expect("a lane in hand has a queue");
        let first = queue.events.front().map_or(0, first_of);
        match std::mem::replace(&mut queue.state, next) {
            State::Ready => drop(self.ready.remove(&(first, lane))),
            State::Called => {}
            State::Waits { until } => drop(self.due.remove(&(until, lane))),
        }
        match next {
            State::Ready => drop(self.ready.insert((first, lane))),
            State::Called => {}
            State::Waits { until } => drop(self.due.insert((until, lane))),
        }
    }
}

fn first_of(events: &EventBatch) -> u64 {
    events.iter().next().map_or(0, |event| event.sequence())
}

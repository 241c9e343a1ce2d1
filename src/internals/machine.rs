//! A stream's machine with a real bus and a log of paper, driven by a script: for fuzzing and property tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;

use crate::bus::{Bus, Look, LookBounds, SeatKey};
use crate::clock::Timestamp;
use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::draft::Drafts;
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::stream::machine::{Command, Input, Machine};

/// Plays a script and checks every delivery against the list of what is to be delivered.
///
/// Each byte is one step: somebody appends, leaves a hole, or the stream takes a step, whose handler succeeds, fails, or settles
/// a part, or takes more in hand, or the process dies and goes on from a cursor that was stored at some time.
///
/// # Panics
/// When an event is skipped, delivered twice without a crash in between, or delivered out of order; or when the position
/// passes an event that is not settled.
pub fn drive_machine(script: &[u8]) {
    let mut bytes = script.iter().copied();
    let shape = bytes.next().unwrap_or(0);
    let mut world = World::new(shape);
    for byte in bytes {
        match byte % 8 {
            0 | 1 => world.publish(byte >> 3),
            2 => world.skip_sequences(u64::from(byte >> 3)),
            3 => world.crash(byte >> 3),
            4 => world.step(Outcome::Fails),
            5 => world.step(Outcome::SettlesTheFirst),
            7 => world.look_ahead(),
            _ => world.step(Outcome::Succeeds),
        }
    }
    // Whatever happened: from here on the stream gets to the head, and has delivered everything.
    while !world.rests {
        world.step(Outcome::Succeeds);
    }
    let unselected = world
        .bus
        .unselected(world.seat)
        .expect("a stream at rest has nothing to see");
    let (position, head) = (world.machine.position(), world.bus.head());
    assert!(unselected.after <= position, "it has handled what it was given");
    assert_eq!(
        unselected.through, head,
        "a stream at rest is settled up to the head"
    );
    assert_eq!(world.undelivered(), None, "nothing is left to deliver");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Succeeds,
    Fails,
    /// The first event is handled, or set aside, and the rest of the batch is still in hand.
    SettlesTheFirst,
}

struct World {
    log: Vec<Arc<CommittedBatch>>,
    next_sequence: u64,
    bus: Bus,
    seat: SeatKey,
    query: Arc<EventQuery>,
    machine: Machine,
    command: Option<Command>,
    rests: bool,
    /// It was woken while it was at work.
    was_woken: bool,
    /// The events that the handler took since the cursor from which the process went on.
    handled: BTreeSet<u64>,
    /// The cursor that a crash would leave behind.
    cursor: u64,
    page_batches: usize,
}

impl World {
    fn new(shape: u8) -> Self {
        let window_bytes = usize::from(shape % 4) * 700;
        let bus = Bus::new(0, window_bytes);
        let query = Arc::new(EventQuery::types(["wanted"]));
        Self {
            log: Vec::new(),
            next_sequence: 1,
            seat: bus.join(Arc::clone(&query), 0),
            bus,
            query,
            machine: Machine::new(0),
            command: None,
            rests: false,
            was_woken: false,
            handled: BTreeSet::new(),
            cursor: 0,
            page_batches: 1 + usize::from(shape / 4 % 3),
        }
    }

    /// Appends a batch of one to three events, each wanted or not.
    fn publish(&mut self, shape: u8) {
        let mut drafts = Drafts::default();
        for bit in 0..=(shape % 3) {
            let name = if shape >> (2 + bit) & 1 == 1 {
                "wanted"
            } else {
                "other"
            };
            let event = NewEvent::new(name, bit).draft(&Limits::default(), &mut drafts);
            event.expect("a small event is accepted");
        }
        let events = drafts.finish(Timestamp::EPOCH);
        let batch = Arc::new(CommittedBatch::stamp(
            events,
            self.next_sequence,
            Timestamp::EPOCH,
        ));
        self.next_sequence = batch.last_sequence + 1;
        self.log.push(Arc::clone(&batch));
        if !self.bus.publish(&[batch]).is_empty() {
            // As the gate does: who is woken at work goes round once more.
            self.was_woken = !std::mem::take(&mut self.rests);
        }
    }

    /// A stretch of the log that was removed: sequences without events.
    fn skip_sequences(&mut self, count: u64) {
        self.next_sequence += count;
    }

    /// The process dies, and goes on from a position that was settled at some time.
    fn crash(&mut self, choice: u8) {
        let settled = self.machine.position();
        self.cursor += (settled - self.cursor) * u64::from(choice) / 31;
        self.handled.retain(|sequence| *sequence <= self.cursor);
        self.bus.leave(self.seat);
        self.seat = self.bus.join(Arc::clone(&self.query), self.cursor);
        self.machine = Machine::new(self.cursor);
        self.command = None;
        self.rests = false;
        self.was_woken = false;
    }

    /// Does what the machine says.
    fn step(&mut self, outcome: Outcome) {
        if self.rests {
            return;
        }
        let command = match self.command.take() {
            Some(command) => command,
            None => self.machine.step(Input::Woken),
        };
        let input = match command {
            Command::Look { after } => self.look(after),
            Command::Read { after, through } => self.read(after, through),
            Command::Rest => {
                self.rests = !std::mem::take(&mut self.was_woken);
                return;
            }
            Command::Call(batch) if outcome == Outcome::Succeeds => {
                self.handle(&batch);
                Input::Settled {
                    through: batch.last_sequence(),
                }
            }
            Command::Call(batch) if outcome == Outcome::SettlesTheFirst => self.settle_first(&batch),
            Command::Call(_) => Input::Retry,
        };
        self.command = Some(self.machine.step(input));
        let position = self.machine.position();
        let undelivered = self.undelivered().unwrap_or(u64::MAX);
        assert!(
            position < undelivered,
            "the position {position} passed {undelivered}"
        );
    }

    /// As the pump does for a group: takes what lies behind the page in hand.
    fn look_ahead(&mut self) {
        if self.machine.in_hand().is_none() {
            return;
        }
        let after = self.machine.looks_on();
        if let Input::Page {
            batches,
            through,
            may_rest,
        } = self.look(after)
        {
            self.machine.take_more(batches, through, may_rest);
        }
        let unselected = self.bus.unselected(self.seat);
        let is_ahead = unselected.is_none_or(|unselected| unselected.after > self.machine.position());
        assert!(is_ahead, "what was looked over is not settled");
    }

    fn handle(&mut self, batch: &EventBatch) {
        for event in batch {
            assert_eq!(
                Some(event.sequence()),
                self.undelivered(),
                "the next one is delivered"
            );
            self.handled.insert(event.sequence());
        }
    }

    fn settle_first(&mut self, batch: &EventBatch) -> Input {
        let through = batch.iter().next().map_or(0, |event| event.sequence());
        let part = batch.part(through, through).expect("a batch has a first event");
        self.handle(&part);
        Input::Settled { through }
    }

    /// The first wanted event after the cursor that the handler did not take.
    fn undelivered(&self) -> Option<u64> {
        let events = self.log.iter().flat_map(|batch| &batch.events);
        events
            .filter(|event| event.event_type() == "wanted" && event.sequence() > self.cursor)
            .map(|event| event.sequence())
            .find(|sequence| !self.handled.contains(sequence))
    }

    fn look(&self, after: u64) -> Input {
        let bounds = LookBounds {
            batches_max: self.page_batches,
            bytes_max: usize::MAX,
        };
        match self.bus.look(self.seat, after, bounds, Some(Waker::noop())) {
            Look::Nothing { head } => Input::Nothing { head },
            Look::Behind { after, head } => Input::Behind { after, head },
            Look::Batches {
                batches,
                through,
                may_rest,
            } => Input::Page {
                batches: self.select(&batches, after),
                through,
                may_rest,
            },
            Look::Closed => unreachable!("nobody closes the bus"),
        }
    }

    fn read(&self, after: u64, through: u64) -> Input {
        let in_range =
            |batch: &&Arc<CommittedBatch>| batch.last_sequence > after && batch.first_sequence <= through;
        let page: Vec<_> = self
            .log
            .iter()
            .filter(in_range)
            .take(self.page_batches)
            .cloned()
            .collect();
        let is_full = page.len() == self.page_batches;
        let through = match page.last() {
            Some(last) if is_full => last.last_sequence,
            _ => through,
        };
        Input::Page {
            batches: self.select(&page, after),
            through,
            may_rest: false,
        }
    }

    fn select(&self, batches: &[Arc<CommittedBatch>], after: u64) -> std::collections::VecDeque<EventBatch> {
        let selected = batches
            .iter()
            .filter_map(|batch| EventBatch::select(Arc::clone(batch), &self.query, after));
        selected.collect()
    }
}

//! What a stream has in hand that handles several keys at once, in the order of the log: which of it is settled, how far the
//! position has come, and which letters wait until it gets there. Pure.
//!
//! Invariants:
//! - the position only grows, and is before the first event that is not settled (D2);
//! - it never passes an event that is set aside before its letter is stored, and a letter is stored with a position at or
//!   behind its last event (D5);
//! - an event that is settled is not given out again, also when what is in hand is let go and taken again (S3).

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Timestamp;
use crate::event::batch::EventBatch;
use crate::log::letter::{DeadLetter, DeadLetterState, LetterLimits};
use crate::stream::keyed::partition::Lane;

pub(crate) struct Hand {
    position: u64,
    /// The selected events after the position, in the order of the log.
    events: VecDeque<InHand>,
    /// The batches that they are of.
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Everything up to here is in hand, or settled.
    taken_through: u64,
    /// The letters that wait for the position, by their first event.
    letters: BTreeMap<u64, Waiting>,
    /// What was settled ahead of the position when everything else was let go.
    carried: VecDeque<InHand>,
}

#[derive(Clone, Copy, Debug)]
struct InHand {
    sequence: u64,
    stands: Stands,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Open,
    Settled,
    /// A letter stands for it, which begins with this event.
    Aside(u64),
}

struct Batch {
    /// Its last selected event.
    last: u64,
    bytes: usize,
    recorded_at: Timestamp,
}

/// A letter that is not stored yet.
struct Waiting {
    letter: DeadLetter,
    limits: LetterLimits,
    /// What is delivered after all, when it turns out that its key is free.
    lane: Lane,
    events: EventBatch,
}

/// Letters that can be stored, and the position that goes with them.
#[derive(Clone, Debug)]
pub(crate) struct Storable {
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) limits: LetterLimits,
    pub(crate) position: u64,
}

impl Hand {
    pub(crate) fn new(position: u64) -> Self {
        Self {
            position,
            events: VecDeque::new(),
            batches: VecDeque::new(),
            bytes: 0,
            taken_through: position,
            letters: BTreeMap::new(),
            carried: VecDeque::new(),
        }
    }

    /// The last sequence that is settled, and stored where it was set aside.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn taken_through(&self) -> u64 {
        self.taken_through
    }

    /// Whether nothing is in hand: everything up to where it was taken is settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest batch in hand was committed.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.batches.front().map(|batch| batch.recorded_at)
    }

    /// The first event that somebody has yet to handle.
    pub(crate) fn first_open(&self) -> Option<u64> {
        let mut open = self.events.iter().filter(|event| event.stands == Stands::Open);
        open.next().map(|event| event.sequence)
    }

    pub(crate) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Whether an event of this key, before this one, is parked and not stored yet.
    pub(crate) fn parks(&self, key: &str, before: u64) -> bool {
        let mut earlier = self.letters.range(..before);
        earlier.any(|(_, waiting)| {
            waiting.letter.state == DeadLetterState::Parked && waiting.letter.key.as_deref() == Some(key)
        })
    }

    #[cfg(test)]
    pub(crate) fn is_aside(&self, sequence: u64) -> bool {
        let mut events = self.events.iter();
        events.any(|event| event.sequence == sequence && matches!(event.stands, Stands::Aside(_)))
    }

    #[cfg(test)]
    pub(crate) fn is_carried(&self, sequence: u64) -> bool {
        self.carried.iter().any(|event| event.sequence == sequence)
    }

    /// Takes a batch. Gives what of it is to be handled: not what was settled before it was let go.
    pub(crate) fn take(&mut self, batch: &EventBatch) -> Option<EventBatch> {
        let mut open = Vec::new();
        for (place, event) in batch.iter().enumerate() {
            let sequence = event.sequence();
            assert!(
                sequence > self.taken_through,
                "a batch lies behind what is in hand"
            );
            while self
                .carried
                .front()
                .is_some_and(|earlier| earlier.sequence < sequence)
            {
                self.carried.pop_front();
            }
            let carried = self.carried.pop_front_if(|earlier| earlier.sequence == sequence);
            let in_hand = carried.unwrap_or(InHand {
                sequence,
                stands: Stands::Open,
            });
            if in_hand.stands == Stands::Open {
                open.push(place);
            }
            self.events.push_back(in_hand);
        }
        let last = self
            .events
            .back()
            .map_or(self.taken_through, |event| event.sequence);
        self.batches.push_back(Batch {
            last,
            bytes: batch.weight_bytes(),
            recorded_at: batch.recorded_timestamp(),
        });
        self.bytes += batch.weight_bytes();
        self.taken_through = self.taken_through.max(batch.last_sequence());
        match open.len() {
            count if count == batch.len() => Some(batch.clone()),
            _ => batch.pick(open.into_iter()),
        }
    }

    /// There is nothing else up to here.
    pub(crate) fn take_through(&mut self, through: u64) {
        self.taken_through = self.taken_through.max(through);
    }

    /// These events are handled, up to here.
    pub(crate) fn settle(&mut self, events: &EventBatch, through: u64) {
        let settled = events.iter().map(|event| event.sequence());
        for sequence in settled.take_while(|sequence| *sequence <= through) {
            self.mark(sequence, Stands::Settled);
        }
    }

    /// Letters stand for some of these events. The others up to here are handled.
    pub(crate) fn set_aside(
        &mut self,
        lane: Lane,
        events: &EventBatch,
        (letters, limits): (Vec<DeadLetter>, LetterLimits),
        through: u64,
    ) {
        self.settle(events, through);
        for letter in letters {
            let first = letter.first_sequence;
            let places = events.iter().enumerate();
            let meant = places.filter(|(_, event)| letter.contains(event.sequence()));
            let meant: Vec<usize> = meant.map(|(place, _)| place).collect();
            let events = events.pick(meant.into_iter());
            let events = events.expect("a letter stands for some of the events");
            for event in &events {
                self.mark(event.sequence(), Stands::Aside(first));
            }
            let waiting = Waiting {
                letter,
                limits,
                lane,
                events,
            };
            self.letters.insert(first, waiting);
        }
    }

    fn mark(&mut self, sequence: u64, stands: Stands) {
        let found = self
            .events
            .binary_search_by_key(&sequence, |event| event.sequence);
        let event = found.ok().and_then(|index| self.events.get_mut(index));
        event.expect("what is settled is in hand").stands = stands;
    }

    /// The letters that the position has come to: nothing open lies before or between what they stand for.
    pub(crate) fn storable(&self) -> Option<Storable> {
        let mut found: Option<Storable> = None;
        // Letters of which the end is yet to come: they are stored together, under the limits of the first.
        let (mut begun, mut begun_through) = (Vec::new(), 0);
        let mut events = self.events.iter().peekable();
        while let Some(event) = events.next() {
            match event.stands {
                Stands::Open => break,
                Stands::Aside(first) if first == event.sequence => {
                    let waiting = &self.letters[&first];
                    if found.as_ref().is_some_and(|found| found.limits != waiting.limits) {
                        break;
                    }
                    begun_through = waiting.letter.last_sequence.max(begun_through);
                    begun.push(waiting);
                }
                Stands::Settled | Stands::Aside(_) => {}
            }
            let limits = begun.first().map(|waiting: &&Waiting| waiting.limits);
            let Some(limits) = limits.or(found.as_ref().map(|found| found.limits)) else {
                continue;
            };
            if event.sequence < begun_through {
                continue;
            }
            let storable = found.get_or_insert_with(|| Storable {
                letters: Vec::new(),
                limits,
                position: 0,
            });
            let letters = begun.drain(..).map(|waiting| waiting.letter.clone());
            storable.letters.extend(letters);
            let next = events.peek();
            storable.position = next.map_or(self.taken_through, |next| next.sequence - 1);
        }
        found
    }

    /// The letters up to here are stored.
    pub(crate) fn stored(&mut self, position: u64) {
        let left = self.letters.split_off(&(position + 1));
        self.letters = left;
        let stored = self
            .events
            .iter_mut()
            .take_while(|event| event.sequence <= position);
        for event in stored {
            if event.stands != Stands::Open {
                event.stands = Stands::Settled;
            }
        }
    }

    /// Nothing is parked under this key any more: what was to queue behind it is open again, unless something that waits
    /// is parked under it.
    pub(crate) fn reopen(&mut self, key: &str) -> Vec<(Lane, EventBatch)> {
        let is_parked = |waiting: &Waiting| waiting.letter.state == DeadLetterState::Parked;
        let of_key = |waiting: &Waiting| waiting.letter.key.as_deref() == Some(key);
        let parked = self
            .letters
            .iter()
            .find(|(_, waiting)| is_parked(waiting) && of_key(waiting));
        let end = parked.map_or(u64::MAX, |(first, _)| *first);
        let queued = self.letters.extract_if(..end, |_, waiting| {
            waiting.letter.state == DeadLetterState::Queued && of_key(waiting)
        });
        let queued: Vec<_> = queued
            .map(|(_, waiting)| (waiting.lane, waiting.events))
            .collect();
        for (_, events) in &queued {
            for event in events {
                self.mark(event.sequence(), Stands::Open);
            }
        }
        queued
    }

    /// Moves the position over what is settled. Gives how many batches it has passed.
    pub(crate) fn advance(&mut self) -> u32 {
        while self
            .events
            .pop_front_if(|event| event.stands == Stands::Settled)
            .is_some()
        {}
        let settled = self
            .events
            .front()
            .map_or(self.taken_through, |event| event.sequence - 1);
        self.position = self.position.max(settled);
        let mut count = 0;
        while let Some(passed) = self.batches.pop_front_if(|batch| batch.last <= self.position) {
            self.bytes -= passed.bytes;
            count += 1;
        }
        count
    }

    /// Lets go of everything after the position that can be taken again, and remembers which of it is settled.
    pub(crate) fn let_go(&mut self) {
        // What only queues costs no call when it is taken again.
        self.letters
            .retain(|_, waiting| waiting.letter.state != DeadLetterState::Queued);
        let is_settled = |event: &InHand| match event.stands {
            Stands::Open => false,
            Stands::Settled => true,
            Stands::Aside(first) => self.letters.contains_key(&first),
        };
        let settled = self.events.drain(..).chain(self.carried.drain(..));
        self.carried = settled.filter(is_settled).collect();
        self.batches.clear();
        self.bytes = 0;
        self.taken_through = self.position;
    }
}

//! Random lives of what a partitioned stream has in hand, against a list of what became of each event: the deciding half of a
//! stream, with handlers and a log of paper.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::error::FailureCategory;
use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::limits::Limits;
use crate::event::new_event::{NewEvent, check_batch};
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::letter::{DeadLetter, DeadLetterState};
use crate::stream::dispose::{Attempts, Disposal, Part, dispose, next_part};
use crate::stream::failure::{Failure, FailurePolicy};
use crate::stream::keyed::lanes::Lanes;
use crate::stream::keyed::partition::{Lane, Partition};

/// The types of events: keys, one that has none, and one that is not selected.
const TYPES: [&str; 6] = ["a", "b", "c", "d", "free", "-"];

/// No batch here weighs more.
const BATCH_BYTES_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Succeeds,
    FailsForNow,
    /// Parked with its key, as a whole or from the named event on.
    Parks {
        names: bool,
    },
    Skips {
        names: bool,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Take,
    Begin,
    /// One of the calls under way ends.
    End(usize, Outcome),
    Due,
    Store,
    /// Somebody works off what is parked under one of the keys.
    Free(usize),
    /// The calls under way end, and what is in hand is let go.
    LetGo,
    /// The process dies, and goes on from a cursor of so many percent of what was settled, with this lookahead.
    Crash(u64, u32),
}

/// What became of an event in this run, or is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Handled,
    /// A letter stands for it, which is yet to be stored.
    Aside,
    Stored,
}

struct World {
    workers: usize,
    /// What may be in hand weighs no more, but for one batch.
    bytes_max: usize,
    partition: Partition,
    lanes: Lanes,
    log: Vec<Arc<CommittedBatch>>,
    fates: BTreeMap<u64, (Lane, Fate)>,
    under_way: Vec<(Lane, EventBatch)>,
    /// The keys that are parked, as the log has them.
    parked: BTreeSet<String>,
    /// The same as the stream knows it.
    known: BTreeSet<String>,
    cursor: u64,
}

fn key(event: &EventRecord) -> Option<String> {
    (event.event_type() != "free").then(|| event.event_type().to_owned())
}

impl World {
    fn new(workers: usize, lookahead: u32, bytes_max: usize) -> Self {
        Self {
            workers,
            bytes_max,
            partition: Partition {
                workers: workers as u32,
                key: Arc::new(key),
                lookahead_batches: lookahead,
            },
            lanes: Lanes::new(0, lookahead),
            log: Vec::new(),
            fates: BTreeMap::new(),
            under_way: Vec::new(),
            parked: BTreeSet::new(),
            known: BTreeSet::new(),
            cursor: 0,
        }
    }

    fn head(&self) -> u64 {
        self.log.last().map_or(0, |batch| batch.last_sequence)
    }

    fn append(&mut self, types: &[usize]) {
        let events = types.iter().map(|index| NewEvent::new(TYPES[*index], 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        let batch = CommittedBatch::stamp(records, self.head() + 1, Timestamp::EPOCH);
        for event in batch.events.iter().filter(|event| event.event_type() != "-") {
            self.fates
                .insert(event.sequence, (self.partition.lane(event), Fate::Open));
        }
        self.log.push(Arc::new(batch));
    }

    /// Two batches at most, and the room of the lookahead.
    fn take(&mut self) {
        self.lanes.fill(&self.partition, self.bytes_max);
        let Some(after) = self.lanes.wants_after(self.bytes_max) else {
            return;
        };
        let query = EventQuery::types(TYPES[..5].to_vec());
        let behind = self.log.iter().filter(|batch| batch.last_sequence > after);
        let page: Vec<_> = behind.take(2).cloned().collect();
        let through = page.last().map_or(self.head(), |batch| batch.last_sequence);
        let select = |batch| EventBatch::select(batch, &query, after);
        let batches: VecDeque<_> = page.into_iter().filter_map(select).collect();
        self.lanes.take_page(batches, through);
        self.lanes.fill(&self.partition, self.bytes_max);
    }

    fn begin(&mut self) {
        if self.under_way.len() == self.workers {
            return;
        }
        while let Some((lane, events)) = self.lanes.next() {
            let (events, hand) = (events.clone(), self.lanes.hand());
            let first = events.iter().next().unwrap().sequence();
            let is_parked = |key: &str| self.known.contains(key) || hand.parks(key, first);
            let part = match next_part(&events, key, is_parked, UNIX_EPOCH) {
                Part::Whole => events,
                Part::Call(part) => part,
                Part::Queue(disposal) => {
                    self.aside(lane, &events, disposal);
                    continue;
                }
            };
            assert!(
                self.under_way.iter().all(|(other, _)| *other != lane),
                "two calls under way in {lane:?}"
            );
            let open = |(_, (of, fate)): &(&u64, &(Lane, Fate))| *of == lane && *fate == Fate::Open;
            let next = self.fates.iter().find(open).map(|(sequence, _)| *sequence);
            assert_eq!(next, Some(first), "the order of {lane:?}");
            self.lanes.begin(lane);
            self.under_way.push((lane, part));
            return;
        }
    }

    fn end(&mut self, choice: usize, outcome: Outcome) {
        if self.under_way.is_empty() {
            return;
        }
        let (lane, events) = self.under_way.swap_remove(choice % self.under_way.len());
        let (policy, names) = match outcome {
            Outcome::Succeeds => {
                self.fate(
                    events.iter().map(EventRecord::sequence),
                    Fate::Open,
                    Fate::Handled,
                );
                return self.lanes.settle(lane, events.last_sequence());
            }
            Outcome::FailsForNow => {
                let until = Instant::now() + Duration::from_secs(events.last_sequence() % 3);
                return self.lanes.wait(lane, until);
            }
            Outcome::Parks { names } => (FailurePolicy::park_key(key), names),
            Outcome::Skips { names } => (FailurePolicy::skip(), names),
        };
        let mut failure = Failure::new(FailureCategory::Error, "no");
        failure.at = events.iter().last().map(EventRecord::sequence).filter(|_| names);
        let attempts = Attempts {
            count: 1,
            first_failed_at: UNIX_EPOCH,
            now: UNIX_EPOCH,
        };
        let disposal = dispose(&events, &policy.action, &failure, attempts).unwrap();
        self.aside(lane, &events, disposal);
    }

    fn aside(&mut self, lane: Lane, events: &EventBatch, disposal: Disposal) {
        let through = disposal.through;
        let sequences = events.iter().map(EventRecord::sequence);
        for sequence in sequences.take_while(|sequence| *sequence <= through) {
            let is_aside = disposal.letters.iter().any(|letter| letter.contains(sequence));
            let fate = if is_aside { Fate::Aside } else { Fate::Handled };
            self.fate([sequence].into_iter(), Fate::Open, fate);
        }
        let policy = FailurePolicy::skip();
        self.lanes.set_aside(lane, disposal, policy.limits);
    }

    fn fate(&mut self, sequences: impl Iterator<Item = u64>, from: Fate, to: Fate) {
        for sequence in sequences {
            let fate = &mut self.fates.get_mut(&sequence).unwrap().1;
            assert_eq!(*fate, from, "{sequence} is settled once");
            *fate = to;
        }
    }

    /// Stores the letters that the position has come to, as the log would.
    fn store(&mut self) {
        self.lanes.hand_mut().advance();
        let Some(storable) = self.lanes.hand().storable() else {
            return;
        };
        let mut parked = self.parked.clone();
        for letter in &storable.letters {
            let Some(key) = letter.key.clone() else { continue };
            if letter.state == DeadLetterState::Parked {
                parked.insert(key);
            } else if !parked.contains(&key) {
                self.known.remove(&key);
                let before = self.waiting();
                self.lanes.reopen(&key);
                let after = self.waiting();
                let reopened: Vec<u64> = before.difference(&after).copied().collect();
                assert!(
                    !reopened.is_empty(),
                    "what queues behind a free key is open again"
                );
                return self.fate(reopened.into_iter(), Fate::Aside, Fate::Open);
            }
        }
        let of = |letter: &DeadLetter| letter.last_sequence <= storable.position;
        assert!(
            storable.letters.iter().all(of),
            "a letter is not above the cursor"
        );
        let stands_for = |sequence: &u64| storable.letters.iter().any(|letter| letter.contains(*sequence));
        let stored: Vec<u64> = self.fates.keys().copied().filter(stands_for).collect();
        self.fate(stored.into_iter(), Fate::Aside, Fate::Stored);
        self.cursor = storable.position;
        self.known.extend(parked.iter().cloned());
        self.parked = parked;
        self.lanes.hand_mut().stored(storable.position);
    }

    /// What the lanes have set aside and not stored, as far as the hand knows.
    fn waiting(&self) -> BTreeSet<u64> {
        let aside = self.fates.iter().filter(|(_, (_, fate))| *fate == Fate::Aside);
        aside
            .map(|(sequence, _)| *sequence)
            .filter(|sequence| self.lanes.hand().is_aside(*sequence))
            .collect()
    }

    fn let_go(&mut self) {
        for (lane, _) in std::mem::take(&mut self.under_way) {
            self.lanes.put_back(lane);
        }
        self.lanes.let_go();
        // What only queued is decided anew.
        let kept = self.waiting();
        for (sequence, (_, fate)) in &mut self.fates {
            if *fate == Fate::Aside && !self.lanes.hand().is_carried(*sequence) {
                *fate = Fate::Open;
            }
        }
        assert!(kept.is_empty(), "nothing is in hand");
    }

    fn crash(&mut self, percent: u64, lookahead: u32) {
        let settled = self.lanes.hand().position();
        self.cursor += (settled - self.cursor) * percent / 100;
        self.lanes = Lanes::new(self.cursor, lookahead);
        self.under_way.clear();
        self.known.clone_from(&self.parked);
        for (_, (_, fate)) in self.fates.range_mut(self.cursor + 1..) {
            *fate = Fate::Open;
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(types) => self.append(types),
            Step::Take => self.take(),
            Step::Begin => self.begin(),
            Step::End(choice, outcome) => self.end(*choice, *outcome),
            Step::Due => self.lanes.wake(Instant::now() + Duration::from_secs(1)),
            Step::Store => self.store(),
            Step::Free(index) => drop(self.parked.remove(TYPES[*index])),
            Step::LetGo => self.let_go(),
            Step::Crash(percent, lookahead) => self.crash(*percent, *lookahead),
        }
        let before = self.lanes.hand().position();
        self.lanes.hand_mut().advance();
        let position = self.lanes.hand().position();
        assert!(position >= before, "the position went back");
        let is_open = |(_, (_, fate)): &(&u64, &(Lane, Fate))| !matches!(fate, Fate::Handled | Fate::Stored);
        let lowest = self.fates.iter().find(is_open).map(|(sequence, _)| *sequence);
        let lowest = lowest.unwrap_or(u64::MAX);
        assert!(position < lowest, "the position {position} passed {lowest}");
        let in_hand = self.lanes.hand().batches();
        let is_light = in_hand <= 1 || self.lanes.hand().bytes() < self.bytes_max + BATCH_BYTES_MAX;
        assert!(
            in_hand <= self.lanes.lookahead_batches().max(1) && is_light,
            "{in_hand} in hand"
        );
    }

    /// From here on everything succeeds, and there is nothing that was not settled.
    fn finish(&mut self) {
        while self.lanes.hand().position() < self.head() {
            self.lanes.wake_all();
            self.step(&Step::Take);
            self.step(&Step::Begin);
            self.step(&Step::End(0, Outcome::Succeeds));
            self.step(&Step::Store);
        }
        let unsettled = self
            .fates
            .values()
            .filter(|(_, fate)| !matches!(fate, Fate::Handled | Fate::Stored));
        assert_eq!(unsettled.count(), 0);
        assert!(self.lanes.hand().is_empty());
    }
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Succeeds),
        2 => Just(Outcome::FailsForNow),
        1 => any::<bool>().prop_map(|names| Outcome::Parks { names }),
        1 => any::<bool>().prop_map(|names| Outcome::Skips { names }),
    ];
    prop_oneof![
        6 => prop::collection::vec(0..TYPES.len(), 1..6).prop_map(Step::Append),
        8 => Just(Step::Take),
        12 => Just(Step::Begin),
        12 => (any::<usize>(), outcome).prop_map(|(choice, outcome)| Step::End(choice, outcome)),
        3 => Just(Step::Due),
        6 => Just(Step::Store),
        1 => (0..4_usize).prop_map(Step::Free),
        1 => Just(Step::LetGo),
        1 => (0..=100_u64, 1..6_u32).prop_map(|(percent, lookahead)| Step::Crash(percent, lookahead)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn d2_s2_whatever_happens_every_event_is_settled_once_in_the_order_of_its_key(
        workers in 1..=16_usize,
        lookahead in 1..8_u32,
        bytes_max in prop_oneof![Just(usize::MAX / 2), Just(1), 400..4_000_usize],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(workers, lookahead, bytes_max);
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}

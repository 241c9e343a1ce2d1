//! Random lives of a stream whose handler fails now and then, against a few lists.
//!
//! A history appends batches of keyed events, poisons and heals events, retries letters while the stream runs, restarts the stream
//! and opens the log again. What the model knows is what was appended and what the handler took. At every rest it demands: the
//! cursor is at most the lowest unsettled event minus 1 (D2); every event up to the position was either taken once or is in
//! exactly one letter (D5); and of a key the events were taken in the order of the log, with nothing of a key taken behind an
//! event of it that waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use millstream::{
    Checkpoint, DeadLetter, DeadLetterState, Durability, DurableStream, EventBatch, EventRecord, EventStream,
    FailureCategory, FailurePolicy, HandleStream, HandlerError, NewEvent, Retry, StopCause, Store,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::hands::key_of;
use crate::common::in_time;
use crate::run::Medium;

/// The types of events: keys, and `free`, which has none.
const KEYS: &[&str] = &["a", "b", "c", "free"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Park,
    ParkKey,
    Skip,
    Stop,
}

#[derive(Clone, Debug)]
enum Step {
    /// Appends batches of these keys, the events among them poisoned whose number is divisible by the last.
    Append(Vec<Vec<usize>>, u64),
    /// Every poisoned event is well from now on.
    Heal,
    /// Appends while letters are retried.
    AppendAndRetry(Vec<Vec<usize>>),
    RetryAll,
    RetryKey(usize),
    /// One of the letters there are.
    Retry(usize),
    Discard(usize),
    Restart,
    Reopen,
    Rest,
}

#[derive(Clone, Debug)]
pub(crate) struct Life {
    policy: Policy,
    /// Whether the handler says which event failed.
    names: bool,
    is_strict: bool,
    /// How many keys are handled at once, from one registration to the next; 0: one batch after the other.
    workers: Vec<u32>,
    /// How many batches a call may have, where it has whole ones; 0: the handler takes one.
    group: u32,
    steps: Vec<Step>,
}

fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(0..KEYS.len(), 1..5), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (batches(), 2..9_u64).prop_map(|(batches, poison)| Step::Append(batches, poison)),
        1 => Just(Step::Heal),
        2 => batches().prop_map(Step::AppendAndRetry),
        1 => Just(Step::RetryAll),
        1 => (0..3_usize).prop_map(Step::RetryKey),
        2 => (0..8_usize).prop_map(Step::Retry),
        1 => (0..8_usize).prop_map(Step::Discard),
        1 => Just(Step::Restart),
        1 => Just(Step::Reopen),
        3 => Just(Step::Rest),
    ]
}

pub(crate) fn life() -> impl Strategy<Value = Life> {
    let policy = prop_oneof![
        1 => Just(Policy::Park),
        4 => Just(Policy::ParkKey),
        1 => Just(Policy::Skip),
        1 => Just(Policy::Stop),
    ];
    let steps = prop::collection::vec(step(), 1..25);
    let workers = prop_oneof![
        Just(vec![0]),
        prop::collection::vec(1..=16_u32, 1..4),
        prop::collection::vec(0..=3_u32, 2..4),
    ];
    let group = prop_oneof![Just(0), 1..6_u32];
    (policy, any::<bool>(), any::<bool>(), workers, group, steps).prop_map(
        |(policy, names, is_strict, workers, group, steps)| Life {
            policy,
            names,
            is_strict,
            workers,
            group,
            steps,
        },
    )
}

/// What the handler is told and says.
#[derive(Clone, Default)]
struct Strings {
    poisoned: Arc<Mutex<BTreeSet<u64>>>,
    taken: Arc<Mutex<Vec<u64>>>,
}

impl Strings {
    fn handler(&self, names: bool) -> HandleStream {
        let strings = self.clone();
        let handler = HandleStream::new(move |batch: EventBatch| {
            let outcome = strings.take(&batch, names);
            async move {
                tokio::task::yield_now().await;
                outcome
            }
        });
        handler.retry(Retry::never())
    }

    /// The same, for several batches at once. Of a group that fails nothing is taken.
    fn group_handler(&self, names: bool, batches_max: u32) -> HandleStream {
        let strings = self.clone();
        let handler = HandleStream::group(batches_max, Duration::ZERO, move |batches: Vec<EventBatch>| {
            let poisoned = strings.poisoned.lock().unwrap().clone();
            let mut events = batches.iter().flatten();
            let fails = batches.len() > 1 && events.any(|event| poisoned.contains(&event.sequence()));
            let outcome = match fails {
                true => Err(HandlerError::at(0, "poisoned")),
                false => batches.iter().try_for_each(|batch| strings.take(batch, names)),
            };
            async move {
                tokio::task::yield_now().await;
                outcome
            }
        });
        handler.retry(Retry::never())
    }

    fn poison(&self, sequences: impl Iterator<Item = u64>) {
        self.poisoned.lock().unwrap().extend(sequences);
    }

    /// With names the events before the failed one are taken; without, all or none.
    fn take(&self, batch: &EventBatch, names: bool) -> Result<(), HandlerError> {
        let poisoned = self.poisoned.lock().unwrap();
        let mut taken = self.taken.lock().unwrap();
        let sequences: Vec<u64> = batch.iter().map(EventRecord::sequence).collect();
        let failed = sequences.iter().position(|sequence| poisoned.contains(sequence));
        match failed {
            None => taken.extend(sequences),
            Some(index) if names => {
                taken.extend(&sequences[..index]);
                return Err(HandlerError::at(sequences[index], "poisoned"));
            }
            // Says something that helps nobody.
            Some(_) => return Err(HandlerError::at(0, "poisoned")),
        }
        Ok(())
    }
}

struct World {
    life: Life,
    medium: Medium,
    folder: TempDir,
    store: Store,
    stream: Option<EventStream>,
    strings: Strings,
    registrations: usize,
    /// The key of each event, from the first on.
    keys: Vec<usize>,
    discarded: BTreeSet<u64>,
}

fn open(folder: &TempDir, medium: Medium) -> Store {
    // A window of a few events, so that letters and batches come from the log too.
    let builder = Store::builder().window_bytes(2_000).page_batches(2);
    match medium {
        Medium::Memory => builder.in_memory().unwrap(),
        Medium::File => {
            let builder = builder.durability(Durability::Relaxed);
            builder.open(folder.path().join("log.db")).unwrap()
        }
    }
}

/// Lives a history through, on a log.
pub(crate) async fn live(life: Life, medium: Medium) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, medium);
    let mut world = World {
        life,
        medium,
        folder,
        store,
        stream: None,
        strings: Strings::default(),
        registrations: 0,
        keys: Vec::new(),
        discarded: BTreeSet::new(),
    };
    world.register().await;
    for step in world.life.steps.clone() {
        world.step(step).await;
    }
    // In the end everything is well, and nothing is left.
    world.strings.poisoned.lock().unwrap().clear();
    world.rest().await;
    let retried = world.store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!((retried.failed, retried.waiting), (0, 0));
    world.rest().await;
    let left = world.letters().await;
    assert!(
        left.iter().all(|letter| letter.state == DeadLetterState::Skipped),
        "{left:?}"
    );
    world.store.close().await.unwrap();
}

impl World {
    async fn register(&mut self) {
        let policy = match self.life.policy {
            Policy::Park => FailurePolicy::park(),
            Policy::ParkKey => FailurePolicy::park_key(key_of),
            Policy::Skip => FailurePolicy::skip(),
            Policy::Stop => FailurePolicy::stop(),
        };
        let workers = self.life.workers[self.registrations % self.life.workers.len()];
        self.registrations += 1;
        let checkpoint = match (self.life.is_strict, workers) {
            (true, 0) => Checkpoint::Strict,
            (true, _) => Checkpoint::Every {
                batches: 1,
                within: Duration::ZERO,
            },
            (false, _) => Checkpoint::Coalesced,
        };
        let durable = DurableStream::new("ledger")
            .checkpoint(checkpoint)
            .on_failure(policy);
        let durable = match workers {
            0 => durable,
            workers => durable.partition_by(workers, key_of).lookahead(workers),
        };
        let handler = match (workers, self.life.group) {
            (0, group) if group > 0 => self.strings.group_handler(self.life.names, group),
            _ => self.strings.handler(self.life.names),
        };
        let stream = self.store.stream_all_durable(&durable, handler).await.unwrap();
        self.stream = Some(stream);
    }

    async fn append(&mut self, batches: &[Vec<usize>], poison: u64) {
        for batch in batches {
            let first = self.keys.len() as u64 + 1;
            let numbers = first..first + batch.len() as u64;
            self.strings.poison(numbers.filter(|number| number % poison == 0));
            self.keys.extend(batch);
            let events = batch.iter().map(|key| NewEvent::new(KEYS[*key], 1));
            self.store.append(events).await.unwrap();
        }
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        self.store
            .dead_letters("ledger")
            .list()
            .try_collect()
            .await
            .unwrap()
    }

    /// One of the letters there are.
    async fn letter(&self, choice: usize) -> Option<DeadLetter> {
        let letters = self.letters().await;
        let index = choice.checked_rem(letters.len())?;
        letters.into_iter().nth(index)
    }

    async fn step(&mut self, step: Step) {
        let dead_letters = self.store.dead_letters("ledger");
        match step {
            Step::Append(batches, poison) => self.append(&batches, poison).await,
            Step::Heal => self.strings.poisoned.lock().unwrap().clear(),
            Step::AppendAndRetry(batches) => {
                let retrying = tokio::spawn(async move {
                    for key in &KEYS[..3] {
                        // The stream may have stopped.
                        let _ = dead_letters.retry_key(key).await;
                    }
                });
                self.append(&batches, u64::MAX).await;
                retrying.await.unwrap();
            }
            Step::RetryAll => drop(dead_letters.retry_all().await),
            Step::RetryKey(key) => drop(dead_letters.retry_key(KEYS[key]).await),
            Step::Retry(choice) => {
                if let Some(letter) = self.letter(choice).await {
                    // Not the first of its key, for instance.
                    let _ = dead_letters.retry(letter.first_sequence).await;
                }
            }
            Step::Discard(choice) => {
                if let Some(letter) = self.letter(choice).await
                    && dead_letters
                        .discard(letter.first_sequence, "so it is")
                        .await
                        .is_ok()
                {
                    let range = letter.first_sequence..=letter.last_sequence;
                    self.discarded
                        .extend(range.filter(|sequence| letter.contains(*sequence)));
                }
            }
            Step::Restart => self.restart().await,
            Step::Reopen => {
                self.end().await;
                if self.medium == Medium::File {
                    self.store.close().await.unwrap();
                    self.store = open(&self.folder, self.medium);
                }
                self.register().await;
            }
            Step::Rest => self.rest().await,
        }
    }

    async fn end(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        stream.unsubscribe();
        in_time("the stream stops", stream.stopped()).await;
        let cursor = stream.status().cursor.unwrap();
        self.give_back(cursor);
        self.check(cursor).await;
    }

    async fn restart(&mut self) {
        self.end().await;
        self.register().await;
    }

    /// Waits until the stream has settled everything, and heals what stops it.
    async fn rest(&mut self) {
        loop {
            let stream = self.stream.as_ref().unwrap();
            if in_time("the stream rests", stream.caught_up()).await.is_ok() {
                break;
            }
            let status = stream.status();
            self.check(status.cursor.unwrap()).await;
            let cause = in_time("the stream stops", self.stream.as_ref().unwrap().stopped()).await;
            match cause {
                StopCause::HandlerFailed { category, .. } => {
                    assert_eq!(
                        (self.life.policy, category),
                        (Policy::Stop, FailureCategory::Error)
                    );
                    self.give_back(status.position);
                }
                StopCause::MostFail { .. } => self.give_back(status.position),
                cause => panic!("{cause:?}"),
            }
            self.strings.poisoned.lock().unwrap().clear();
            self.restart().await;
        }
        let position = self.stream.as_ref().unwrap().status().position;
        assert_eq!(position, self.store.head());
        self.check(position).await;
    }

    /// What a handler took of a batch that it failed on then is delivered again: it is taken back, as the handler's own
    /// transaction would be.
    fn give_back(&self, position: u64) {
        let mut taken = self.strings.taken.lock().unwrap();
        taken.retain(|sequence| *sequence <= position);
    }

    async fn check(&self, settled: u64) {
        let letters = self.letters().await;
        let mut aside = BTreeMap::new();
        for letter in &letters {
            for sequence in letter.first_sequence..=letter.last_sequence {
                if letter.contains(sequence) {
                    let doubled = aside.insert(sequence, letter.state);
                    assert_eq!(doubled, None, "{sequence} is in two letters");
                }
            }
        }
        let taken = self.strings.taken.lock().unwrap().clone();
        for sequence in 1..=settled {
            let times = taken.iter().filter(|one| **one == sequence).count();
            let in_letter = usize::from(aside.contains_key(&sequence));
            let discarded = usize::from(self.discarded.contains(&sequence));
            assert_eq!(
                times + in_letter + discarded,
                1,
                "event {sequence} of {:?}",
                self.life
            );
        }
        // What is parked or skipped alone is overtaken.
        if matches!(self.life.policy, Policy::ParkKey | Policy::Stop) {
            for (key, name) in KEYS.iter().enumerate().take(3) {
                let is_of_key = |sequence: &u64| self.keys[*sequence as usize - 1] == key;
                let of_key: Vec<u64> = taken.iter().copied().filter(is_of_key).collect();
                assert!(of_key.is_sorted(), "{name} was taken as {of_key:?}");
                let first_waiting = aside.keys().copied().find(is_of_key);
                let last_taken = of_key.last().copied();
                assert!(
                    first_waiting.is_none() || last_taken < first_waiting,
                    "{name} was overtaken: {of_key:?}, {first_waiting:?} waits"
                );
            }
        }
    }
}

//! Random lives of a stream that handles several keys at once: keys that are slow or fail, pauses, resets, restarts with
//! another number of workers. The handler itself notices two calls of one key. At every rest each event that the run had to
//! handle was handled once in it, and those of a key in the order of the log (S2, S3, D2, D9).

use std::collections::BTreeSet;

use millstream::{
    Checkpoint, Durability, DurableStream, EventStream, ExpectedCursor, NewEvent, Reset, Store, StreamState,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::common::hands::{Hands, keyed};
use crate::common::{eventually, hasty, in_time};
use crate::config;
use crate::run::Medium;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "free"];

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Hold(usize),
    LetGo(usize),
    Fail(usize),
    Heal(usize),
    Pause,
    Resume,
    /// To this part of the log, in percent, while the stream is paused or while it runs.
    Reset(u64),
    Restart(u32),
    Rest,
}

#[derive(Clone, Debug)]
struct Life {
    workers: u32,
    lookahead: u32,
    is_stored_at_once: bool,
    steps: Vec<Step>,
}

fn life() -> impl Strategy<Value = Life> {
    let key = || 0..KEYS.len();
    let step = prop_oneof![
        10 => prop::collection::vec(key(), 1..5).prop_map(Step::Append),
        3 => key().prop_map(Step::Hold),
        3 => key().prop_map(Step::LetGo),
        2 => key().prop_map(Step::Fail),
        2 => key().prop_map(Step::Heal),
        2 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => (0..=100_u64).prop_map(Step::Reset),
        1 => (1..=16_u32).prop_map(Step::Restart),
        2 => Just(Step::Rest),
    ];
    let steps = prop::collection::vec(step, 1..40);
    (1..=16_u32, 1..8_u32, any::<bool>(), steps).prop_map(|(workers, lookahead, is_stored_at_once, steps)| {
        Life {
            workers,
            lookahead,
            is_stored_at_once,
            steps,
        }
    })
}

struct World {
    life: Life,
    medium: Medium,
    folder: TempDir,
    store: Store,
    stream: EventStream,
    hands: Hands,
    /// The key of each event, from the first on.
    keys: Vec<usize>,
    /// Where the run of now began, and how many began since the hands were emptied.
    run_after: u64,
    runs: usize,
}

fn open(folder: &TempDir, medium: Medium) -> Store {
    let builder = Store::builder().window_bytes(2_000).page_batches(2);
    match medium {
        Medium::Memory => builder.in_memory().unwrap(),
        Medium::File => {
            let builder = builder.durability(Durability::Relaxed);
            builder.open(folder.path().join("log.db")).unwrap()
        }
    }
}

fn named(life: &Life) -> DurableStream {
    let checkpoint = match life.is_stored_at_once {
        true => Checkpoint::Every {
            batches: 1,
            within: std::time::Duration::ZERO,
        },
        false => Checkpoint::Coalesced,
    };
    keyed("keyed", life.workers)
        .lookahead(life.lookahead)
        .checkpoint(checkpoint)
}

async fn register(store: &Store, life: &Life, hands: &Hands) -> EventStream {
    let handler = hands.handler().retry(hasty().attempts_max(u32::MAX));
    store.stream_all_durable(&named(life), handler).await.unwrap()
}

impl World {
    async fn new(life: Life, medium: Medium) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, medium);
        let hands = Hands::default();
        Self {
            stream: register(&store, &life, &hands).await,
            life,
            medium,
            folder,
            store,
            hands,
            keys: Vec::new(),
            run_after: 0,
            runs: 1,
        }
    }

    async fn step(&mut self, step: Step) {
        let control = self.store.stream("keyed").await.unwrap();
        match step {
            Step::Append(keys) => {
                let events = keys.iter().map(|key| NewEvent::new(KEYS[*key], 1));
                self.store.append(events).await.unwrap();
                self.keys.extend(keys);
            }
            Step::Hold(key) => self.hands.hold(KEYS[key]),
            Step::LetGo(key) => self.hands.let_go(KEYS[key]),
            Step::Fail(key) => self.hands.fail(KEYS[key]),
            Step::Heal(key) => self.hands.heal(KEYS[key]),
            Step::Pause => control.pause("the model").await.unwrap(),
            Step::Resume => control.resume().await.unwrap(),
            Step::Reset(percent) => {
                let target = self.keys.len() as u64 * percent / 100;
                control
                    .reset(Reset::To(target), ExpectedCursor::anywhere())
                    .await
                    .unwrap();
                self.run_after = target;
                self.runs += 1;
            }
            Step::Restart(workers) => self.restart(workers).await,
            Step::Rest => self.rest().await,
        }
    }

    fn free(&self) {
        for key in KEYS {
            self.hands.let_go(key);
            self.hands.heal(key);
        }
    }

    async fn restart(&mut self, workers: u32) {
        self.free();
        self.stream.unsubscribe();
        in_time("the stream stops", self.stream.stopped()).await;
        assert!(
            self.hands.work().under_way.is_empty(),
            "no call runs after stopped"
        );
        if self.medium == Medium::File {
            self.store.close().await.unwrap();
            self.store = open(&self.folder, self.medium);
        }
        self.life.workers = workers;
        self.stream = register(&self.store, &self.life, &self.hands).await;
        let cursor = self.stream.started_after();
        assert!(cursor >= self.run_after, "the cursor went back");
        // D2: everything before it was handled.
        let taken: BTreeSet<u64> = self.hands.taken().into_iter().collect();
        let missing = (self.run_after + 1..=cursor).find(|sequence| !taken.contains(sequence));
        assert_eq!(missing, None, "the cursor {cursor} passed it");
        self.run_after = cursor;
        self.runs += 1;
    }

    /// Waits until everything is handled, and compares.
    async fn rest(&mut self) {
        self.free();
        self.store.stream("keyed").await.unwrap().resume().await.unwrap();
        // The call before a reset may be under way still.
        eventually("the stream is live at the head", || {
            let status = self.stream.status();
            status.lag == 0 && matches!(status.state, StreamState::Live)
        })
        .await;
        in_time("the stream is caught up", self.stream.caught_up())
            .await
            .unwrap();
        let head = self.keys.len() as u64;
        let status = self.stream.status();
        assert_eq!((status.position, status.calls_under_way), (head, 0));
        let taken = self.hands.taken();
        for (key, name) in KEYS.iter().enumerate() {
            let is_of_key = |sequence: &u64| self.keys[*sequence as usize - 1] == key;
            let of_key: Vec<u64> = taken.iter().copied().filter(is_of_key).collect();
            let runs: Vec<&[u64]> = of_key.chunk_by(|one, next| one < next).collect();
            assert!(
                runs.len() <= self.runs,
                "{name} was taken as {of_key:?} in {} runs",
                self.runs
            );
            let expected: Vec<u64> = (self.run_after + 1..=head).filter(is_of_key).collect();
            assert!(
                of_key.ends_with(&expected),
                "{name}: {expected:?} ends {of_key:?}"
            );
        }
        self.hands.forget();
        (self.run_after, self.runs) = (head, 1);
    }
}

fn check(medium: Medium) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let outcome = TestRunner::new(config(120)).run(&life(), |life| {
        runtime.block_on(async {
            let mut world = World::new(life.clone(), medium).await;
            for step in life.steps {
                world.step(step).await;
            }
            world.rest().await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn every_stream_in_a_file_handles_its_keys_in_order_and_each_event_once() {
    check(Medium::File);
}

#[test]
fn every_stream_in_memory_handles_its_keys_in_order_and_each_event_once() {
    check(Medium::Memory);
}

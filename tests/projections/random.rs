//! Random lives of a read model: batches, failures, dead letters, restarts, rebuilds, new versions. At every rest its rows are a
//! fold over the log without the dead letters that wait (R1, R2, D5).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use millstream::{DeadLetter, EventQuery, FailurePolicy, ModelOptions, ReadModel, ReadModels, Retry, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::in_time;
use crate::fixture::{Counts, Place, Sabotage, append_types, rows};

const TYPES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Copy, Debug)]
enum Kept {
    Continuously,
    OnDemand,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    /// A batch that fails until the model is healed, and becomes a dead letter.
    AppendBad(Vec<usize>),
    /// The events that failed can be applied now.
    Heal,
    Retry,
    Rebuild,
    CancelRebuild,
    /// The program ends in order, and begins again.
    Restart(Kept),
    /// The program begins again with a newer version, with or without the log's last batches applied by the old one.
    Upgrade,
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let types = || prop::collection::vec(0..TYPES.len(), 1..5);
    let kept = prop_oneof![2 => Just(Kept::Continuously), 1 => Just(Kept::OnDemand)];
    prop_oneof![
        10 => types().prop_map(Step::Append),
        2 => types().prop_map(Step::AppendBad),
        1 => Just(Step::Heal),
        2 => Just(Step::Retry),
        2 => Just(Step::Rebuild),
        1 => Just(Step::CancelRebuild),
        2 => kept.prop_map(Step::Restart),
        1 => Just(Step::Upgrade),
        2 => Just(Step::Rest),
    ]
}

struct World {
    place: Place,
    store: Store,
    models: ReadModels,
    model: ReadModel,
    kept: Kept,
    version: u32,
    sabotage: Arc<Sabotage>,
}

/// Odd versions select all, even ones some.
fn query(version: u32) -> EventQuery {
    match version % 2 {
        1 => EventQuery::all(),
        _ => EventQuery::types(["a", "b"]),
    }
}

impl World {
    async fn new() -> Self {
        let place = Place::new();
        let (store, models) = (place.store(), place.models());
        let sabotage = Arc::<Sabotage>::default();
        let model = register(&store, &models, 1, &sabotage, Kept::Continuously).await;
        Self {
            place,
            store,
            models,
            model,
            kept: Kept::Continuously,
            version: 1,
            sabotage,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(types) => drop(self.append(&types).await),
            Step::AppendBad(types) => {
                // On demand a batch that fails is nobody's dead letter.
                if let Kept::Continuously = self.kept {
                    let last = self.store.head() + types.len() as u64;
                    self.sabotage.bad.lock().unwrap().insert(last);
                    self.append(&types).await;
                    self.rest().await;
                }
            }
            Step::Heal => {
                self.rest().await;
                self.sabotage.bad.lock().unwrap().clear();
            }
            Step::Retry => {
                if let Kept::Continuously = self.kept {
                    let letters = self.store.dead_letters(&self.stream());
                    let _ = letters.retry_all().await.unwrap();
                }
            }
            Step::Rebuild => {
                self.rest().await;
                let rebuild = self.model.rebuild().await.unwrap();
                in_time("it is rebuilt", rebuild.finished()).await.unwrap();
            }
            Step::CancelRebuild => {
                self.rest().await;
                let rebuild = self.model.rebuild().await.unwrap();
                tokio::task::yield_now().await;
                rebuild.cancel();
                // What a rebuild has under way comes to its end before the next one begins.
                self.restart(self.kept).await;
            }
            Step::Restart(kept) => {
                // What waits as a dead letter is known to the stream alone.
                self.rest().await;
                self.restart(kept).await;
            }
            Step::Upgrade => {
                self.rest().await;
                // The dead letters of a version go with it.
                self.sabotage.bad.lock().unwrap().clear();
                self.version += 1;
                self.restart(self.kept).await;
            }
            Step::Rest => self.rest().await,
        }
    }

    fn stream(&self) -> String {
        format!("counts@{}", self.version)
    }

    async fn append(&self, types: &[usize]) -> u64 {
        let types: Vec<&str> = types.iter().map(|index| TYPES[*index]).collect();
        append_types(&self.store, &types).await
    }

    async fn restart(&mut self, kept: Kept) {
        self.store.close().await.unwrap();
        self.store = self.place.store();
        self.models = self.place.models();
        self.kept = kept;
        self.model = register(&self.store, &self.models, self.version, &self.sabotage, kept).await;
    }

    async fn rest(&self) {
        in_time("it is at the head", self.model.caught_up())
            .await
            .unwrap();
        let letters = self.store.dead_letters(&self.stream()).list();
        let letters: Vec<DeadLetter> = letters.try_collect().await.unwrap();
        let is_parked = |sequence: u64| letters.iter().any(|letter| letter.contains(sequence));
        let mut folded = BTreeMap::new();
        let mut reader = self.store.read(&query(self.version));
        while let Some(batch) = reader.try_next().await.unwrap() {
            for event in batch.iter().filter(|event| !is_parked(event.sequence())) {
                *folded.entry(event.event_type().to_owned()).or_insert(0) += 1;
            }
        }
        assert_eq!(rows(&self.model).await, folded, "{letters:?}");
    }
}

async fn register(
    store: &Store,
    models: &ReadModels,
    version: u32,
    sabotage: &Arc<Sabotage>,
    kept: Kept,
) -> ReadModel {
    let projection = Counts {
        query: query(version),
        sabotage: Arc::clone(sabotage),
        ..Counts::new(version)
    };
    let options = ModelOptions::default()
        .retry(Retry::never())
        .transaction_events_max(7)
        .on_failure(FailurePolicy::park());
    let model = match kept {
        Kept::Continuously => models.project_with(store, projection, &options).await,
        Kept::OnDemand => models.on_demand_with(store, projection, &options).await,
    };
    model.unwrap()
}

#[test]
fn r1_r2_whatever_happens_the_rows_are_a_fold_over_the_log() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(40, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..30);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.rest().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

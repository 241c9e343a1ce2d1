//! Random histories of a model on a server against a naive fold.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use millstream::{DeadLetter, EventQuery, FailurePolicy, Retry, ServerModel, ServerModelOptions, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, models, rows};

const TYPES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    /// A batch that fails until the model is healed, and becomes a dead letter.
    AppendBad(Vec<usize>),
    Heal,
    Retry,
    /// The program ends in order, and begins again.
    Restart,
    /// Another program keeps it from now on.
    TakeOver,
    /// The connections of all stores are lost.
    Kill,
    /// The model is removed and built anew.
    Remove,
    /// It is rebuilt beside the one that serves, while it goes on.
    Rebuild,
    /// A rebuild is begun and given up.
    Cancel,
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let types = || prop::collection::vec(0..TYPES.len(), 1..5);
    prop_oneof![
        8 => types().prop_map(Step::Append),
        2 => types().prop_map(Step::AppendBad),
        1 => Just(Step::Heal),
        2 => Just(Step::Retry),
        1 => Just(Step::Restart),
        1 => Just(Step::TakeOver),
        2 => Just(Step::Kill),
        1 => Just(Step::Remove),
        2 => Just(Step::Rebuild),
        1 => Just(Step::Cancel),
        2 => Just(Step::Rest),
    ]
}

struct World<'a> {
    place: &'a Place,
    query: EventQuery,
    store: Store,
    model: ServerModel,
    sabotage: Arc<Sabotage>,
}

impl World<'_> {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(types) => drop(self.append(&types).await),
            Step::AppendBad(types) => {
                self.rest().await;
                self.sabotage.is_bad(self.store.head() + types.len() as u64);
                self.append(&types).await;
                self.rest().await;
            }
            Step::Heal => {
                self.rest().await;
                self.sabotage.heal();
            }
            Step::Retry => {
                let letters = self.store.dead_letters("counts@1");
                let _ = letters.retry_all().await.unwrap();
            }
            Step::Restart => {
                self.store.close().await.unwrap();
                self.store = self.place.store().await;
                self.model = self.register().await;
            }
            Step::TakeOver => {
                let other = self.place.store().await;
                self.model.unsubscribe();
                self.model.stopped().await;
                self.store.close().await.unwrap();
                self.store = other;
                self.model = self.register().await;
            }
            Step::Kill => {
                let sql = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks
                     WHERE relation = to_regclass('{}.millstream_model') AND pid <> pg_backend_pid()",
                    self.place.database.schema
                );
                self.place.database.execute(&sql).unwrap();
            }
            Step::Remove => {
                // What is parked goes with the stream.
                self.rest().await;
                self.sabotage.heal();
                models(&self.store).remove("counts", 1).await.unwrap();
                self.model.stopped().await;
                self.model = self.register().await;
            }
            Step::Rebuild => {
                let rebuild = self.model.rebuild().await.unwrap();
                self.append(&[0, 1]).await;
                in_time("it is rebuilt", rebuild.finished()).await.unwrap();
            }
            Step::Cancel => {
                self.model.rebuild().await.unwrap().cancel();
                let is_over = || !self.model.status().is_rebuilding;
                eventually("the rebuild has ended", is_over).await;
            }
            Step::Rest => self.rest().await,
        }
    }

    async fn append(&self, types: &[usize]) -> u64 {
        let types: Vec<&str> = types.iter().map(|index| TYPES[*index]).collect();
        append_types(&self.store, &types).await
    }

    async fn register(&self) -> ServerModel {
        register(&self.store, &self.query, &self.sabotage).await
    }

    async fn rest(&self) {
        in_time("it is at the head", self.model.caught_up())
            .await
            .unwrap();
        let letters = self.store.dead_letters("counts@1").list();
        let letters: Vec<DeadLetter> = letters.try_collect().await.unwrap();
        let is_parked = |sequence: u64| letters.iter().any(|letter| letter.contains(sequence));
        let mut folded = BTreeMap::new();
        let mut reader = self.store.read(&self.query);
        while let Some(batch) = reader.try_next().await.unwrap() {
            for event in batch.iter().filter(|event| !is_parked(event.sequence())) {
                *folded.entry(event.event_type().to_owned()).or_insert(0) += 1;
            }
        }
        assert_eq!(rows(&self.model).await, folded, "{letters:?}");
    }
}

async fn register(store: &Store, query: &EventQuery, sabotage: &Arc<Sabotage>) -> ServerModel {
    let projection = Counts {
        query: query.clone(),
        ..Counts::with(sabotage)
    };
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .transaction_events_max(7)
        .on_failure(FailurePolicy::park());
    models(store).project_with(projection, &options).await.unwrap()
}

#[test]
fn r1_whatever_happens_the_rows_are_a_fold_over_the_log() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(12, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        ..Config::default()
    };
    let cases = (any::<bool>(), prop::collection::vec(step(), 1..25));
    let outcome = TestRunner::new(config).run(&cases, |(selects_all, steps)| {
        let Some(place) = Place::new() else { return Ok(()) };
        runtime.block_on(async {
            let store = place.store().await;
            let query = match selects_all {
                true => EventQuery::all(),
                false => EventQuery::types(["a", "b"]),
            };
            let sabotage = Arc::<Sabotage>::default();
            let model = register(&store, &query, &sabotage).await;
            let mut world = World {
                place: &place,
                query,
                store,
                model,
                sabotage,
            };
            for step in steps {
                world.step(step).await;
            }
            world.rest().await;
            world.store.close().await.unwrap();
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

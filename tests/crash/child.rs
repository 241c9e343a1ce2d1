//! The process that is killed: appends from several tasks, handles in four durable streams, and writes down what it was
//! told and what it did, one write per line, so that a kill leaves whole lines and at most one torn one.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults, with_small_index};
use millstream::{
    Checkpoint, Durability, DurableStream, EventBatch, EventFilter, EventQuery, EventStream, HandleStream,
    NewEvent, Retry, Store, StoreBuilder,
};
use serde_json::json;

use crate::common::postgres::with_parameter;
use crate::process::{LIFETIME, Task, stop_at};
use crate::source::Place;
use crate::{Dice, Orders, POINTS, digest, keyed};

const APPENDERS: u64 = 4;
const BATCH_EVENTS_MAX: u64 = 8;

pub(crate) async fn work(orders: Orders) {
    Worker::new(&orders).await.work(&orders).await;
}

/// Opens the log that a killed process left.
pub(crate) async fn open(builder: StoreBuilder, place: &Place) -> Store {
    let store = match place {
        Place::File(path) => builder.open(path),
        Place::Server {
            address,
            schema,
            sessions,
        } => {
            let address = with_parameter(address, "application_name", sessions);
            builder.schema(schema).connect(address).await
        }
    };
    store.expect("the log opens after a crash")
}

struct Worker {
    store: Store,
    dice: Dice,
    acknowledged: File,
    run: u32,
}

impl Worker {
    async fn new(orders: &Orders) -> Self {
        let dice = Dice::new(orders.seed);
        let durability = [Durability::Full, Durability::Relaxed][dice.below(2) as usize];
        // A small window sends streams to the log in the middle of things.
        let builder = Store::builder()
            .durability(durability)
            .window_bytes(1 << (12 + dice.below(12)));
        let mut builder = with_faults(builder, stop_at(orders.task.fatal(&POINTS)));
        // Mostly the index is so small that it is spilled and merged all the time. A larger one would not get to a late pass
        // of its upkeep.
        if dice.below(4) > 0 || stops_in_upkeep(orders.task) {
            builder = with_small_index(builder);
        }
        Self {
            store: open(builder, &orders.place).await,
            dice,
            acknowledged: journal(orders, "acknowledged"),
            run: orders.run,
        }
    }

    async fn work(self, orders: &Orders) {
        let worker = Arc::new(self);
        // What the checker has seen may go.
        let seen = worker.store.head();
        if !orders.is_quiet && worker.dice.below(2) == 0 {
            // Cursors are as far behind as the kill left them.
            worker.prune(seen).await;
        }
        // A history in front of the streams makes them catch up.
        let history = if orders.is_quiet {
            400
        } else {
            [0, 0, 0, 100][worker.dice.below(4) as usize]
        };
        Arc::clone(&worker).append_from_all(history).await;
        let mut streams = vec![worker.start_stream(orders, 0).await];
        if orders.is_quiet {
            worker.settled().await;
        }
        streams.push(worker.start_stream(orders, 1).await);
        streams.push(worker.start_stream(orders, 2).await);
        streams.push(worker.start_keyed(orders).await);
        if worker.dice.below(4) == 0 {
            worker.settled().await;
        }
        if let Task::Finish = orders.task {
            Arc::clone(&worker).append_from_all(20).await;
            worker.settled().await;
            worker.store.close().await.expect("nothing hinders closing");
            drop(streams);
            return;
        }
        let end = Instant::now() + LIFETIME;
        while Instant::now() < end {
            let batches = 1 + worker.dice.below(60);
            Arc::clone(&worker).append_from_all(batches).await;
            if worker.dice.below(4) == 0 {
                worker.settled().await;
            }
            if worker.dice.below(4) == 0 {
                worker.prune(seen).await;
            }
        }
        panic!("nobody came to kill this process");
    }

    /// Each appender appends so many batches.
    async fn append_from_all(self: Arc<Self>, batches: u64) {
        let mut appenders = tokio::task::JoinSet::new();
        for appender in 0..APPENDERS {
            let worker = Arc::clone(&self);
            appenders.spawn(async move {
                for _ in 0..batches {
                    worker.append_batch(appender).await;
                }
            });
        }
        while let Some(outcome) = appenders.join_next().await {
            outcome.expect("an appender works until the kill");
        }
    }

    /// Appends a batch, and writes it down when that is acknowledged.
    async fn append_batch(&self, appender: u64) {
        let size = 1 + self.dice.below(BATCH_EVENTS_MAX);
        let id = format!("{}-{appender}-{}", self.run, self.dice.roll());
        let (events, digests): (Vec<_>, Vec<_>) =
            (0..size).map(|index| self.make_event(&id, index, size)).unzip();
        let appended = self
            .store
            .append(events)
            .await
            .expect("an append works until the kill");
        let digests = digests.join(",");
        let line = format!(
            "{} {} {digests}\n",
            appended.first_sequence, appended.last_sequence
        );
        (&self.acknowledged)
            .write_all(line.as_bytes())
            .expect("the journal takes lines");
    }

    /// An event that says in its payload which place in which batch it belongs to.
    fn make_event(&self, id: &str, index: u64, size: u64) -> (NewEvent, String) {
        let dice = &self.dice;
        let event_type = ["order-placed", "order-paid", "order-sent", "note"][dice.below(4) as usize];
        let mut tags = vec![
            format!("customer:{}", dice.below(4)),
            format!("region:{}", dice.below(3)),
        ];
        tags.truncate(dice.below(8) as usize);
        let note = "~".repeat(dice.below(if dice.below(50) == 0 { 20_000 } else { 200 }) as usize);
        let vip = dice.below(2) == 0;
        let payload = json!({ "id": id, "index": index, "size": size, "vip": vip, "note": note }).to_string();
        let digest = digest(event_type, tags.iter().map(String::as_str), &payload);
        (NewEvent::raw(event_type, payload).tags(tags), digest.to_string())
    }

    /// One of the three streams. Which events they select is said a second time, in SQL, by the checker.
    async fn start_stream(&self, orders: &Orders, number: usize) -> EventStream {
        let some = EventQuery::any([
            EventFilter::types(["order-placed", "order-paid"]).tags(["region:1"]),
            EventFilter::types(["order-sent"]),
        ]);
        let few = EventFilter::all()
            .tags(["customer:3"])
            .payload(json!({ "vip": true }));
        // Only the number of batches makes this one store its cursor.
        let every = Checkpoint::Every {
            batches: 8,
            within: Duration::from_secs(3600),
        };
        let (name, checkpoint, query) = match number {
            0 => ("coalesced", Checkpoint::Coalesced, EventQuery::all()),
            1 => ("every", every, some),
            _ => ("strict", Checkpoint::Strict, few.into()),
        };
        let durable = DurableStream::new(name).checkpoint(checkpoint);
        let handle = handler(journal(orders, name), self.dice.roll(), effect);
        let stream = self.store.stream_to_durable(&durable, &query, handle).await;
        stream.expect("a durable stream goes on after a crash")
    }

    /// The stream that handles several keys at once, each time with another number of workers.
    async fn start_keyed(&self, orders: &Orders) -> EventStream {
        let workers = 1 + self.dice.below(16) as u32;
        let durable = DurableStream::new(keyed::NAME)
            .checkpoint(Checkpoint::Every {
                batches: keyed::CHECKPOINT,
                within: Duration::from_secs(3600),
            })
            .partition_by(workers, |event| {
                event
                    .tags()
                    .find(|tag| tag.starts_with("customer:"))
                    .map(str::to_owned)
            })
            .lookahead(keyed::LOOKAHEAD);
        let handle = handler(journal(orders, keyed::NAME), self.dice.roll(), sequences);
        let stream = self.store.stream_all_durable(&durable, handle).await;
        stream.expect("a partitioned stream goes on after a crash")
    }

    /// Prunes some of the events up to a sequence.
    async fn prune(&self, through: u64) {
        // Often all of them, which some stream may still need.
        let before = match self.dice.below(2) {
            0 => through + 1,
            _ => 1 + self.dice.below(through + 1),
        };
        let pruned = self.store.prune(before).await;
        let pruned = pruned.expect("a prune works until the kill");
        assert!(pruned.pruned_through <= through);
    }

    async fn settled(&self) {
        self.store.settled().await.expect("no stream stops");
    }
}

/// A handler that fails now and then, and otherwise writes down what it was given.
fn handler(effects: File, seed: u64, effect: fn(&EventBatch) -> String) -> HandleStream {
    let (effects, dice) = (Arc::new(effects), Dice::new(seed));
    let handle = HandleStream::new(move |batch: EventBatch| {
        let (effects, mood) = (Arc::clone(&effects), dice.below(64));
        async move {
            if mood == 0 {
                return Err(io::Error::other("the handler is in a bad mood"));
            }
            if mood < 8 {
                tokio::task::yield_now().await;
            }
            (&*effects).write_all(effect(&batch).as_bytes())?;
            if mood > 56 {
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    handle.retry(Retry::default().delay_min(Duration::from_millis(1)))
}

/// The line for a handled batch: its last sequence, and the sequence and content of what was selected of it.
fn effect(batch: &EventBatch) -> String {
    let selected = batch.iter().map(|event| {
        let content = digest(event.event_type(), event.tags(), event.payload().as_str());
        format!("{}:{content}", event.sequence())
    });
    format!(
        "{} {}\n",
        batch.last_sequence(),
        selected.collect::<Vec<_>>().join(",")
    )
}

/// The line for a handled part of a batch: its sequences.
fn sequences(batch: &EventBatch) -> String {
    let sequences = batch.iter().map(|event| event.sequence().to_string());
    sequences.collect::<Vec<_>>().join(",") + "\n"
}

/// A file of this run to which each line is appended with one write, unbuffered.
fn journal(orders: &Orders, name: &str) -> File {
    let path = orders.dir.join(format!("{name}-{}", orders.run));
    File::options()
        .append(true)
        .create_new(true)
        .open(path)
        .expect("a new journal")
}

fn stops_in_upkeep(task: Task) -> bool {
    let upkeep = [FaultPoint::BeforeUpkeep, FaultPoint::AfterUpkeep];
    task.fatal(&POINTS)
        .is_some_and(|(point, _)| upkeep.contains(&point))
}

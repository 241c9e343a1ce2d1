//! How the cost of a batch follows the number of streams, and what a stream costs that has nothing to do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::future::try_join_all;
use millstream::{
    DurableStream, EventBatch, EventFilter, EventQuery, EventStream, HandleStream, NewEvent, Store,
};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, broadcast};

use crate::order::{self, Order};
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, memory};

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let by_tag = FanOut {
        name: "fan_out_selective",
        query: |order| EventQuery::tags([tag(order)]),
        target: Target::AtLeast(0.90),
    };
    let by_payload = FanOut {
        name: "fan_out_payload",
        query: |order| {
            EventFilter::types([order::TYPE])
                .payload(json!({ "order": order }))
                .into()
        },
        target: Target::AtLeast(0.85),
    };
    for fan_out in [by_tag, by_payload] {
        if report.wants(fan_out.name) {
            fan_out.measure(runtime, folder, scale, report)?;
        }
    }
    if report.wants("fan_out_idle_durable") {
        idle_durable(runtime, folder, scale, report)?;
    }
    if report.wants("broadcast_1000") {
        broadcast_1000(runtime, scale, report)?;
    }
    if report.wants("memory_per_stream") {
        memory_per_stream(folder, scale, report)?;
    }
    Ok(())
}

/// Appends of which each is selected by exactly one stream: of many, and of one that is alone.
struct FanOut {
    name: &'static str,
    query: fn(usize) -> EventQuery,
    target: Target,
}

impl FanOut {
    fn measure(
        &self,
        runtime: &Runtime,
        folder: &Path,
        scale: Scale,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let streams = scale.history as usize / 10;
        let many = Side::open(runtime, folder, self, streams)?;
        let one = Side::open(runtime, folder, self, 1)?;
        let mut rounds = Vec::new();
        for round in 0..scale.rounds {
            let rates = [&many, &one].map(|side| side.round(runtime, round, scale.commits));
            let [many, one] = rates;
            rounds.push((many?, one?));
        }
        report.add(self.name, "events/s", &rounds, self.target);
        many.close(runtime)?;
        one.close(runtime)
    }
}

/// A store with so many streams, each on an order of its own.
struct Side {
    store: Store,
    streams: Vec<EventStream>,
    handled: Arc<AtomicUsize>,
}

impl Side {
    fn open(runtime: &Runtime, folder: &Path, fan_out: &FanOut, streams: usize) -> Result<Self, Failure> {
        let store = Store::open(folder.join(format!("{}-{streams}.db", fan_out.name)))?;
        let handled = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let streams = runtime.block_on(register(&store, streams, fan_out.query, &handled))?;
        if streams.len() > 1 {
            println!(
                "  {} streams registered in {:.2?}",
                streams.len(),
                started.elapsed()
            );
        }
        Ok(Self {
            store,
            streams,
            handled,
        })
    }

    fn round(&self, runtime: &Runtime, round: usize, commits: usize) -> Result<f64, Failure> {
        let handled = self.handled.load(Ordering::Relaxed);
        let store = self.store.clone();
        let streams = self.streams.len();
        let task = runtime.spawn(async move {
            let started = Instant::now();
            for number in 0..commits {
                // Far apart, so that no stream is still warm from the one before it.
                let order = (round * commits + number) * 7_919 % streams;
                store.append([Order::event(order as u64).tag(tag(order))]).await?;
            }
            Ok::<_, Failure>(per_second(commits, started.elapsed()))
        });
        let rate = runtime.block_on(task)??;
        runtime.block_on(self.store.settled())?;
        let selected = self.handled.load(Ordering::Relaxed) - handled;
        if selected != commits {
            return Err(format!("{selected} of {commits} events were handled").into());
        }
        Ok(rate)
    }

    fn close(self, runtime: &Runtime) -> Result<(), Failure> {
        runtime.block_on(async {
            drop(self.streams);
            self.store.close().await
        })?;
        Ok(())
    }
}

fn tag(order: usize) -> String {
    format!("order:{order}")
}

async fn register(
    store: &Store,
    streams: usize,
    query: fn(usize) -> EventQuery,
    handled: &Arc<AtomicUsize>,
) -> Result<Vec<EventStream>, Failure> {
    let mut registered = Vec::with_capacity(streams);
    for order in 0..streams {
        let handled = Arc::clone(handled);
        let handle = HandleStream::new(move |batch: EventBatch| {
            handled.fetch_add(batch.len(), Ordering::Relaxed);
            async { Ok::<(), Failure>(()) }
        });
        registered.push(store.stream_to(&query(order), handle).await?);
    }
    Ok(registered)
}

/// Appends beside durable streams that select nothing of it, and beside none.
fn idle_durable(runtime: &Runtime, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let idle = Store::open(folder.join("idle.db"))?;
    let alone = Store::open(folder.join("alone.db"))?;
    let names = 0..scale.history / 100;
    let streams = runtime.block_on(try_join_all(names.map(|number| {
        let idle = idle.clone();
        async move {
            let name = DurableStream::new(format!("idle-{number}"));
            let query = EventQuery::tags([format!("customer:{number}")]);
            let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
            idle.stream_to_durable(&name, &query, handle).await
        }
    })))?;
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        let mut rates = [0.0; 2];
        for (rate, store) in rates.iter_mut().zip([&idle, &alone]) {
            let store = store.clone();
            // So many events that cursors are swept along in every round.
            let appends = scale.commits * 5;
            let task = runtime.spawn(async move {
                let started = Instant::now();
                for number in 0..appends {
                    store.append([Order::event(number as u64)]).await?;
                }
                Ok::<_, Failure>(per_second(appends, started.elapsed()))
            });
            *rate = runtime.block_on(task)??;
        }
        rounds.push((rates[0], rates[1]));
    }
    report.add("fan_out_idle_durable", "events/s", &rounds, Target::AtLeast(0.95));
    drop(streams);
    runtime.block_on(idle.close())?;
    runtime.block_on(alone.close())?;
    Ok(())
}

const RECEIVERS: usize = 1_000;
const BATCH: usize = 10;

/// Counts events, and lets the sender know when all have arrived.
#[derive(Default)]
struct Tally {
    seen: AtomicUsize,
    complete: Notify,
}

impl Tally {
    /// What a handler does, on both sides.
    fn add(&self, events: usize) {
        let before = self.seen.fetch_add(events, Ordering::Relaxed);
        if before + events == RECEIVERS * BATCH {
            self.complete.notify_one();
        }
    }

    async fn completed(&self) {
        self.complete.notified().await;
        self.seen.store(0, Ordering::Relaxed);
    }
}

/// One batch at a time to many streams that all select it, and to as many receivers of tokio's broadcast channel.
fn broadcast_1000(runtime: &Runtime, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let batches = scale.commits / 4;
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        let ours = runtime.block_on(runtime.spawn(to_streams(batches)))??;
        let limit = runtime.block_on(runtime.spawn(to_receivers(batches)))??;
        rounds.push((ours, limit));
    }
    report.add("broadcast_1000", "deliveries/s", &rounds, Target::AtLeast(0.50));
    Ok(())
}

async fn to_streams(batches: usize) -> Result<f64, Failure> {
    let store = Store::in_memory()?;
    let tally = Arc::new(Tally::default());
    let query = EventQuery::types([order::TYPE]);
    let mut streams = Vec::new();
    for _ in 0..RECEIVERS {
        let tally = Arc::clone(&tally);
        let handle = HandleStream::new(move |batch: EventBatch| {
            tally.add(batch.len());
            async { Ok::<(), Failure>(()) }
        });
        streams.push(store.stream_to(&query, handle).await?);
    }
    let started = Instant::now();
    for number in 0..batches {
        let first = (number * BATCH) as u64;
        store
            .append((first..first + BATCH as u64).map(Order::event))
            .await?;
        tally.completed().await;
    }
    let rate = per_second(batches * RECEIVERS, started.elapsed());
    drop(streams);
    store.close().await?;
    Ok(rate)
}

/// What is sent through the channel: an event's type and its payload as text.
struct Sent {
    event_type: String,
    _payload: String,
}

async fn to_receivers(batches: usize) -> Result<f64, Failure> {
    let (sender, _) = broadcast::channel::<Arc<[Sent]>>(16);
    let tally = Arc::new(Tally::default());
    let tasks: Vec<_> = (0..RECEIVERS)
        .map(|_| {
            let (mut receiver, tally) = (sender.subscribe(), Arc::clone(&tally));
            tokio::spawn(async move {
                while let Ok(batch) = receiver.recv().await {
                    let selected = batch.iter().filter(|sent| sent.event_type == order::TYPE);
                    tally.add(selected.count());
                }
            })
        })
        .collect();
    let started = Instant::now();
    for number in 0..batches {
        let first = number * BATCH;
        let sent = (first..first + BATCH).map(|number| {
            Ok(Sent {
                event_type: order::TYPE.to_owned(),
                _payload: serde_json::to_string(&Order::new(number as u64))?,
            })
        });
        let batch: Vec<Sent> = sent.collect::<Result<_, Failure>>()?;
        sender.send(batch.into()).map_err(|_| "nobody receives")?;
        tally.completed().await;
    }
    let rate = per_second(batches * RECEIVERS, started.elapsed());
    drop(sender);
    try_join_all(tasks).await?;
    Ok(rate)
}

/// Resident memory of live streams at rest, in a process of its own.
fn memory_per_stream(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let streams = scale.history / 10;
    let resident = memory::run("streams", &folder.join("streams.db"), &streams.to_string())?;
    let kibibytes = (resident.peak - resident.idle) * 1024.0 / streams as f64;
    report.add(
        "memory_per_stream",
        "KiB",
        &[(kibibytes, 2.0)],
        Target::AtMost(1.0),
    );
    Ok(())
}

/// What the child process does for it.
pub(crate) async fn rest(store: &Store, streams: usize) -> Result<(), Failure> {
    let handled = Arc::default();
    let streams = register(store, streams, |order| EventQuery::tags([tag(order)]), &handled).await?;
    // All of them have begun, found nothing, and rest.
    store.append([NewEvent::new(order::RARE_TYPE, 1)]).await?;
    store.settled().await?;
    streams.into_iter().for_each(EventStream::detach);
    Ok(())
}

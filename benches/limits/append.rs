//! How fast events get in.

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::try_join_all;
use millstream::{DurableStream, EventQuery, EventStream, HandleStream, Store};
use tokio::runtime::Runtime;

use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, fill, order::Order, plain};

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let shapes = [
        Shape::new("append_1_writer", 1, 1, Target::AtLeast(0.85)),
        Shape::new("append_64_writers", 64, 1, Target::AtLeast(0.80)),
        Shape::new("append_batches_of_100", 1, 100, Target::AtLeast(0.90)),
    ];
    for shape in shapes {
        if report.wants(shape.name) {
            shape.measure(runtime, folder, scale, report)?;
        }
    }
    if report.wants("append_if_1m") {
        conditional(runtime, folder, scale, report)?;
    }
    if report.wants("durable_cost") {
        durable_cost(runtime, folder, scale, report)?;
    }
    Ok(())
}

struct Shape {
    name: &'static str,
    writers: usize,
    batch: usize,
    target: Target,
}

impl Shape {
    fn new(name: &'static str, writers: usize, batch: usize, target: Target) -> Self {
        Self {
            name,
            writers,
            batch,
            target,
        }
    }

    /// Each round of both sides goes on in a file of its own, so that both logs grow alike.
    fn measure(
        &self,
        runtime: &Runtime,
        folder: &Path,
        scale: Scale,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let store = Store::open(folder.join(format!("{}.db", self.name)))?;
        let connection = plain::open(&folder.join(format!("{}-plain.db", self.name)))?;
        let transactions = if self.batch > 1 {
            scale.commits / 2
        } else {
            scale.commits
        };
        let rows = self.writers * self.batch;
        let events = transactions * rows;
        let mut rounds = Vec::new();
        for _ in 0..scale.rounds {
            let started = Instant::now();
            runtime.block_on(append(&store, self.writers, transactions, self.batch))?;
            let ours = started.elapsed();
            let times = plain::append(&connection, transactions, rows, self.batch)?;
            let limit = times.iter().sum();
            rounds.push((per_second(events, ours), per_second(events, limit)));
        }
        report.add(self.name, "events/s", &rounds, self.target);
        runtime.block_on(store.close())?;
        Ok(())
    }
}

/// Lets each writer append so many batches, one after the other.
pub(crate) async fn append(
    store: &Store,
    writers: usize,
    appends: usize,
    batch: usize,
) -> Result<(), Failure> {
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..appends {
                let first = (number * writers + writer) * batch;
                let events = (first..first + batch).map(|number| Order::event(number as u64));
                store.append(events).await?;
            }
            Ok::<(), Failure>(())
        })
    });
    for outcome in try_join_all(tasks).await? {
        outcome?;
    }
    Ok(())
}

/// 16 tasks, each on a context of its own, in a long and in a short log.
fn conditional(runtime: &Runtime, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let long = history(runtime, folder, scale.history)?;
    let short = history(runtime, folder, scale.history / 100)?;
    let stores = [Store::open(long)?, Store::open(short)?];
    let appends = scale.commits / 4;
    let mut rounds = Vec::new();
    for round in 0..scale.rounds {
        let mut rates = [0.0; 2];
        for (rate, store) in rates.iter_mut().zip(&stores) {
            let started = Instant::now();
            runtime.block_on(append_if(store, round, appends))?;
            *rate = per_second(16 * appends, started.elapsed());
        }
        rounds.push((rates[0], rates[1]));
    }
    report.add("append_if_1m", "events/s", &rounds, Target::AtLeast(0.90));
    for store in stores {
        runtime.block_on(store.close())?;
    }
    Ok(())
}

async fn append_if(store: &Store, round: usize, appends: usize) -> Result<(), Failure> {
    let tasks = (0..16).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let tag = format!("account:{round}:{task}");
            let context = EventQuery::tags([tag.as_str()]);
            let mut version = store.query(&context).await?.context_version;
            for number in 0..appends {
                let event = Order::event(number as u64).tag(&tag);
                version = store.append_if([event], &context, version).await?.last_sequence;
            }
            Ok::<(), Failure>(())
        })
    });
    for outcome in try_join_all(tasks).await? {
        outcome?;
    }
    Ok(())
}

/// The same appends with ten durable and with ten live streams attached.
fn durable_cost(runtime: &Runtime, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let durable = Store::open(folder.join("durable.db"))?;
    let live = Store::open(folder.join("live.db"))?;
    let streams = runtime.block_on(attach(&durable, &live))?;
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        let mut rates = [0.0; 2];
        for (rate, store) in rates.iter_mut().zip([&durable, &live]) {
            let started = Instant::now();
            runtime.block_on(append(store, 1, scale.commits, 1))?;
            *rate = per_second(scale.commits, started.elapsed());
        }
        rounds.push((rates[0], rates[1]));
    }
    report.add("durable_cost", "events/s", &rounds, Target::AtLeast(0.90));
    drop(streams);
    runtime.block_on(durable.close())?;
    runtime.block_on(live.close())?;
    Ok(())
}

async fn attach(durable: &Store, live: &Store) -> Result<Vec<EventStream>, Failure> {
    let handle = || HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    let mut streams = Vec::new();
    for number in 0..10 {
        let name = DurableStream::new(format!("slice-{number}"));
        streams.push(durable.stream_all_durable(&name, handle()).await?);
        streams.push(live.stream_all(handle()).await?);
    }
    Ok(streams)
}

/// The file of a log with so many events, shared by the scenarios.
pub(crate) fn history(runtime: &Runtime, folder: &Path, events: u64) -> Result<PathBuf, Failure> {
    let path = folder.join(format!("history-{events}.db"));
    runtime.block_on(fill::fill(&path, events))?;
    Ok(path)
}

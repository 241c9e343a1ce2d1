//! What parallelism by key is worth: handlers that wait a millisecond, 16 of them at once and one after the other.

use std::time::{Duration, Instant};

use millstream::{Durability, DurableStream, EventQuery, EventRecord, HandleStream, Store};
use tokio::runtime::Runtime;

use crate::order::Order;
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale};

const KEYS: u64 = 1_000;
const WORKERS: u32 = 16;
/// How long a handler waits. The runtime's timer makes about twice as much of it, on both sides.
const WORK: Duration = Duration::from_millis(1);

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &std::path::Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants("keyed_16") {
        return Ok(());
    }
    let path = folder.join("keyed.db");
    let rounds = runtime.block_on(async {
        let store = Store::builder().durability(Durability::Relaxed).open(&path)?;
        // Some of each key, one event to a batch.
        let events = scale.commits.max(KEYS as usize) as u64;
        for number in 0..events {
            let key = format!("key:{}", number * 7 % KEYS);
            store.append([Order::event(number).tag(key)]).await?;
        }
        let mut rounds = Vec::new();
        for round in 0..scale.rounds {
            let many = handle_all(&store, &format!("many-{round}"), WORKERS).await?;
            let one = handle_all(&store, &format!("one-{round}"), 1).await?;
            rounds.push((
                per_second(events as usize, many),
                per_second(events as usize, one),
            ));
        }
        store.close().await?;
        Ok::<_, Failure>(rounds)
    })?;
    report.add("keyed_16", "events/s", &rounds, Target::AtLeast(12.0));
    Ok(())
}

fn key(event: &EventRecord) -> Option<String> {
    event.tags().next().map(str::to_owned)
}

/// How long a new stream takes for the whole log.
async fn handle_all(store: &Store, name: &str, workers: u32) -> Result<Duration, Failure> {
    let handle = HandleStream::new(|_| async {
        tokio::time::sleep(WORK).await;
        Ok::<(), Failure>(())
    });
    let name = DurableStream::new(name).partition_by(workers, key);
    let started = Instant::now();
    let stream = store.stream_to_durable(&name, &EventQuery::all(), handle).await?;
    stream.caught_up().await?;
    Ok(started.elapsed())
}

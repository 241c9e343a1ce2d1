//! How fast a history is replayed.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{DurableStream, EventBatch, EventQuery, HandleStream, Store};
use tokio::runtime::Runtime;

use crate::append::history;
use crate::order::{Fact, RARE_TYPE};
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, plain};

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let wants_sparse = report.wants("replay_sparse");
    let wants_all = report.wants("replay_1m");
    if !wants_all && !wants_sparse {
        return Ok(());
    }
    let path = history(runtime, folder, scale.history)?;
    let store = Store::open(&path)?;
    let (mut all, mut sparse) = (Vec::new(), Vec::new());
    for round in 0..scale.rounds {
        let everything = runtime.block_on(replay(&store, &EventQuery::all(), &format!("all-{round}")))?;
        let rare = EventQuery::types([RARE_TYPE]);
        let rare = runtime.block_on(replay(&store, &rare, &format!("rare-{round}")))?;
        let limit = plain::scan(&path)?;
        let events = store.head() as usize;
        all.push((per_second(events, everything), per_second(events, limit)));
        sparse.push((rare.as_secs_f64() * 1e3, everything.as_secs_f64() * 1e3));
    }
    report.add("replay_1m", "events/s", &all, Target::AtLeast(0.80));
    report.add("replay_sparse", "ms", &sparse, Target::AtMost(0.05));
    runtime.block_on(store.close())?;
    Ok(())
}

/// Many streams over the same events, and handlers that decode what they get.
pub(crate) fn measure_shared(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let wants_ten = report.wants("replay_10_streams");
    let wants_typed = report.wants("replay_typed");
    if !wants_ten && !wants_typed {
        return Ok(());
    }
    let path = history(runtime, folder, scale.history)?;
    let store = Store::open(&path)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let events = store.head() as usize;
    let (mut ten, mut typed) = (Vec::new(), Vec::new());
    for round in 0..scale.rounds {
        if wants_ten {
            let one = runtime.block_on(replay(&store, &EventQuery::all(), &format!("one-{round}")))?;
            let together = runtime.block_on(replay_together(&store, 10, round))?;
            ten.push((milliseconds(together), milliseconds(one)));
        }
        if wants_typed {
            let handle = HandleStream::new(|batch: EventBatch| {
                let decoded = batch.iter().try_for_each(|event| event.decode().map(consume));
                async move { decoded }
            });
            let name = format!("typed-{round}");
            let ours = runtime.block_on(replay_with(&store, &EventQuery::all(), &name, handle))?;
            let limit = plain::decode(&path)?;
            typed.push((per_second(events, ours), per_second(events, limit)));
        }
    }
    if wants_ten {
        report.add("replay_10_streams", "ms", &ten, Target::AtMost(3.0));
    }
    if wants_typed {
        report.add("replay_typed", "events/s", &typed, Target::AtLeast(0.60));
    }
    runtime.block_on(store.close())?;
    Ok(())
}

/// Keeps the compiler from leaving out the decoding.
fn consume(fact: Fact) {
    drop(black_box(fact));
}

/// From the registration of the first of some new durable streams until all have handled everything and stored their
/// cursors.
async fn replay_together(store: &Store, streams: usize, round: usize) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut running = Vec::new();
    for number in 0..streams {
        let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
        let name = DurableStream::new(format!("together-{round}-{number}"));
        running.push(store.stream_to_durable(&name, &EventQuery::all(), handle).await?);
    }
    for stream in &running {
        stream.caught_up().await?;
        stream.unsubscribe();
    }
    for stream in &running {
        stream.stopped().await;
    }
    Ok(started.elapsed())
}

/// From the registration of a new durable stream until it has handled everything and its cursor is stored.
pub(crate) async fn replay(store: &Store, query: &EventQuery, name: &str) -> Result<Duration, Failure> {
    let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    replay_with(store, query, name, handle).await
}

async fn replay_with(
    store: &Store,
    query: &EventQuery,
    name: &str,
    handle: HandleStream,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    let stream = store
        .stream_to_durable(&DurableStream::new(name), query, handle)
        .await?;
    stream.caught_up().await?;
    stream.unsubscribe();
    stream.stopped().await;
    Ok(started.elapsed())
}

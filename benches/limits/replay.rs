//! How fast a history is replayed.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{DurableStream, EventQuery, HandleStream, Store};
use tokio::runtime::Runtime;

use crate::append::history;
use crate::order::RARE_TYPE;
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
    report.add("replay_1m", "events/s", &all, Target::AtLeast(0.60));
    report.add("replay_sparse", "ms", &sparse, Target::AtMost(0.05));
    runtime.block_on(store.close())?;
    Ok(())
}

/// From the registration of a new durable stream until it has handled everything and its cursor is stored.
async fn replay(store: &Store, query: &EventQuery, name: &str) -> Result<Duration, Failure> {
    let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    let started = Instant::now();
    let stream = store
        .stream_to_durable(&DurableStream::new(name), query, handle)
        .await?;
    stream.caught_up().await?;
    stream.unsubscribe();
    stream.stopped().await;
    Ok(started.elapsed())
}

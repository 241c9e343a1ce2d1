//! How long it takes from the call of `append` to the start of the handler.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{HandleStream, Store};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::report::{Report, Target, micros};
use crate::{Failure, Scale, order::Order, plain};

/// Events per append of the slowest appends.
const BATCH: usize = 10;

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants("live_latency") {
        return Ok(());
    }
    let store = Store::open(folder.join("latency.db"))?;
    let connection = plain::open(&folder.join("latency-plain.db"))?;
    let (started, mut starts) = mpsc::channel(16);
    let handle = HandleStream::new(move |_| {
        let (at, started) = (Instant::now(), started.clone());
        async move { started.send(at).await }
    });
    let stream = runtime.block_on(store.stream_all(handle))?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let appending = store.clone();
        let count = scale.commits;
        let task = runtime.spawn(async move {
            let mut delays = Vec::with_capacity(count);
            for number in 0..count {
                let called = Instant::now();
                appending.append([Order::event(number as u64)]).await?;
                let at = starts.recv().await.ok_or("the stream has ended")?;
                delays.push(at.saturating_duration_since(called));
            }
            Ok::<_, Failure>((delays, starts))
        });
        let (ours, returned) = runtime.block_on(task)??;
        starts = returned;
        let limit = plain::append(&connection, count, 1, 1)?;
        p50.push((percentile(&ours, 50), percentile(&limit, 50)));
        p99.push((percentile(&ours, 99), percentile(&limit, 99)));
    }
    report.add("live_latency_p50", "us", &p50, Target::AtMost(1.20));
    report.add("live_latency_p99", "us", &p99, Target::AtMost(f64::INFINITY));
    drop(stream);
    runtime.block_on(store.close())?;
    Ok(())
}

/// The slowest appends, among which are those beside or behind a checkpoint of the write-ahead log.
pub(crate) fn measure_slowest(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants("append_p999") {
        return Ok(());
    }
    let store = Store::open(folder.join("slowest.db"))?;
    let connection = plain::open(&folder.join("slowest-plain.db"))?;
    let mut p999 = Vec::new();
    for _ in 0..scale.rounds {
        let appending = store.clone();
        let count = scale.commits;
        let task = runtime.spawn(async move {
            let mut times = Vec::with_capacity(count);
            for number in 0..count {
                let called = Instant::now();
                let first = number * BATCH;
                let events = (first..first + BATCH).map(|number| Order::event(number as u64));
                appending.append(events).await?;
                times.push(called.elapsed());
            }
            Ok::<_, Failure>(times)
        });
        let ours = runtime.block_on(task)??;
        let limit = plain::append(&connection, count, BATCH, BATCH)?;
        p999.push((per_mille(&ours, 999), per_mille(&limit, 999)));
    }
    report.add("append_p999", "us", &p999, Target::AtMost(1.0));
    runtime.block_on(store.close())?;
    Ok(())
}

pub(crate) fn percentile(times: &[Duration], percent: usize) -> f64 {
    per_mille(times, percent * 10)
}

fn per_mille(times: &[Duration], per_mille: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    micros(times[(times.len() - 1) * per_mille / 1000])
}

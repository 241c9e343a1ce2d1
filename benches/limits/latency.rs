//! How long it takes from the call of `append` to the start of the handler.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{HandleStream, Store};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::report::{Report, Target, micros};
use crate::{Failure, Scale, order::Order, plain};

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
    report.add("live_latency_p50", "us", &p50, Target::AtMost(1.35));
    report.add("live_latency_p99", "us", &p99, Target::AtMost(f64::INFINITY));
    drop(stream);
    runtime.block_on(store.close())?;
    Ok(())
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    micros(times[(times.len() - 1) * percent / 100])
}

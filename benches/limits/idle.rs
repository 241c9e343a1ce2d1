//! What many durable streams cost that have nothing to do, and how long it takes to look at all of them. Measured in a process of
//! its own.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use millstream::{DurableStream, EventQuery, EventStream, HandleStream, NewEvent, Store};

use crate::report::{Report, Target};
use crate::{Failure, Scale, memory, order};

const STREAMS: usize = 10_000;

pub(crate) fn measure(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if !report.wants("idle") {
        return Ok(());
    }
    // As many seconds as there are rounds of other scenarios.
    let seconds = scale.rounds.to_string();
    let numbers = memory::numbers("idle", &folder.join("idle-streams.db"), &seconds)?;
    let [busy, memory, survey] = numbers[..] else {
        return Err(format!("the child said {numbers:?}").into());
    };
    let rows = [
        ("idle", "% of a processor", busy, 1.0),
        ("idle_memory", "KiB per stream", memory, 4.0),
        ("idle_health", "ms, of all", survey, 50.0),
    ];
    for (scenario, unit, ours, limit) in rows {
        report.add(scenario, unit, &[(ours, limit)], Target::AtMost(1.0));
    }
    Ok(())
}

/// What the child does: prints how busy the processors are with streams at rest, in percent of one, their memory in KiB each, and the
/// milliseconds of a look at the health of all.
pub(crate) async fn child(store: &Store, seconds: u64) -> Result<(), Failure> {
    let before = memory::resident("VmRSS")?;
    let streams = try_join_all((0..STREAMS).map(|number| async move {
        let name = DurableStream::new(format!("idle-{number}"));
        let query = EventQuery::tags([format!("customer:{number}")]);
        let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
        store.stream_to_durable(&name, &query, handle).await
    }))
    .await?;
    // All of them have begun, found nothing, and rest.
    store.append([NewEvent::new(order::RARE_TYPE, 1)]).await?;
    store.settled().await?;
    let memory = (memory::resident("VmRSS")? - before) * 1024.0 / STREAMS as f64;

    let (started, worked) = (Instant::now(), processor_time()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let worked = processor_time()?.saturating_sub(worked);
    let busy = worked.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;

    // The first look opens connections.
    store.health().await?;
    let started = Instant::now();
    let health = store.health().await?;
    let survey = started.elapsed().as_secs_f64() * 1e3;
    if health.streams.len() != STREAMS {
        return Err(format!("{} of {STREAMS} streams were seen", health.streams.len()).into());
    }
    println!("{busy} {memory} {survey}");
    streams.into_iter().for_each(EventStream::detach);
    Ok(())
}

/// How long all threads of this process have been at work.
fn processor_time() -> Result<Duration, Failure> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let field = text.split_whitespace().next().ok_or("schedstat is empty")?;
        nanoseconds += field.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

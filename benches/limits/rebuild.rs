//! What a rebuild of a read model costs those who read it and those who append meanwhile, and how much memory it takes.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::rusqlite::Transaction;
use millstream::{BoxError, EventBatch, EventQuery, Projection, ReadModel, ReadModels, Store};
use tokio::runtime::Runtime;

use crate::order::Order;
use crate::report::{Report, Target, micros};
use crate::{Failure, Scale, append, fill, memory};

/// Keys of the read model.
const KEYS: u64 = 10_000;

/// Counts events by key.
#[derive(Clone)]
pub(crate) struct ByKey;

impl Projection for ByKey {
    fn name(&self) -> &str {
        "by-key"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::all()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE by_key (key INTEGER PRIMARY KEY, count INTEGER NOT NULL)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mut add = tx.prepare_cached(
            "INSERT INTO by_key VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
        )?;
        for event in batch {
            add.execute([(event.sequence() % KEYS) as i64])?;
        }
        Ok(())
    }
}

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if report.wants_any(&["rebuild_serving_reads", "rebuild_serving_appends"]) {
        // A log of its own: it grows meanwhile.
        let path = folder.join("rebuild.db");
        runtime.block_on(fill::fill(&path, scale.history))?;
        runtime.block_on(serving(&path, folder, scale, report))?;
    }
    if report.wants("memory_rebuild") {
        let short = append::history(runtime, folder, scale.history)?;
        let long = append::history(runtime, folder, scale.history * 4)?;
        let mut peaks = Vec::new();
        for _ in 0..scale.rounds {
            let (short, long) = (
                memory::run("rebuild", &short, "")?,
                memory::run("rebuild", &long, "")?,
            );
            peaks.push((long.peak, short.peak));
        }
        report.add(
            "memory_rebuild",
            "MiB, peak, 4M and 1M",
            &peaks,
            Target::AtMost(1.10),
        );
    }
    Ok(())
}

/// What one who reads and one who appends waited, each at a pace of its own.
#[derive(Default)]
struct Waits {
    reads: Vec<Duration>,
    appends: Vec<Duration>,
}

/// Between two reads, and between two appends.
const PACE: Duration = Duration::from_millis(1);

async fn serving(path: &Path, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let store = Store::open(path)?;
    let models = ReadModels::open(folder.join("rebuild-views.db"))?;
    let model = models.project(&store, ByKey).await?;
    model.caught_up().await?;
    let (mut reads, mut appends) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let begun = Instant::now();
        let rebuild = model.rebuild().await?;
        let finished = rebuild.finished();
        let (during, finished) = use_until(&store, &model, finished).await?;
        finished?;
        let quiet = tokio::time::sleep(begun.elapsed());
        let (without, ()) = use_until(&store, &model, quiet).await?;
        reads.push((p99(during.reads), p99(without.reads)));
        appends.push((p99(during.appends), p99(without.appends)));
    }
    report.add("rebuild_serving_reads", "us, p99", &reads, Target::AtMost(2.0));
    report.add(
        "rebuild_serving_appends",
        "us, p99",
        &appends,
        Target::AtMost(2.0),
    );
    store.close().await?;
    Ok(())
}

/// Reads and appends until something else is done.
async fn use_until<T>(
    store: &Store,
    model: &ReadModel,
    other: impl Future<Output = T>,
) -> Result<(Waits, T), Failure> {
    let mut waits = Waits::default();
    let reading = async {
        for key in 0.. {
            let begun = Instant::now();
            let asked = "SELECT count FROM by_key WHERE key = ?1";
            model
                .read(move |rows| rows.query_row(asked, [(key % KEYS) as i64], |row| row.get::<_, i64>(0)))
                .await?;
            waits.reads.push(begun.elapsed());
            tokio::time::sleep(PACE).await;
        }
        Ok::<(), Failure>(())
    };
    let appending = async {
        for number in 0.. {
            let begun = Instant::now();
            store.append([Order::event(number)]).await?;
            waits.appends.push(begun.elapsed());
            tokio::time::sleep(PACE).await;
        }
        Ok::<(), Failure>(())
    };
    let done = tokio::select! {
        done = other => done,
        ended = reading => { ended?; unreachable!("it reads for ever") }
        ended = appending => { ended?; unreachable!("it appends for ever") }
    };
    Ok((waits, done))
}

fn p99(mut waits: Vec<Duration>) -> f64 {
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().map_or(0.0, micros)
}

/// What the child does whose memory is looked at.
pub(crate) async fn child(store: &Store, path: &Path) -> Result<(), Failure> {
    let views = path.with_extension("views");
    let models = ReadModels::open(&views)?;
    let model = models.on_demand(store, ByKey).await?;
    model.catch_up().await?;
    model.rebuild().await?.finished().await?;
    Ok(())
}

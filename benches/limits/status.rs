//! What it costs that metrics and tracing are on: a replay in a process with a recorder and a subscriber, and in one without.
//!
//! Recorder and subscriber are of a whole process, so each side has one of its own. Built with the feature `metrics`.

use std::path::Path;

use metrics_exporter_prometheus::PrometheusBuilder;
use millstream::{EventQuery, Store};
use tracing::level_filters::LevelFilter;

use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, append, memory, replay};

/// How often the log is replayed by one process; the fastest counts.
const REPLAYS: usize = 5;

pub(crate) fn measure(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if !report.wants("status_cost") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let path = append::history(&runtime, folder, scale.history)?;
    let rate = |side| {
        let numbers = memory::numbers("status", &path, side)?;
        numbers
            .first()
            .copied()
            .ok_or_else(|| Failure::from("the child said nothing"))
    };
    let (mut usual, mut every_call) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let off = rate("off")?;
        usual.push((rate("info")?, off));
        every_call.push((rate("debug")?, off));
    }
    report.add("status_cost", "events/s", &usual, Target::AtLeast(0.95));
    report.add(
        "status_cost_debug",
        "events/s",
        &every_call,
        Target::AtLeast(0.80),
    );
    Ok(())
}

/// What the child does: prints how many events a durable stream handles per second.
pub(crate) fn child(path: &Path, side: &str) -> Result<(), Failure> {
    let level = match side {
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        _ => None,
    };
    if let Some(level) = level {
        // Before the store is opened, as a program does.
        PrometheusBuilder::new().install_recorder()?;
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::sink)
            .finish();
        tracing::subscriber::set_global_default(subscriber)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let store = Store::open(path)?;
    let events = store.head() as usize;
    let mut best = 0_f64;
    for number in 0..REPLAYS {
        let name = format!("status-{side}-{}-{number}", std::process::id());
        let took = runtime.block_on(replay::replay(&store, &EventQuery::all(), &name))?;
        best = best.max(per_second(events, took));
    }
    println!("{best}");
    runtime.block_on(store.close())?;
    Ok(())
}

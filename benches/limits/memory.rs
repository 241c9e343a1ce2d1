//! How much memory a replay, and a handler that is far behind, take; and how anything is measured in a process of its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use millstream::{Durability, DurableStream, EventQuery, HandleStream, Store};
use tokio::sync::Semaphore;

use crate::report::{Report, Target};
use crate::{Failure, Scale, append, fan_out, idle, order::Order, rebuild, server, two_processes};

/// The default of the builder.
const WINDOW_BYTES: f64 = (16 << 20) as f64;
const MIB: f64 = (1 << 20) as f64;

pub(crate) fn measure(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    if report.wants("memory_replay") {
        let short = append::history(&runtime, folder, scale.history)?;
        let long = append::history(&runtime, folder, scale.history * 4)?;
        let (mut peaks, mut above_idle) = (Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            let (short, long) = (run("replay", &short, "")?, run("replay", &long, "")?);
            peaks.push((long.peak, short.peak));
            above_idle.push((long.peak - long.idle, 64.0));
        }
        report.add(
            "memory_replay",
            "MiB, peak, 4M and 1M",
            &peaks,
            Target::AtMost(1.10),
        );
        report.add(
            "memory_replay_above_idle",
            "MiB",
            &above_idle,
            Target::AtMost(1.0),
        );
    }
    if report.wants("memory_slow") {
        let events = (scale.history / 2).to_string();
        let slow = run("slow", &folder.join("slow.db"), &events)?;
        let rounds = [(slow.peak - slow.idle, WINDOW_BYTES / MIB)];
        report.add("memory_slow", "MiB", &rounds, Target::AtMost(2.0));
    }
    Ok(())
}

/// Resident memory, in MiB.
pub(crate) struct Resident {
    pub(crate) idle: f64,
    pub(crate) peak: f64,
}

pub(crate) fn run(what: &str, path: &Path, argument: &str) -> Result<Resident, Failure> {
    match numbers(what, path, argument)?[..] {
        [idle, peak] => Ok(Resident { idle, peak }),
        ref other => Err(format!("the child said {other:?}").into()),
    }
}

/// What is measured in a process of its own.
pub(crate) fn numbers(what: &str, path: &Path, argument: &str) -> Result<Vec<f64>, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .arg("--child")
        .args([
            what,
            path.to_str().ok_or("the folder's name is not text")?,
            argument,
        ])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("the child failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let numbers = text.split_whitespace().map(str::parse::<f64>);
    Ok(numbers.collect::<Result<_, _>>()?)
}

/// What the child does: prints the resident memory of the idle process with the store open, and the peak after the work.
pub(crate) fn child(what: &str, path: &Path, argument: &str) -> Result<(), Failure> {
    #[cfg(feature = "metrics")]
    if what == "status" {
        return crate::status::child(path, argument);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if what == "appends" {
        return runtime.block_on(two_processes::child(path, argument));
    }
    if what == "plain-appends" {
        return two_processes::plain_child(path, argument);
    }
    if what == "server-reader" {
        return runtime.block_on(server::child(argument));
    }
    runtime.block_on(async {
        let store = Store::builder().durability(Durability::Relaxed).open(path)?;
        let idle = resident("VmRSS")?;
        match what {
            "replay" => replay(&store).await?,
            "slow" => fall_behind(&store, argument.parse()?).await?,
            "idle" => return idle::child(&store, argument.parse()?).await,
            "rebuild" => rebuild::child(&store, path).await?,
            "streams" => fan_out::rest(&store, argument.parse()?).await?,
            other => return Err(format!("there is no scenario {other}").into()),
        }
        println!("{idle} {}", resident("VmHWM")?);
        Ok(())
    })
}

async fn replay(store: &Store) -> Result<(), Failure> {
    let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    let name = DurableStream::new(format!("memory-{}", std::process::id()));
    let stream = store.stream_to_durable(&name, &EventQuery::all(), handle).await?;
    stream.caught_up().await?;
    Ok(())
}

/// A handler that does not return, while so many events are appended.
async fn fall_behind(store: &Store, events: usize) -> Result<(), Failure> {
    let gate = Arc::new(Semaphore::new(0));
    let handler_gate = Arc::clone(&gate);
    let handle = HandleStream::new(move |_| {
        let gate = Arc::clone(&handler_gate);
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    });
    let stream = store.stream_all(handle).await?;
    for number in 0..events / 100 {
        let first = number * 100;
        store
            .append((first..first + 100).map(|number| Order::event(number as u64)))
            .await?;
    }
    let status = stream.status();
    if status.lag < events as u64 {
        return Err(format!("the handler is only {} events behind", status.lag).into());
    }
    // Lets it catch up, which must not take more either.
    gate.add_permits(events);
    stream.caught_up().await?;
    Ok(())
}

/// A field of `/proc/self/status`, in MiB.
pub(crate) fn resident(field: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: f64 = kibibytes.ok_or("this system has no /proc/self/status")?.parse()?;
    Ok(kibibytes / 1024.0)
}

//! What each of two processes appends to one file, and what one appends that has it alone. Each stands by for the same stream.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream::{DurableStream, HandleStream, Ownership, Store};
use rusqlite::Connection;

use crate::order::Order;
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, memory};

/// How long each of them appends in a round, per commit that the scale has. The syncs of a virtual disk vary from second to second, so the
/// rounds are short, and more than the scale has.
const PER_COMMIT: Duration = Duration::from_micros(500);
const MORE_ROUNDS: usize = 2;
/// After so long all children have opened the file.
const START_IN: Duration = Duration::from_millis(500);

pub(crate) fn measure(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if !report.wants("two_processes") {
        return Ok(());
    }
    let time = PER_COMMIT * scale.commits as u32;
    let sides = [
        ("two_processes", "appends", Target::AtLeast(0.4)),
        ("two_processes_plain", "plain-appends", Target::AtLeast(0.0)),
    ];
    for (scenario, what, target) in sides {
        let mut rounds = Vec::new();
        for round in 0..MORE_ROUNDS * scale.rounds {
            let slowest_of = |count: usize| {
                let path = folder.join(format!("{scenario}-{round}-{count}.db"));
                let rates = together(what, &path, count, time)?;
                Ok::<_, Failure>(rates.into_iter().fold(f64::INFINITY, f64::min))
            };
            // Either goes first as often as the other.
            rounds.push(if round % 2 == 0 {
                let alone = slowest_of(1)?;
                (slowest_of(2)?, alone)
            } else {
                (slowest_of(2)?, slowest_of(1)?)
            });
        }
        report.add(scenario, "appends/s, the slower of two", &rounds, target);
    }
    Ok(())
}

/// What so many processes append per second when they begin at the same time.
fn together(what: &str, path: &Path, count: usize, time: Duration) -> Result<Vec<f64>, Failure> {
    // The file is made before they contend for it.
    drop(Store::open(path)?);
    let start = SystemTime::now().duration_since(UNIX_EPOCH)? + START_IN;
    let argument = format!("{} {}", start.as_millis(), time.as_millis());
    let run = || memory::numbers(what, path, &argument);
    thread::scope(|scope| {
        let children: Vec<_> = (0..count).map(|_| scope.spawn(run)).collect();
        let rates = children.into_iter().map(|child| match child.join() {
            Ok(numbers) => Ok(numbers?.first().copied().ok_or("the child said nothing")?),
            Err(_) => Err("the thread of a child panicked".into()),
        });
        rates.collect()
    })
}

/// What the child does: appends one event after the other for a time, from a moment on, and prints how many it was per second.
pub(crate) async fn child(path: &Path, argument: &str) -> Result<(), Failure> {
    let (start, time) = times(argument)?;
    let store = Store::open(path)?;
    let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    let name = DurableStream::new("ledger").ownership(Ownership::Standby);
    let _stream = store.stream_all_durable(&name, handle).await?;
    tokio::time::sleep(start.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        store.append([Order::event(count)]).await?;
        count += 1;
    }
    println!("{}", per_second(count as usize, began.elapsed()));
    store.close().await?;
    Ok(())
}

/// When to begin, and for how long to go on.
fn times(argument: &str) -> Result<(SystemTime, Duration), Failure> {
    let (start, time) = argument.split_once(' ').ok_or("two numbers are needed")?;
    let start = UNIX_EPOCH + Duration::from_millis(start.parse()?);
    Ok((start, Duration::from_millis(time.parse()?)))
}

/// The same with plain rusqlite: one row in a transaction, and SQLite's own way to wait for the other one.
pub(crate) fn plain_child(path: &Path, argument: &str) -> Result<(), Failure> {
    let (start, time) = times(argument)?;
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA foreign_keys=0")?;
    let insert =
        "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata)
        SELECT coalesce(max(sequence), 0) + 1, 0, 1, 1700000000000000, 1, NULL, ?1, NULL FROM event";
    let (mut begin, mut insert) = (
        connection.prepare("BEGIN IMMEDIATE")?,
        connection.prepare(insert)?,
    );
    let mut commit = connection.prepare("COMMIT")?;
    while SystemTime::now() < start {
        thread::park_timeout(start.duration_since(SystemTime::now()).unwrap_or_default());
    }
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        begin.execute([])?;
        insert.execute([serde_json::to_string(&Order::new(count))?])?;
        commit.execute([])?;
        count += 1;
    }
    println!("{}", per_second(count as usize, began.elapsed()));
    Ok(())
}

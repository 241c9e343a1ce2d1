//! What each of two processes appends to one file, and what one appends that has it alone. Each stands by for the same stream.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream::{DurableStream, HandleStream, Ownership, Store};

use crate::order::Order;
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, memory};

/// How long each of them appends in a round, per commit that the scale has.
const PER_COMMIT: Duration = Duration::from_millis(1);
/// After so long all children have opened the file.
const START_IN: Duration = Duration::from_millis(500);

pub(crate) fn measure(folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if !report.wants("two_processes") {
        return Ok(());
    }
    let time = PER_COMMIT * scale.commits as u32;
    let mut rounds = Vec::new();
    for round in 0..scale.rounds {
        let path = |count: usize| folder.join(format!("two-processes-{round}-{count}.db"));
        let alone = together(&path(1), 1, time)?;
        let both = together(&path(2), 2, time)?;
        let slower = both.into_iter().fold(f64::INFINITY, f64::min);
        rounds.push((slower, alone[0]));
    }
    let unit = "appends/s, the slower of two";
    report.add("two_processes", unit, &rounds, Target::AtLeast(0.4));
    Ok(())
}

/// What so many processes append per second when they begin at the same time.
fn together(path: &Path, count: usize, time: Duration) -> Result<Vec<f64>, Failure> {
    // The file is made before they contend for it.
    drop(Store::open(path)?);
    let start = SystemTime::now().duration_since(UNIX_EPOCH)? + START_IN;
    let argument = format!("{} {}", start.as_millis(), time.as_millis());
    let run = || memory::numbers("appends", path, &argument);
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
    let (start, time) = argument.split_once(' ').ok_or("two numbers are needed")?;
    let (start, time) = (start.parse()?, Duration::from_millis(time.parse()?));
    let store = Store::open(path)?;
    let handle = HandleStream::new(|_| async { Ok::<(), Failure>(()) });
    let name = DurableStream::new("ledger").ownership(Ownership::Standby);
    let _stream = store.stream_all_durable(&name, handle).await?;
    let start = UNIX_EPOCH + Duration::from_millis(start);
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

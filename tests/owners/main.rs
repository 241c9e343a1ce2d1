//! One owner per durable stream over several processes (D6): this binary runs itself again as the other owners, which are killed,
//! stopped and let go on.

#![cfg(unix)]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod random;

use std::time::{Duration, Instant};

use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, Durability, DurableStream, EventBatch, EventQuery, ModelOptions, Ownership, Projection,
    ReadModels, Store, StreamError, StreamState,
};

use crate::child::{Process, Role, SILENCE_MAX, let_go_file, open};
use crate::common::{Recorder, append, in_time, takes_all};

fn waits(name: &str) -> DurableStream {
    DurableStream::new(name).ownership(Ownership::Standby)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_is_refused_is_told_which_process_owns_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let mut owner = Process::start(&path, Role::Fail, &["ledger"]);
    owner.says("owns ledger").await;
    let store = open(&path);
    let refused = store
        .stream_all_durable(&DurableStream::new("ledger"), takes_all())
        .await;
    let Err(error) = refused else {
        panic!("{refused:?}");
    };
    let text = error.to_string();
    let StreamError::OwnedElsewhere { owner: found, .. } = error else {
        panic!("{text}");
    };
    assert_eq!(found.process, owner.id());
    let says = format!("is run by process {} on {:?} since 20", owner.id(), found.host);
    assert!(text.contains(&says), "{text}");
    let streams = store.streams().await.unwrap();
    assert_eq!(streams[0].owner.as_ref(), Some(&found));
    // Nothing is left of it once it is dead, not even for a moment.
    owner.kill();
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), takes_all())
        .await
        .unwrap();
    assert_eq!(
        store.streams().await.unwrap()[0].owner.as_ref().unwrap().process,
        std::process::id()
    );
    stream.unsubscribe();
    stream.stopped().await;
    assert_eq!(store.streams().await.unwrap()[0].owner, None);
    store.close().await.unwrap();
    let left = std::fs::read_dir(folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "log.db-owners"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_stands_by_takes_over_when_the_owner_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let mut owner = Process::start(&path, Role::Standby, &["ledger"]);
    owner.says("owns ledger").await;
    // With the default poll interval.
    let store = Store::builder()
        .durability(Durability::Relaxed)
        .open(&path)
        .unwrap();
    let recorder = Recorder::new();
    let standby = store
        .stream_all_durable(&waits("ledger"), recorder.handler())
        .await
        .unwrap();
    assert!(matches!(standby.status().state, StreamState::Standby));
    assert_eq!(standby.status().owner.unwrap().process, owner.id());
    append(&store, "a", 1).await;
    owner.says("handled ledger 1").await;
    in_time("it is stored", store.stream("ledger").await.unwrap().wait_for(1))
        .await
        .unwrap();
    append(&store, "a", 1).await;
    owner.says("handled ledger 2").await;
    let killed_at = Instant::now();
    owner.kill();
    in_time("it takes over", standby.owned()).await.unwrap();
    println!("taken over {:?} after the owner was killed", killed_at.elapsed());
    append(&store, "a", 1).await;
    in_time("it delivers", standby.wait_for(3)).await.unwrap();
    let delivered = recorder.sequences();
    assert!(delivered == [2, 3] || delivered == [3], "{delivered:?}");
}

/// Counts events by type.
#[derive(Clone)]
struct Counts;

impl Projection for Counts {
    fn name(&self) -> &str {
        "counts"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::all()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE counted (type TEXT PRIMARY KEY, count INTEGER NOT NULL)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            tx.execute(
                "INSERT INTO counted VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                [event.event_type()],
            )?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_an_owner_that_was_stopped_and_goes_on_writes_nothing_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let mut owner = Process::start(&path, Role::StandbyWithModel, &["ledger"]);
    owner.says_all(&["owns ledger", "keeps counts"]).await;
    let store = open(&path);
    let recorder = Recorder::new();
    let standby = store
        .stream_all_durable(&waits("ledger"), recorder.handler())
        .await
        .unwrap();
    let models = ReadModels::open(folder.path().join("models.db")).unwrap();
    let options = ModelOptions::default().ownership(Ownership::Standby);
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    owner.says("handled ledger 3").await;
    for name in ["ledger", "counts@1"] {
        let stored = store.stream(name).await.unwrap();
        in_time("it is stored", stored.wait_for(3)).await.unwrap();
    }
    let refused = models.project(&store, Counts).await;
    assert!(refused.is_err(), "another process keeps it");
    // It is stopped with a batch in hand, which it has handled when it goes on.
    append(&store, "held", 1).await;
    owner.says("holds ledger 4").await;

    let stopped_at = Instant::now();
    owner.signal("STOP");
    let (taken, model) = tokio::join!(
        in_time("the stream is taken over", standby.owned()),
        in_time(
            "the model is taken over",
            models.project_with(&store, Counts, &options)
        ),
    );
    taken.unwrap();
    let model = model.unwrap();
    println!(
        "taken over {:?} after the owner was stopped",
        stopped_at.elapsed()
    );
    assert!(stopped_at.elapsed() > SILENCE_MAX / 2, "it had the time to go on");
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    standby.wait_for(7).await.unwrap();
    model.wait_for(7).await.unwrap();
    assert_eq!(recorder.sequences(), [4, 5, 6, 7]);

    std::fs::write(let_go_file(&path), "").unwrap();
    owner.signal("CONT");
    let lost = "another owner took over the durable stream";
    let (ledger, counts) = (
        format!("stopped ledger: {lost}"),
        format!("stopped counts: {lost}"),
    );
    owner.says_all(&[&ledger, &counts]).await;
    // As the log has it, and not as the store knows it that owns the stream.
    let duty = open(&path);
    let ledger = duty.stream("ledger").await.unwrap().status().await.unwrap();
    assert_eq!(
        ledger.cursor,
        Some(7),
        "what it handled last moved no cursor back"
    );
    assert_eq!(ledger.owner.unwrap().process, std::process::id());
    append(&store, "a", 1).await;
    standby.wait_for(8).await.unwrap();
    model.wait_for(8).await.unwrap();
    let count = "SELECT sum(count) FROM counted";
    let counted = model.read(move |connection| connection.query_row(count, [], |row| row.get::<_, i64>(0)));
    assert_eq!(counted.await.unwrap(), 8, "each event was applied once");
    assert_eq!(recorder.sequences(), [4, 5, 6, 7, 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_the_owners_of_six_streams_spread_over_three_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let names = ["a", "b", "c", "d", "e", "f"];
    let start = || Process::start(&path, Role::Standby, &names);
    let store = open(&path);
    let mut processes = vec![start()];
    processes[0].says("owns f").await;
    processes.extend([start(), start()]);
    spread(&store, &processes, 2).await;
    for name in names {
        let status = store.stream(name).await.unwrap().status().await.unwrap();
        assert_eq!(status.standbys.len(), 2, "{status:?}");
    }
    processes.remove(1).kill();
    spread(&store, &processes, 3).await;
    processes.push(start());
    spread(&store, &processes, 2).await;
    append(&store, "a", 1).await;
    for name in names {
        let control = store.stream(name).await.unwrap();
        in_time("all is delivered", control.wait_for(1)).await.unwrap();
    }
}

/// Waits until each of the processes owns so many streams.
async fn spread(store: &Store, processes: &[Process], each: usize) {
    let is_spread = async {
        loop {
            let streams = store.streams().await.unwrap();
            let owners: Vec<u32> = streams
                .iter()
                .filter_map(|stream| stream.owner.as_ref().map(|owner| owner.process))
                .collect();
            let owned = |process: &Process| owners.iter().filter(|owner| **owner == process.id()).count();
            if processes.iter().all(|process| owned(process) == each) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("the streams are spread", is_spread).await;
}

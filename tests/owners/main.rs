//! One owner per durable stream over several processes (D6): this binary runs itself again as the other owners, which are killed,
//! stopped and let go on. All of it over a log in a file, and over one on a server.

#![cfg(unix)]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod place;
mod random;

use std::time::{Duration, Instant};

use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, DurableStream, EventBatch, EventQuery, EventStream, ModelOptions, Ownership, Projection,
    ReadModels, Store, StreamError, StreamState,
};
use rusqlite::Connection;

use crate::child::{Process, Role, SILENCE_MAX, let_go_file};
use crate::common::{Recorder, append, in_time, takes_all};
use crate::place::{Home, Place};
use crate::random::d6_two_processes_that_are_killed_and_stopped_handle_everything_in_order;

/// Within which the stream of an owner that was killed is taken over.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// Each of these tests on a log in a file, and on a server.
macro_rules! wherever_the_log_is {
    ($($name:ident),* $(,)?) => {
        mod in_a_file {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::place::Home::file()).await;
            })*
        }

        mod on_a_server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(home) = crate::place::Home::server() {
                    super::$name(home).await;
                }
            })*
        }
    };
}

wherever_the_log_is!(
    d6_who_is_refused_is_told_which_process_owns_the_stream,
    d6_who_stands_by_takes_over_when_the_owner_is_killed,
    d6_an_owner_that_was_stopped_and_goes_on_writes_nothing_and_stops,
    d6_the_owners_of_six_streams_spread_over_three_processes,
    d6_two_processes_that_are_killed_and_stopped_handle_everything_in_order,
);

fn waits(name: &str) -> DurableStream {
    DurableStream::new(name).ownership(Ownership::Standby)
}

async fn d6_who_is_refused_is_told_which_process_owns_the_stream(home: Home) {
    let place = &home.place;
    let mut owner = Process::start(place, Role::Fail, &["ledger", "mails"]);
    owner.says_all(&["owns ledger", "owns mails"]).await;
    let store = place.open().await;
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
    owner.kill();
    let stream = registered_after_a_kill(place, &store, &DurableStream::new("ledger")).await;
    if place.notices_at_once() {
        // Who is dead comes back under no name, and claims nothing any more.
        let log = Connection::open(place.log_file()).unwrap();
        let count = |sql| log.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM instance"), 1);
        assert_eq!(count("SELECT count(*) FROM claim"), 1);
    }
    assert_eq!(
        store.streams().await.unwrap()[0].owner.as_ref().unwrap().process,
        std::process::id()
    );
    stream.unsubscribe();
    stream.stopped().await;
    assert_eq!(store.streams().await.unwrap()[0].owner, None);
    store.close().await.unwrap();
    nothing_is_left(&home);
}

/// Registers a stream whose owner was killed. Of a log in a file it is to be had at once.
pub(crate) async fn registered_after_a_kill(
    place: &Place,
    store: &Store,
    durable: &DurableStream,
) -> EventStream {
    let registering = async {
        loop {
            match store.stream_all_durable(durable, takes_all()).await {
                Ok(stream) => return stream,
                Err(StreamError::OwnedElsewhere { .. }) if !place.notices_at_once() => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    in_time("it is registered", registering).await
}

/// Of this process's store, which has closed.
fn nothing_is_left(home: &Home) {
    if let Some(database) = &home.database {
        let mine = format!(
            "SELECT (SELECT count(*) FROM claim WHERE stream = 'ledger') + (SELECT count(*) FROM instance WHERE process = {})",
            std::process::id()
        );
        assert_eq!(database.number(&mine), 0);
        return;
    }
    let left = std::fs::read_dir(home.place.folder()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "log.db-owners"), "{left:?}");
}

async fn d6_who_stands_by_takes_over_when_the_owner_is_killed(home: Home) {
    let place = &home.place;
    let mut owner = Process::start(place, Role::Standby, &["ledger"]);
    owner.says("owns ledger").await;
    // With the default poll interval.
    let store = place.open_with(Store::builder()).await;
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
    let taken_after = killed_at.elapsed();
    println!("taken over {taken_after:?} after the owner was killed");
    assert!(taken_after < TAKEN_WITHIN, "only after {taken_after:?}");
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

async fn d6_an_owner_that_was_stopped_and_goes_on_writes_nothing_and_stops(home: Home) {
    let place = &home.place;
    let mut owner = Process::start(place, Role::StandbyWithModel, &["ledger"]);
    owner.says_all(&["owns ledger", "keeps counts"]).await;
    let store = place.open().await;
    let recorder = Recorder::new();
    let standby = store
        .stream_all_durable(&waits("ledger"), recorder.handler())
        .await
        .unwrap();
    let models = ReadModels::open(place.beside("models.db")).unwrap();
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

    std::fs::write(let_go_file(place), "").unwrap();
    owner.signal("CONT");
    let lost = "another owner took over the durable stream";
    let (ledger, counts) = (
        format!("stopped ledger: {lost}"),
        format!("stopped counts: {lost}"),
    );
    owner.says_all(&[&ledger, &counts]).await;
    // As the log has it, and not as the store knows it that owns the stream.
    let duty = place.open().await;
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

async fn d6_the_owners_of_six_streams_spread_over_three_processes(home: Home) {
    let place = &home.place;
    let names = ["a", "b", "c", "d", "e", "f"];
    let start = || Process::start(place, Role::Standby, &names);
    let store = place.open().await;
    let mut processes = vec![start()];
    processes[0].says("owns f").await;
    processes.extend([start(), start()]);
    spread(&store, &processes, 2).await;
    for name in names {
        // Who owns two may have yet to register the others.
        let control = store.stream(name).await.unwrap();
        let is_stood_by_for = async {
            while control.status().await.unwrap().standbys.len() != 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("the other two stand by", is_stood_by_for).await;
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

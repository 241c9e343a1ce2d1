//! What only a log in tables or in a file promises.

use std::time::Duration;

use millstream::conformance::TestLog;
use millstream::conformance::tools::poison::{Poison, shapes};
use millstream::{
    DeadLetterState, DurableStream, EventQuery, FailurePolicy, NewEvent, RetryLetters, RetryState,
    RetryTicket, SteerError, Store, StreamControl, StreamState, Withdrawal,
};

use crate::common::postgres::database;
use crate::common::{Recorder, append, events, eventually, in_time, log, sequences, takes_all};
use crate::logs::{InAFile, OnAServer};

fn open(log: &impl TestLog) -> Store {
    log.open(Store::builder()).expect("opens the log")
}

/// The tables themselves refuse to change an event (L4).
async fn events_cannot_be_changed(log_of: &impl TestLog, execute: impl Fn(&str) -> Result<usize, String>) {
    let store = open(log_of);
    append(&store, "a", 3).await;
    for change in [
        "UPDATE event SET payload = '9'",
        "UPDATE event SET sequence = sequence + 10",
        "UPDATE event SET tags = NULL WHERE sequence = 2",
    ] {
        let error = execute(change).unwrap_err();
        assert!(error.contains("events never change"), "{change}: {error}");
    }
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_events_cannot_be_changed_in_a_file() {
    let file = InAFile::new();
    events_cannot_be_changed(&file, |sql| file.execute(sql)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_events_cannot_be_changed_on_a_server() {
    if let Some(database) = database() {
        let server = OnAServer(database);
        events_cannot_be_changed(&server, |sql| server.0.execute(sql)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_backup_knows_the_keys() {
    let file = InAFile::new();
    let store = open(&file);
    store.append(events("a", 3)).await.unwrap();
    let paid = || [NewEvent::new("order-paid", 5).tag("order:7")];
    let first = store.append_once("payment:81", paid()).await.unwrap();
    let target = file.path().with_extension("backup");
    store.backup_to(&target).await.unwrap();
    let backup = Store::open(&target).unwrap();
    let again = backup.append_once("payment:81", paid()).await.unwrap();
    assert_eq!((again.appended, again.is_repetition), (first.appended, true));
}

async fn ask(store: &Store) -> Result<RetryTicket, SteerError> {
    let brief = Duration::from_secs(20);
    ledger(store)
        .await
        .ask_for_retry(RetryLetters::All, "anna", brief)
        .await
}

async fn ledger(store: &Store) -> StreamControl {
    store.stream("ledger").await.expect("the stream is known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d9_a_request_after_a_crash_is_begun_in_time_or_never() {
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let file = InAFile::new();
    let runs = open(&file);
    append(&runs, "a", 1).await;
    append(&runs, "a", 1).await;
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = runs
        .stream_all_durable(&name, poison.handler(&recorder))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    stream.detach();
    poison.heal();
    // In the copy the run looks as after a crash.
    let copy = InAFile::new();
    runs.backup_to(copy.path()).await.unwrap();
    let store = open(&copy);
    let control = ledger(&store).await;
    let brief = Duration::from_millis(1);
    let ticket = control
        .ask_for_retry(RetryLetters::All, "anna", brief)
        .await
        .unwrap();
    let expired = in_time("it expires", ticket.ended()).await.unwrap();
    assert_eq!(expired.state, RetryState::Expired);
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    append(&store, "a", 1).await;
    stream.wait_for(3).await.unwrap();
    assert_eq!(ticket.progress().await.unwrap().state, RetryState::Expired);
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, DeadLetterState::Parked)]);
    // One that still waits is begun by the next run; and one that was withdrawn is not.
    let again = InAFile::new();
    store.backup_to(again.path()).await.unwrap();
    let store = open(&again);
    let withdrawn = ask(&store).await.unwrap();
    assert_eq!(withdrawn.withdraw().await.unwrap(), Withdrawal::Withdrawn);
    assert_eq!(withdrawn.progress().await.unwrap().state, RetryState::Gone);
    // What was asked before the store last looked around is not brought to it once more.
    let other = DurableStream::new("other");
    let other = store.stream_all_durable(&other, takes_all()).await.unwrap();
    let aside = open(&again);
    let control = aside.stream("other").await.unwrap();
    control.pause("ben").await.unwrap();
    eventually("the store has looked around", || {
        matches!(other.status().state, StreamState::Paused { .. })
    })
    .await;
    let ticket = ask(&store).await.unwrap();
    assert_eq!(ticket.progress().await.unwrap().state, RetryState::Waiting);
    let _stream = store.stream_all_durable(&name, handler).await.unwrap();
    let ended = in_time("it is begun", ticket.ended()).await.unwrap();
    assert_eq!(ended.state, RetryState::Ended);
    assert_eq!((ended.handled, ended.failed, ended.waiting), (1, 0, 0));
}

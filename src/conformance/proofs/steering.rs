//! D9: what a durable stream is told from outside.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, eventually, in_time, takes_all};
use crate::error::{SteerError, StopCause, WaitError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::steer::{ExpectedCursor, Reset};
use crate::store::Store;
use crate::stream::control::StreamControl;
use crate::stream::handle::EventStream;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;
use crate::stream::status::{StreamState, StreamStatus};

pub(crate) async fn ledger(store: &Store) -> StreamControl {
    store.stream("ledger").await.expect("the stream is known")
}

pub(crate) async fn open(store: &Store, handler: HandleStream) -> EventStream {
    let name = DurableStream::new("ledger");
    store.stream_all_durable(&name, handler).await.unwrap()
}

pub(super) async fn status(store: &Store) -> StreamStatus {
    ledger(store).await.status().await.unwrap()
}

/// The state is reached without anybody being told of it in this store.
pub(super) async fn until(stream: &EventStream, what: &str, is_there: impl Fn(&StreamStatus) -> bool) {
    eventually(what, || is_there(&stream.status())).await;
}

pub(super) fn is_paused(status: &StreamStatus) -> bool {
    matches!(status.state, StreamState::Paused { .. })
}

pub(super) async fn stop(stream: EventStream) {
    stream.unsubscribe();
    in_time("the stream stops", stream.stopped()).await;
}

pub async fn d9_a_paused_stream_rests_and_goes_on_without_a_gap(subject: &Subject) {
    let store = subject.open();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let stream = open(&store, recorder.gated(&gate)).await;
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    gate.add_permits(1);
    recorder.batches(1).await;
    until(&stream, "the second call is under way", |status| {
        status.handled_batches == 1 && status.call_running_for.is_some()
    })
    .await;
    ledger(&store).await.pause("anna").await.unwrap();
    assert!(
        !is_paused(&stream.status()),
        "the call under way is not interrupted"
    );
    gate.add_permits(10);
    until(&stream, "the stream rests", is_paused).await;
    let StreamState::Paused { by, since } = stream.status().state else {
        panic!("it is paused");
    };
    assert_eq!(by, "anna");
    assert!(since <= SystemTime::now());
    assert_eq!(
        recorder.sequences(),
        [1, 2],
        "the call under way ended, none began"
    );
    assert_eq!(stream.status().cursor, Some(2), "and its cursor is stored");
    append(&store, "a", 1).await;
    // A second pause stays in the name of the first.
    ledger(&store).await.pause("ben").await.unwrap();
    let refused = stream.wait_for(5).await;
    assert!(
        matches!(&refused, Err(WaitError::Paused { position: 2, by, .. }) if by == "anna"),
        "{refused:?}"
    );
    assert_eq!(recorder.sequences(), [1, 2]);
    ledger(&store).await.resume().await.unwrap();
    in_time("the rest is handled", stream.caught_up()).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 4, 5]);
    ledger(&store).await.resume().await.unwrap();
    append(&store, "a", 1).await;
    in_time("it lives", stream.wait_for(6)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 4, 5, 6]);
}

pub async fn d9_a_pause_of_a_resting_stream_stores_what_is_settled(subject: &Subject) {
    let store = subject.open();
    let query = EventQuery::types(["never"]);
    let name = DurableStream::new("ledger");
    let stream = store.stream_to_durable(&name, &query, takes_all()).await.unwrap();
    append(&store, "a", 7).await;
    stream.caught_up().await.unwrap();
    assert_eq!(stream.status().cursor, Some(0), "it was not worth storing");
    ledger(&store).await.pause("anna").await.unwrap();
    until(&stream, "the stream rests", is_paused).await;
    assert_eq!(stream.status().cursor, Some(7));
    append(&store, "a", 1).await;
    assert_eq!(stream.status().position, 7, "nothing is settled while it rests");
    ledger(&store).await.resume().await.unwrap();
    in_time("it goes on", stream.caught_up()).await.unwrap();
    assert_eq!(stream.status().position, 8);
}

pub async fn d9_a_pause_holds_after_a_restart(subject: &Subject) {
    let store = subject.open();
    let stream = open(&store, takes_all()).await;
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    ledger(&store).await.pause("anna, until monday").await.unwrap();
    stop(stream).await;
    let store = subject.reopen(store).await;
    let found = status(&store).await;
    assert!(is_paused(&found) && !found.is_here, "{found:?}");
    append(&store, "a", 1).await;
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    assert!(
        is_paused(&stream.status()),
        "the registration succeeds, and rests"
    );
    append(&store, "a", 1).await;
    assert!(matches!(
        stream.caught_up().await,
        Err(WaitError::Paused { position: 1, .. })
    ));
    assert!(matches!(store.settled().await, Err(WaitError::Paused { .. })));
    assert_eq!(recorder.sequences(), [0; 0]);
    ledger(&store).await.resume().await.unwrap();
    in_time("it goes on", stream.caught_up()).await.unwrap();
    assert_eq!(recorder.sequences(), [2, 3]);
}

pub async fn d9_a_reset_of_a_running_stream_begins_a_new_run(subject: &Subject) {
    let store = subject.open();
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    for _ in 0..5 {
        append(&store, "a", 1).await;
    }
    stream.wait_for(5).await.unwrap();
    let control = ledger(&store).await;
    let refused = control.reset(Reset::Beginning, 4).await;
    assert!(
        matches!(
            refused,
            Err(SteerError::CursorMoved {
                expected: 4,
                found: 5,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(control.reset(Reset::To(2), 5).await.unwrap(), 2);
    in_time("it is handled again", recorder.batches(8)).await;
    append(&store, "a", 1).await;
    in_time("it lives", control.wait_for(6)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 4, 5, 3, 4, 5, 6]);
    assert_eq!(status(&store).await.cursor, Some(6));
    assert_eq!(control.reset(Reset::Now, 6).await.unwrap(), 6);
    assert_eq!(
        control
            .reset(Reset::Beginning, ExpectedCursor::anywhere())
            .await
            .unwrap(),
        0
    );
    in_time("all of it", recorder.batches(15)).await;
    assert_eq!(recorder.sequences()[9..], [1, 2, 3, 4, 5, 6]);
    stop(stream).await;
    let store = subject.reopen(store).await;
    assert_eq!(status(&store).await.cursor, Some(6));
}

pub async fn d9_nothing_of_the_earlier_run_is_stored_after_a_reset(subject: &Subject) {
    let store = subject.open();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(2)));
    let name = DurableStream::new("ledger").checkpoint(Checkpoint::Strict);
    let stream = store
        .stream_all_durable(&name, recorder.gated(&gate))
        .await
        .unwrap();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    recorder.batches(2).await;
    until(&stream, "the third call is under way", |status| {
        status.cursor == Some(2) && status.call_running_for.is_some()
    })
    .await;
    let control = ledger(&store).await;
    control.reset(Reset::Beginning, 2).await.unwrap();
    // The third call ends after the reset: its position is refused, and the next call is the first of the new run.
    gate.add_permits(1);
    recorder.batches(3).await;
    until(&stream, "the new run has begun", |status| {
        status.position == 0 && status.call_running_for.is_some()
    })
    .await;
    // Whatever was on its way to the log rides along with this append.
    append(&store, "a", 1).await;
    stop_with_a_call_under_way(&stream, &gate).await;
    drop(stream);
    let store = subject.reopen(store).await;
    assert_eq!(recorder.sequences(), [1, 2, 3, 1]);
    assert_eq!(status(&store).await.cursor, Some(1));
}

pub(super) async fn stop_with_a_call_under_way(stream: &EventStream, gate: &Semaphore) {
    stream.unsubscribe();
    gate.add_permits(1);
    in_time("the stream stops", stream.stopped()).await;
}

pub async fn d9_a_reset_goes_where_it_says(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    append(&store, "a", 3).await;
    stop(open(&store, takes_all()).await).await;
    let control = ledger(&store).await;
    let hour = Duration::from_secs(3_600);
    for (to, expected) in [
        (Reset::Now, 5),
        (Reset::Beginning, 0),
        (Reset::To(4), 4),
        (Reset::To(5), 5),
        (Reset::At(SystemTime::now() - hour), 0),
        (Reset::At(SystemTime::now() + hour), 5),
    ] {
        let moved = control.reset(to, ExpectedCursor::anywhere()).await.unwrap();
        assert_eq!(moved, expected, "{to:?}");
        assert_eq!(status(&store).await.position, expected, "{to:?}");
    }
    let refused = control.reset(Reset::To(6), 5).await;
    assert!(
        matches!(
            refused,
            Err(SteerError::Ahead {
                position: 6,
                head: 5,
                ..
            })
        ),
        "{refused:?}"
    );
    control.reset(Reset::To(2), 5).await.unwrap();
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [3, 4, 5]);
}

pub async fn d9_a_reset_before_what_pruning_left_is_refused(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    let stream = open(&store, takes_all()).await;
    stream.wait_for(4).await.unwrap();
    assert_eq!(store.prune(3).await.unwrap().pruned_through, 2);
    let control = ledger(&store).await;
    let refused = control.reset(Reset::To(1), 4).await;
    assert!(
        matches!(
            refused,
            Err(SteerError::Pruned {
                position: 1,
                pruned_through: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(control.reset(Reset::Beginning, 4).await.unwrap(), 2);
}

/// Writes everything down that is not the batch that ends at `bad`, at which it fails.
pub(crate) fn fails_at(recorder: &Recorder, bad: u64) -> HandleStream {
    recorder.failing(move |batch: &EventBatch| batch.last_sequence() == bad)
}

pub async fn d9_a_failed_batch_is_skipped_while_its_stream_retries(subject: &Subject) {
    let store = subject.open();
    let recorder = Recorder::new();
    let slow = Duration::from_secs(3_600);
    let patient = Retry::default()
        .delay_min(slow)
        .delay_max(slow)
        .elapsed_max(slow * 24);
    let stream = open(&store, fails_at(&recorder, 4).retry(patient)).await;
    append(&store, "a", 2).await;
    append(&store, "a", 2).await;
    append(&store, "a", 1).await;
    until(&stream, "it waits for the next attempt", |status| {
        status.cursor == Some(2) && matches!(status.state, StreamState::Retrying { .. })
    })
    .await;
    let control = ledger(&store).await;
    let refused = control.skip_batch(1, "anna").await;
    assert!(
        matches!(
            refused,
            Err(SteerError::CursorMoved {
                expected: 1,
                found: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    let skipped = control.skip_batch(2, "anna").await.unwrap();
    assert_eq!((skipped.first_sequence, skipped.last_sequence), (3, 4));
    until(&stream, "the record is counted", |status| status.skipped == 1).await;
    in_time("it goes on at once", control.wait_for(5)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 5]);
    let refused = control.skip_batch(5, "anna").await;
    assert!(
        matches!(refused, Err(SteerError::NothingToSkip { position: 5, .. })),
        "{refused:?}"
    );
}

pub async fn d9_a_failed_batch_is_skipped_after_its_stream_stopped(subject: &Subject) {
    let store = subject.open();
    let query = EventQuery::types(["b"]);
    let name = DurableStream::new("ledger");
    let recorder = Recorder::new();
    let handler = fails_at(&recorder, 3).retry(Retry::never());
    append(&store, "a", 2).await;
    append(&store, "b", 1).await;
    append(&store, "b", 1).await;
    let stream = store.stream_to_durable(&name, &query, handler).await.unwrap();
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::HandlerFailed { .. }), "{cause:?}");
    let stopped = status(&store).await;
    assert!(matches!(stopped.state, StreamState::Stopped(_)), "{stopped:?}");
    let control = ledger(&store).await;
    let skipped = control.skip_batch(stopped.cursor.unwrap(), "anna").await.unwrap();
    assert_eq!((skipped.first_sequence, skipped.last_sequence), (3, 3));
    assert_eq!(status(&store).await.position, 3);
    let handler = recorder.handler();
    let stream = store.stream_to_durable(&name, &query, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [4]);
}

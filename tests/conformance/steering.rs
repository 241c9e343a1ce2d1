//! D9: what a durable stream is told from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use millstream::{
    Checkpoint, DurableStream, EventBatch, EventQuery, EventStream, ExpectedCursor, HandleStream, Ownership,
    Reset, Retry, SteerError, StopCause, Store, StreamControl, StreamState, StreamStatus, WaitError,
};
use tokio::sync::Semaphore;

use crate::common::{Recorder, append, eventually, in_time, takes_all};
use crate::subject::Subject;

pub(crate) async fn ledger(store: &Store) -> StreamControl {
    store.stream("ledger").await.expect("the stream is known")
}

pub(crate) async fn open(store: &Store, handler: HandleStream) -> EventStream {
    let name = DurableStream::new("ledger");
    store.stream_all_durable(&name, handler).await.unwrap()
}

async fn status(store: &Store) -> StreamStatus {
    ledger(store).await.status().await.unwrap()
}

/// The state is reached without anybody being told of it in this store.
async fn until(stream: &EventStream, what: &str, is_there: impl Fn(&StreamStatus) -> bool) {
    eventually(what, || is_there(&stream.status())).await;
}

fn is_paused(status: &StreamStatus) -> bool {
    matches!(status.state, StreamState::Paused { .. })
}

async fn stop(stream: EventStream) {
    stream.unsubscribe();
    in_time("the stream stops", stream.stopped()).await;
}

pub(crate) async fn d9_a_paused_stream_rests_and_goes_on_without_a_gap(subject: &Subject) {
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

pub(crate) async fn d9_a_pause_of_a_resting_stream_stores_what_is_settled(subject: &Subject) {
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

pub(crate) async fn d9_a_pause_holds_after_a_restart(subject: &Subject) {
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

pub(crate) async fn d9_a_reset_of_a_running_stream_begins_a_new_run(subject: &Subject) {
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

pub(crate) async fn d9_nothing_of_the_earlier_run_is_stored_after_a_reset(subject: &Subject) {
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

async fn stop_with_a_call_under_way(stream: &EventStream, gate: &Semaphore) {
    stream.unsubscribe();
    gate.add_permits(1);
    in_time("the stream stops", stream.stopped()).await;
}

pub(crate) async fn d9_a_reset_goes_where_it_says(subject: &Subject) {
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

pub(crate) async fn d9_a_reset_before_what_pruning_left_is_refused(subject: &Subject) {
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

pub(crate) async fn d9_a_failed_batch_is_skipped_while_its_stream_retries(subject: &Subject) {
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

pub(crate) async fn d9_a_failed_batch_is_skipped_after_its_stream_stopped(subject: &Subject) {
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

pub(crate) async fn d9_a_renamed_stream_keeps_its_cursor_under_the_new_name(subject: &Subject) {
    let store = subject.open();
    let stream = open(&store, takes_all()).await;
    let other = DurableStream::new("other");
    let other = store.stream_all_durable(&other, takes_all()).await.unwrap();
    append(&store, "a", 3).await;
    store.wait_for(3).await.unwrap();
    let control = ledger(&store).await;
    let refused = control.rename("other").await;
    assert!(
        matches!(refused, Err(SteerError::NameTaken { .. })),
        "{refused:?}"
    );
    let refused = control.rename("").await;
    assert!(
        matches!(refused, Err(SteerError::InvalidText { .. })),
        "{refused:?}"
    );
    let books = control.rename("books").await.unwrap();
    assert_eq!(books.name(), "books");
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::Renamed { to } if to == "books"),
        "{cause:?}"
    );
    let refused = control.pause("anna").await;
    assert!(
        matches!(refused, Err(SteerError::NoSuchStream { .. })),
        "{refused:?}"
    );
    append(&store, "a", 1).await;
    let recorder = Recorder::new();
    let name = DurableStream::new("books");
    let renamed = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    in_time("it goes on", renamed.wait_for(4)).await.unwrap();
    assert_eq!(recorder.sequences(), [4]);
    let names: Vec<_> = store
        .streams()
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, [Some("books".into()), Some("other".into())]);
    drop(other);
}

pub(crate) async fn d9_a_deleted_stream_stops_and_is_new_when_it_comes_again(subject: &Subject) {
    let store = subject.open();
    let stream = open(&store, takes_all()).await;
    append(&store, "a", 3).await;
    stream.wait_for(3).await.unwrap();
    let control = ledger(&store).await;
    control.delete().await.unwrap();
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Deleted), "{cause:?}");
    assert!(store.streams().await.unwrap().is_empty());
    store.settled().await.unwrap();
    let waited = control.wait_for(3).await;
    assert!(
        matches!(waited, Err(WaitError::NoSuchStream { .. })),
        "{waited:?}"
    );
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    assert_eq!(stream.started_after(), 0);
    in_time("it handles everything", stream.wait_for(3))
        .await
        .unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3]);
}

pub(crate) async fn d9_an_unknown_name_is_told_which_one_was_meant(subject: &Subject) {
    let store = subject.open();
    let refused = store.stream("ledger").await;
    assert!(
        matches!(&refused, Err(SteerError::NoSuchStream { nearest: None, .. })),
        "{refused:?}"
    );
    stop(open(&store, takes_all()).await).await;
    let refused = store.stream("legder").await;
    let error = refused.expect_err("there is no such stream").to_string();
    assert!(error.contains("did you mean \"ledger\"?"), "{error}");
    let control = ledger(&store).await;
    control.delete().await.unwrap();
    for refused in [
        control.pause("anna").await.err(),
        control.resume().await.err(),
        control.reset(Reset::Now, 0).await.err(),
        control.skip_batch(0, "anna").await.err(),
        control.rename("books").await.err(),
        control.delete().await.err(),
    ] {
        assert!(
            matches!(refused, Some(SteerError::NoSuchStream { .. })),
            "{refused:?}"
        );
    }
}

pub(crate) async fn d9_a_failed_commit_leaves_a_stream_as_it_was(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let store = subject.open_faulty(|builder| builder, {
        let fails = Arc::clone(&fails);
        move |point| point == millstream::internals::FaultPoint::BeforeCommit && fails.load(Ordering::SeqCst)
    });
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let control = ledger(&store).await;
    for refused in [
        control.pause("anna").await.err(),
        control.reset(Reset::Beginning, 1).await.err(),
        control.delete().await.err(),
        control.rename("books").await.err(),
    ] {
        assert!(matches!(refused, Some(SteerError::Storage(_))), "{refused:?}");
    }
    fails.store(false, Ordering::SeqCst);
    append(&store, "a", 1).await;
    in_time("it goes on", stream.wait_for(2)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2]);
}

pub(crate) async fn d9_streams_are_listed_wherever_they_run(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    let gone = store
        .stream_all_durable(&DurableStream::new("gone"), takes_all())
        .await
        .unwrap();
    gone.wait_for(2).await.unwrap();
    stop(gone).await;
    let here = open(&store, takes_all()).await;
    append(&store, "a", 3).await;
    here.wait_for(5).await.unwrap();
    let is_live = |status: &StreamStatus| matches!(status.state, StreamState::Live);
    until(&here, "it has found nothing more", is_live).await;
    let live = store.stream_all(takes_all()).await.unwrap();
    let listed = store.streams().await.unwrap();
    let [gone, ledger] = &listed[..] else {
        panic!("two durable streams: {listed:?}");
    };
    assert_eq!((gone.name.as_deref(), gone.is_here), (Some("gone"), false));
    assert!(matches!(gone.state, StreamState::NotHere));
    assert_eq!((gone.cursor, gone.head, gone.lag), (Some(2), 5, 3));
    assert!(gone.oldest_unhandled.is_some());
    assert_eq!((ledger.name.as_deref(), ledger.is_here), (Some("ledger"), true));
    assert!(matches!(ledger.state, StreamState::Live), "{ledger:?}");
    assert_eq!((ledger.position, ledger.lag, ledger.handled_events), (5, 0, 5));
    assert!(ledger.events_per_second > 0.0 && ledger.heartbeat.is_some());
    assert_eq!(store.streams_here().len(), 2, "the live one among them");
    drop(live);
}

/// Two stores on one file stand for two processes.
pub(crate) async fn d9_another_store_is_heeded_within_the_poll_interval(subject: &Subject) {
    let store = subject.open();
    let duty = subject.open();
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    stream.wait_for(3).await.unwrap();
    let control = ledger(&duty).await;
    let seen = control.status().await.unwrap();
    assert_eq!((seen.is_here, seen.cursor, seen.head), (false, Some(3), 3));
    in_time("the stored cursor is polled", control.wait_for(3))
        .await
        .unwrap();
    control.pause("anna").await.unwrap();
    until(&stream, "the pause is heeded", is_paused).await;
    append(&store, "a", 1).await;
    assert_eq!(recorder.sequences(), [1, 2, 3]);
    assert!(matches!(control.wait_for(4).await, Err(WaitError::Paused { .. })));
    control.reset(Reset::To(1), 3).await.unwrap();
    control.resume().await.unwrap();
    in_time("it is handled again", recorder.batches(6)).await;
    in_time("it is stored", control.wait_for(4)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 2, 3, 4]);
    control.reset(Reset::Beginning, 4).await.unwrap();
    // It learns of the reset by its own cursor, which is refused, or by looking around.
    append(&store, "a", 1).await;
    in_time(
        "from the beginning",
        recorder.until(|seen| seen.iter().filter(|d| d.first == 1).count() == 2),
    )
    .await;
    in_time("it is stored", control.wait_for(5)).await.unwrap();
    let again = control.rename("books").await.unwrap();
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::Renamed { to } if to == "books"),
        "{cause:?}"
    );
    let name = DurableStream::new("books");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    again.delete().await.unwrap();
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Deleted), "{cause:?}");
}

pub(crate) async fn d9_a_cursor_that_is_refused_tells_its_stream_of_the_reset(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(3_600)));
    let duty = subject.open();
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    ledger(&duty).await.reset(Reset::Beginning, 1).await.unwrap();
    append(&store, "a", 1).await;
    in_time("it begins anew", recorder.batches(4)).await;
    assert_eq!(recorder.sequences(), [1, 2, 1, 2]);
    in_time("it lives", stream.wait_for(2)).await.unwrap();
    assert_eq!(status(&duty).await.cursor, Some(2));
}

pub(crate) async fn d6_a_reset_gives_a_lost_name_back_to_nobody(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(3_600)));
    let other = subject.open();
    let first = Recorder::new();
    let lost = open(&store, first.handler()).await;
    append(&store, "a", 1).await;
    lost.wait_for(1).await.unwrap();
    let second = Recorder::new();
    let name = DurableStream::new("ledger").ownership(Ownership::TakeOver);
    let owner = other.stream_all_durable(&name, second.handler()).await.unwrap();
    // The first owner has heard of neither the takeover nor the reset when its next cursor is refused.
    ledger(&other).await.reset(Reset::Beginning, 1).await.unwrap();
    in_time("the owner starts over", second.batches(1)).await;
    append(&store, "a", 1).await;
    let cause = in_time("the first owner stops", lost.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    in_time("the owner goes on", owner.wait_for(2)).await.unwrap();
    assert_eq!(second.sequences(), [1, 2]);
}

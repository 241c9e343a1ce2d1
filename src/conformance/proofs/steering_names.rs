//! D6, D9: what is said of a durable stream by its name, and by other stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::conformance::proofs::steering::{is_paused, ledger, open, status, stop, until};
use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, eventually, in_time, takes_all};
use crate::error::{SteerError, StopCause, WaitError};
use crate::fault::FaultPoint;
use crate::log::owner::Ownership;
use crate::log::steer::Reset;
use crate::stream::options::DurableStream;
use crate::stream::status::{StreamState, StreamStatus};

pub async fn d9_a_renamed_stream_keeps_its_cursor_under_the_new_name(subject: &Subject) {
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

pub async fn d9_a_deleted_stream_stops_and_is_new_when_it_comes_again(subject: &Subject) {
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

pub async fn d9_an_unknown_name_is_told_which_one_was_meant(subject: &Subject) {
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

pub async fn d9_a_failed_commit_leaves_a_stream_as_it_was(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let store = subject.open_faulty(|builder| builder, {
        let fails = Arc::clone(&fails);
        move |point| point == FaultPoint::BeforeCommit && fails.load(Ordering::SeqCst)
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

pub async fn d9_streams_are_listed_wherever_they_run(subject: &Subject) {
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
pub async fn d9_another_store_is_heeded_within_the_poll_interval(subject: &Subject) {
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

pub async fn d9_a_cursor_that_is_refused_tells_its_stream_of_the_reset(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(3_600)));
    let duty = subject.open();
    let recorder = Recorder::new();
    let stream = open(&store, recorder.handler()).await;
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    ledger(&duty).await.reset(Reset::Beginning, 1).await.unwrap();
    append(&store, "a", 1).await;
    eventually("it begins anew", || recorder.sequences()[1..].ends_with(&[1, 2])).await;
    // Where it heard of the reset in another way, that came before the append.
    let handled = recorder.sequences();
    assert!(matches!(handled[..], [1, 2, 1, 2] | [1, 1, 2]), "{handled:?}");
    in_time("it lives", stream.wait_for(2)).await.unwrap();
    assert_eq!(status(&duty).await.cursor, Some(2));
}

pub async fn d6_a_reset_gives_a_lost_name_back_to_nobody(subject: &Subject) {
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

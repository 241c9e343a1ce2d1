//! Cursors: what used to be stuck, stored too early, too late or by the wrong one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use millstream::internals::{FaultPoint, with_faults};
use millstream::{
    Checkpoint, DurableStream, EventQuery, Ownership, ReadError, Start, StopCause, Store, StreamError,
};
use tokio::time::interval;

use crate::Place;
use crate::common::{Recorder, append, eventually, in_time, takes_all};

/// A store whose cursors cannot be stored as long as the hook says so.
fn with_cursor_faults(fails: impl Fn() -> bool + Send + Sync + 'static) -> Store {
    with_faults(Store::builder(), move |point| {
        point == FaultPoint::BeforeCursor && fails()
    })
    .in_memory()
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickle_of_events_does_not_put_off_the_cursor() {
    let store = Store::in_memory().unwrap();
    let name = DurableStream::new("trickle").checkpoint(Checkpoint::Every {
        batches: 1_000_000,
        within: Duration::from_millis(50),
    });
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let trickle = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            let mut ticks = interval(Duration::from_millis(10));
            while !is_over.load(Ordering::SeqCst) {
                ticks.tick().await;
                append(&store, "a", 1).await;
            }
        }
    });
    let mut stored = 0;
    for _ in 0..5 {
        eventually("the cursor moves on while events come", || {
            stream.status().cursor > Some(stored)
        })
        .await;
        stored = stream.status().cursor.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    trickle.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickle_from_another_store_does_not_put_off_the_cursor() {
    let place = Place::new();
    let here = place.open_with(Store::builder().poll_interval(Duration::from_millis(5)));
    let there = place.open();
    let name = DurableStream::new("trickle").checkpoint(Checkpoint::Every {
        batches: 1_000_000,
        within: Duration::from_millis(50),
    });
    let stream = here.stream_all_durable(&name, takes_all()).await.unwrap();
    // Nor does a stream whose cursor has more time.
    let patient = DurableStream::new("patient").checkpoint(Checkpoint::Every {
        batches: 1_000_000,
        within: Duration::from_secs(3_600),
    });
    let _patient = here.stream_all_durable(&patient, takes_all()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let trickle = tokio::spawn({
        let is_over = Arc::clone(&is_over);
        async move {
            let mut ticks = interval(Duration::from_millis(10));
            while !is_over.load(Ordering::SeqCst) {
                ticks.tick().await;
                append(&there, "a", 1).await;
            }
        }
    });
    let mut stored = 0;
    for _ in 0..5 {
        eventually("the cursor moves on while events come", || {
            stream.status().cursor > Some(stored)
        })
        .await;
        stored = stream.status().cursor.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    trickle.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_does_not_put_off_the_cursor_of_what_was_handled() {
    let place = Place::new();
    let here = place.open_with(Store::builder().poll_interval(Duration::from_millis(5)));
    let there = place.open();
    let query = EventQuery::types(["wanted"]);
    let stream = here
        .stream_to_durable(&DurableStream::new("swept"), &query, takes_all())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    // The sweep leaves the cursor to the next group of this store, and there is none.
    append(&there, "noise", 10_000).await;
    append(&there, "noise", 1).await;
    stream.wait_for(10_001).await.unwrap();
    let (wanted, _) = append(&there, "wanted", 1).await;
    stream.wait_for(wanted).await.unwrap();
    eventually("the handled batch is stored", || {
        stream.status().cursor == Some(wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_could_not_be_stored_is_stored_again() {
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failures);
    let store = with_cursor_faults(move || counted.fetch_add(1, Ordering::SeqCst) < 2);
    let recorder = Recorder::new();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let name = DurableStream::new("busy").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    in_time("the stream goes on", stream.caught_up()).await.unwrap();
    eventually("the cursor is stored", || stream.status().cursor == Some(2)).await;
    assert!(failures.load(Ordering::SeqCst) > 2);
    assert_eq!(recorder.sequences(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_stream_whose_cursor_cannot_be_stored_stops_loudly() {
    let fails = Arc::new(AtomicBool::new(true));
    let hook = Arc::clone(&fails);
    let store = with_cursor_faults(move || hook.load(Ordering::SeqCst));
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let recorder = Recorder::new();
    let name = DurableStream::new("dead").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::Log(ReadError::Storage(error)) if error.is_busy()),
        "{cause:?}"
    );
    assert_eq!((recorder.sequences(), stream.status().cursor), (vec![1], Some(0)));
    assert!(store.settled().await.unwrap_err().to_string().contains("dead"));
    fails.store(false, Ordering::SeqCst);
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 1, 2], "at least once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_rest_whose_cursor_cannot_be_stored_stops_loudly() {
    let store = with_cursor_faults(|| true);
    let name = DurableStream::new("dead");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    append(&store, "a", 1).await;
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::Log(ReadError::Storage(_))),
        "{cause:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_rest_that_lost_its_name_stops() {
    let place = Place::new();
    let (loser, winner) = (place.open(), place.open());
    let name = DurableStream::new("owner");
    let lost = loser.stream_all_durable(&name, takes_all()).await.unwrap();
    lost.caught_up().await.unwrap();
    let name = name.ownership(Ownership::TakeOver);
    let _won = winner.stream_all_durable(&name, takes_all()).await.unwrap();
    append(&winner, "a", 1).await;
    let cause = in_time("the loser stops", lost.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_cannot_be_stored_fails_no_append() {
    let store = with_cursor_faults(|| true);
    let name = DurableStream::new("dead").checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_secs(3_600),
    });
    let recorder = Recorder::new();
    let _stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    for round in 1..=20 {
        let appended = store.append(crate::common::events("a", 1)).await;
        assert_eq!(appended.unwrap().first_sequence, round);
        if round == 1 {
            recorder.batches(1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_started_over_is_not_written_back() {
    let store = Store::in_memory().unwrap();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    let name = DurableStream::new("reset");
    for _ in 0..20 {
        let ends = store.stream_all_durable(&name, takes_all()).await.unwrap();
        ends.caught_up().await.unwrap();
        // Its last position is still on its way when the name is taken again.
        drop(ends);
        let recorder = Recorder::new();
        let over = name.clone().on_mismatch(millstream::OnMismatch::StartOver);
        let other = EventQuery::types(["a"]);
        let stream = store
            .stream_to_durable(&over, &other, recorder.handler())
            .await
            .unwrap();
        assert_eq!(stream.started_after(), 0);
        stream.caught_up().await.unwrap();
        assert_eq!(recorder.sequences(), [1, 2, 3, 4]);
        drop(stream);
        let back = store.stream_all_durable(&over, takes_all()).await.unwrap();
        assert_eq!(back.started_after(), 0);
        drop(back);
        let _kept = store.stream_all_durable(&name, takes_all()).await.unwrap();
    }
}

#[test]
fn a_registration_without_a_runtime_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.open();
    let name = DurableStream::new("nowhere").start(Start::Now);
    let refused = block_on(store.stream_all_durable(&name, takes_all()));
    assert!(matches!(refused, Err(StreamError::NoRuntime)), "{refused:?}");
    let count = place
        .by_hand()
        .query_row("SELECT count(*) FROM cursor", [], |row| row.get::<_, i64>(0));
    assert_eq!(count.unwrap(), 0, "who is refused stores no cursor");
}

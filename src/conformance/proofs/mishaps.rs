//! D5 to D8: what a durable stream promises when something goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::proofs::durable::{cursor, end, stored};
use crate::conformance::subject::{Subject, Tampering};
use crate::conformance::tools::{Recorder, append, eventually, hasty, in_time, takes_all};
use crate::error::{StopCause, StreamError, WaitError};
use crate::event::batch::EventBatch;
use crate::event::query::{EventFilter, EventQuery};
use crate::fault::FaultPoint;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::owner::Ownership;
use crate::store::Store;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::status::StreamState;

pub async fn d5_an_error_is_retried_and_then_stops_the_stream(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 2).await;
    }
    let recorder = Recorder::new();
    let name = DurableStream::new("poisoned");
    let poisoned = recorder
        .failing(|batch| batch.first_sequence() == 5)
        .retry(hasty().attempts_max(3));
    let stream = store.stream_all_durable(&name, poisoned).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::HandlerFailed {
        last_sequence: 6,
        attempts: 3,
        error,
        ..
    } = &cause
    else {
        panic!("expected three attempts at the batch up to 6: {cause:?}");
    };
    assert_eq!(&**error, "not now");
    let status = stream.status();
    assert_eq!((status.position, status.cursor, status.failures), (4, Some(4), 3));
    assert!(matches!(
        status.state,
        StreamState::Stopped(StopCause::HandlerFailed { .. })
    ));
    let waited = stream.caught_up().await;
    assert!(
        matches!(waited, Err(WaitError::Stopped { position: 4, .. })),
        "{waited:?}"
    );
    let settled = store.settled().await.unwrap_err().to_string();
    assert!(
        settled.contains("poisoned") && settled.contains("not now"),
        "{settled}"
    );
    assert_eq!(
        store.streams_here().len(),
        1,
        "who stopped with an error is still seen"
    );
    let mended = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    assert_eq!(mended.started_after(), 4);
    mended.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=8).collect::<Vec<_>>());
    store.settled().await.unwrap();
}

pub async fn d5_a_panic_is_retried_like_an_error(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let recorder = Recorder::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (recorder, calls) = (recorder.clone(), Arc::clone(&calls));
        HandleStream::new(move |batch: EventBatch| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            assert!(call != 0, "before the future is there");
            let recorder = recorder.clone();
            async move {
                assert!(call != 1, "inside the future");
                recorder.write(&batch);
                Ok::<_, std::io::Error>(())
            }
        })
    };
    let name = DurableStream::new("panics");
    let stream = store
        .stream_all_durable(&name, handler.retry(hasty()))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2]);
    let status = stream.status();
    assert_eq!(status.failures, 2);
    let error = status.last_error.unwrap();
    assert!(
        error.contains("panicked") && error.contains("inside the future"),
        "{error}"
    );
}

pub async fn d6_a_name_is_active_once(subject: &Subject) {
    let store = subject.open();
    let name = DurableStream::new("owner");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    for _ in 0..3 {
        let second = store.stream_all_durable(&name, takes_all()).await;
        assert!(
            matches!(second, Err(StreamError::NameActive { .. })),
            "{second:?}"
        );
    }
    let other = store
        .stream_all_durable(&DurableStream::new("other"), takes_all())
        .await
        .unwrap();
    let raced = DurableStream::new("raced");
    let both = [0, 1].map(|_| store.stream_all_durable(&raced, takes_all()));
    let raced = futures::future::join_all(both).await;
    assert_eq!(raced.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    append(&store, "a", 1).await;
    store.settled().await.unwrap();
    assert_eq!(
        (stream.status().handled_batches, other.status().handled_batches),
        (1, 1)
    );
}

pub async fn d6_a_name_that_was_unsubscribed_is_free(subject: &Subject) {
    let store = subject.open();
    let name = DurableStream::new("owner");
    let recorder = Recorder::new();
    for round in 1..=30 {
        let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
        append(&store, "a", 1).await;
        if round % 3 != 0 {
            stream.caught_up().await.unwrap();
        }
        if round % 2 == 0 {
            stream.unsubscribe();
        }
        drop(stream);
    }
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=30).collect::<Vec<_>>());
    assert_eq!(store.streams_here().len(), 1);
}

pub async fn d6_who_lost_the_name_cannot_write_the_cursor_and_stops(subject: &Subject) {
    let (loser, winner) = (subject.open(), subject.open());
    let name = DurableStream::new("owner").checkpoint(Checkpoint::Strict);
    let (lost, lost_gate) = (Recorder::new(), Arc::new(Semaphore::new(2)));
    let stream = loser
        .stream_all_durable(&name, lost.gated(&lost_gate))
        .await
        .unwrap();
    for _ in 0..6 {
        append(&loser, "a", 1).await;
    }
    eventually("two batches are stored", || cursor(&stream) == 2).await;
    // The winner takes over while the loser handles the third batch, and gets no further than that itself.
    let (won, won_gate) = (Recorder::new(), Arc::new(Semaphore::new(1)));
    let name = name.ownership(Ownership::TakeOver);
    let owner = winner
        .stream_all_durable(&name, won.gated(&won_gate))
        .await
        .unwrap();
    assert_eq!(owner.started_after(), 2);
    eventually("the third batch is stored", || cursor(&owner) == 3).await;
    lost_gate.add_permits(100);
    let cause = in_time("the loser stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert_eq!(lost.sequences(), [1, 2, 3]);
    assert_eq!(stored(subject, "owner").await, 3);
    won_gate.add_permits(100);
    owner.caught_up().await.unwrap();
    assert_eq!(won.sequences(), [3, 4, 5, 6]);
    loser.close().await.unwrap();
    winner.close().await.unwrap();
    assert_eq!(stored(subject, "owner").await, 6);
}

pub async fn d7_a_changed_query_is_refused(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "a", "b"] {
        append(&store, name, 1).await;
    }
    let name = DurableStream::new("typed");
    let written = EventQuery::any([EventFilter::types(["b", "a"]), EventFilter::all().tags(["x"])]);
    let same = EventQuery::any([
        EventFilter::all().tags(["x"]),
        EventFilter::types(["a", "b", "a"]),
    ]);
    let changed = EventQuery::types(["b"]);
    let stream = store
        .stream_to_durable(&name, &written, takes_all())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    end(stream).await;
    let store = subject.reopen(store).await;
    let refused = store
        .stream_to_durable(&name, &changed, takes_all())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, StreamError::QueryChanged { cursor: 4, .. }),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(
        text.contains("KeepCursor") && text.contains("StartOver"),
        "{text}"
    );
    let stream = store.stream_to_durable(&name, &same, takes_all()).await.unwrap();
    assert_eq!(stream.started_after(), 4);
    end(stream).await;
    let keeps = name.clone().on_mismatch(OnMismatch::KeepCursor);
    let stream = store
        .stream_to_durable(&keeps, &changed, takes_all())
        .await
        .unwrap();
    assert_eq!(stream.started_after(), 4);
    end(stream).await;
    let refused = store.stream_to_durable(&name, &same, takes_all()).await;
    assert!(
        matches!(refused, Err(StreamError::QueryChanged { .. })),
        "the kept cursor has the new query"
    );
    let recorder = Recorder::new();
    let over = name.clone().on_mismatch(OnMismatch::StartOver);
    let stream = store
        .stream_to_durable(&over, &same, recorder.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(
        (stream.started_after(), recorder.sequences()),
        (0, vec![1, 2, 3, 4])
    );
    end(stream).await;
    let stream = store.stream_to_durable(&over, &same, takes_all()).await.unwrap();
    assert_eq!(stream.started_after(), 4, "what fits does not start over");
}

/// Leaves a cursor at 3 in a log that ends there, and changes its row by hand.
async fn tampered(subject: &Subject, change: Tampering<'_>) -> (Store, DurableStream) {
    let store = subject.open();
    append(&store, "a", 3).await;
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    stream.caught_up().await.unwrap();
    end(stream).await;
    subject.tamper(change);
    (subject.reopen(store).await, name)
}

pub async fn d7_a_cursor_ahead_of_the_log_is_refused(subject: &Subject) {
    let (store, name) = tampered(
        subject,
        Tampering::MoveCursor {
            stream: "ledger",
            position: 9,
        },
    )
    .await;
    for choice in [OnMismatch::Refuse, OnMismatch::KeepCursor] {
        let name = name.clone().on_mismatch(choice);
        let refused = store.stream_all_durable(&name, takes_all()).await.unwrap_err();
        assert!(
            matches!(
                refused,
                StreamError::CursorAhead {
                    cursor: 9,
                    head: 3,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert!(refused.to_string().contains("StartOver"), "{refused}");
    }
    let recorder = Recorder::new();
    let over = name.on_mismatch(OnMismatch::StartOver);
    let stream = store.stream_all_durable(&over, recorder.handler()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3]);
    eventually("the cursor came back into the log", || cursor(&stream) == 3).await;
}

pub async fn d7_a_cursor_of_another_log_is_refused(subject: &Subject) {
    let (store, name) = tampered(
        subject,
        Tampering::GiveCursor {
            stream: "ledger",
            log_id: "another",
        },
    )
    .await;
    for choice in [OnMismatch::Refuse, OnMismatch::KeepCursor] {
        let name = name.clone().on_mismatch(choice);
        let refused = store.stream_all_durable(&name, takes_all()).await.unwrap_err();
        assert!(matches!(&refused, StreamError::ForeignCursor { cursor_log, .. } if cursor_log == "another"));
        assert!(refused.to_string().contains("StartOver"), "{refused}");
    }
    let over = name.on_mismatch(OnMismatch::StartOver).start(Start::Now);
    let stream = store.stream_all_durable(&over, takes_all()).await.unwrap();
    assert_eq!(stream.started_after(), 3);
}

pub async fn d8_lost_wake_ups_delay_by_the_poll_interval(subject: &Subject) {
    let poll_interval = Duration::from_millis(20);
    let store = subject.open_faulty(
        |builder| builder.poll_interval(poll_interval),
        |point| point == FaultPoint::Wake,
    );
    let (live, durable) = (Recorder::new(), Recorder::new());
    let _live = store.stream_all(live.handler()).await.unwrap();
    let name = DurableStream::new("durable");
    let _durable = store.stream_all_durable(&name, durable.handler()).await.unwrap();
    for round in 1..=20 {
        append(&store, "a", 1).await;
        in_time("a look finds the batch", async {
            live.batches(round).await;
            durable.batches(round).await;
        })
        .await;
    }
    store.settled().await.unwrap();
    assert_eq!(live.sequences(), (1..=20).collect::<Vec<_>>());
    assert_eq!(durable.sequences(), live.sequences());
}

//! D1 to D4: what a durable stream promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, events, eventually, in_time, takes_all};
use crate::error::{StopCause, StreamError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::fault::FaultPoint;
use crate::log::cursor::Start;
use crate::log::owner::Ownership;
use crate::stream::handle::EventStream;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};

/// A checkpoint that nothing but the number of batches brings about.
pub(super) fn every(batches: u32) -> Checkpoint {
    Checkpoint::Every {
        batches,
        within: Duration::from_secs(3_600),
    }
}

pub(super) async fn end(stream: EventStream) {
    stream.unsubscribe();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Unsubscribed), "{cause:?}");
}

pub(super) fn cursor(stream: &EventStream) -> u64 {
    stream.status().cursor.expect("a durable stream has a cursor")
}

/// The cursor as it stands in the log, for a store that did not write it.
pub(super) async fn stored(subject: &Subject, name: &str) -> u64 {
    let aside = subject.open();
    let status = aside.stream(name).await.unwrap().status().await.unwrap();
    aside.close().await.unwrap();
    status.cursor.expect("a durable stream has a cursor")
}

pub async fn d1_delivery_resumes_after_the_cursor(subject: &Subject) {
    let mut store = subject.open_with(|builder| builder.page_batches(3));
    let name = DurableStream::new("ledger");
    let mut expected = 0;
    // Nothing, one batch, a page less one, a page, a page and one.
    for batches in [0, 1, 2, 3, 4, 0, 7] {
        let recorder = Recorder::new();
        for _ in 0..batches {
            append(&store, "a", 2).await;
        }
        // What a log in a file holds now is not in the window any more.
        store = subject.reopen(store).await;
        let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
        assert_eq!(stream.started_after(), expected);
        stream.caught_up().await.unwrap();
        let head = store.head();
        assert_eq!(head, expected + batches * 2);
        assert_eq!(recorder.sequences(), (expected + 1..=head).collect::<Vec<_>>());
        end(stream).await;
        store = subject.reopen(store).await;
        expected = head;
    }
}

pub async fn d1_a_new_name_starts_where_it_says(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    append(&store, "a", 3).await;
    // The clock has to move on between two batches, which it does at the latest when this many were appended.
    let mut second = append(&store, "b", 1).await.0;
    let found = async |sequence: u64| {
        let found = store.query(&EventQuery::all()).await.unwrap().events;
        found[sequence as usize - 1].recorded_at()
    };
    while found(second).await == found(second - 1).await {
        second = append(&store, "b", 1).await.0;
    }
    let head = store.head();
    let at = found(second).await;
    for (index, (start, after)) in [
        (Start::Beginning, 0),
        (Start::Now, head),
        (Start::After(0), 0),
        (Start::After(3), 3),
        (Start::After(head), head),
        (Start::At(at), second - 1),
        (Start::At(at - Duration::from_secs(3_600)), 0),
        (Start::At(at + Duration::from_secs(3_600)), head),
    ]
    .into_iter()
    .enumerate()
    {
        let recorder = Recorder::new();
        let name = DurableStream::new(format!("start-{index}")).start(start.clone());
        let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
        assert_eq!(stream.started_after(), after, "{start:?}");
        stream.caught_up().await.unwrap();
        assert_eq!(
            recorder.sequences(),
            (after + 1..=head).collect::<Vec<_>>(),
            "{start:?}"
        );
        end(stream).await;
    }
    let late = DurableStream::new("late").start(Start::After(head + 1));
    let refused = store.stream_all_durable(&late, takes_all()).await;
    assert!(
        matches!(refused, Err(StreamError::StartAhead { .. })),
        "{refused:?}"
    );
}

pub async fn d1_now_is_resolved_once(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    let name = DurableStream::new("now").start(Start::Now);
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    assert_eq!(stream.started_after(), 2);
    end(stream).await;
    let store = subject.reopen(store).await;
    append(&store, "a", 2).await;
    let recorder = Recorder::new();
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    assert_eq!(stream.started_after(), 2);
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [3, 4]);
}

pub async fn d1_now_is_stored_before_the_call_returns(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 5).await;
    let name = DurableStream::new("now").start(Start::Now);
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    assert_eq!(stored(subject, "now").await, 5);
    drop(stream);
}

pub async fn d2_the_cursor_passes_a_batch_after_its_handler(subject: &Subject) {
    let store = subject.open();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let name = DurableStream::new("careful").checkpoint(Checkpoint::Every {
        batches: 1,
        within: Duration::ZERO,
    });
    let stream = store
        .stream_all_durable(&name, recorder.gated(&gate))
        .await
        .unwrap();
    for _ in 0..10 {
        append(&store, "a", 1).await;
    }
    for handled in 1..=10 {
        eventually("the next call runs", || {
            stream.status().call_running_for.is_some()
        })
        .await;
        let status = stream.status();
        assert!(
            status.cursor < Some(handled) && status.position < handled,
            "{status:?}"
        );
        gate.add_permits(1);
        recorder.batches(handled as usize).await;
        eventually("the cursor follows", || cursor(&stream) == handled).await;
    }
}

pub async fn d2_the_cursor_does_not_pass_a_batch_that_fails(subject: &Subject) {
    let store = subject.open();
    for _ in 0..5 {
        append(&store, "a", 2).await;
    }
    let recorder = Recorder::new();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let handler = recorder.failing(move |batch| batch.last_sequence() == 6 && !mended.load(Ordering::SeqCst));
    let name = DurableStream::new("patient").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    eventually("it was tried again and again", || stream.status().failures > 20).await;
    let status = stream.status();
    assert_eq!((status.position, status.cursor, status.lag), (4, Some(4), 6));
    assert!(status.last_error.is_some_and(|error| error.contains("not now")));
    is_mended.store(true, Ordering::SeqCst);
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=10).collect::<Vec<_>>());
    eventually("the cursor follows", || cursor(&stream) == 10).await;
}

pub async fn d3_the_checkpoint_bounds_what_is_not_stored(subject: &Subject) {
    let store = subject.open();
    for _ in 0..40 {
        append(&store, "a", 1).await;
    }
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let name = DurableStream::new("bounded").checkpoint(every(4));
    let stream = store
        .stream_all_durable(&name, recorder.gated(&gate))
        .await
        .unwrap();
    for handled in 1..=40 {
        gate.add_permits(1);
        recorder.batches(handled).await;
        // The call of this batch has begun; those before it are handled, and all but four of them stored.
        let stored = cursor(&stream) as usize;
        assert!(
            stored + 4 >= handled - 1 && stored <= handled,
            "{stored} of {handled} are stored"
        );
    }
    let soon = DurableStream::new("soon").checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_millis(20),
    });
    let soon = store.stream_all_durable(&soon, takes_all()).await.unwrap();
    let default = DurableStream::new("default");
    let default = store.stream_all_durable(&default, takes_all()).await.unwrap();
    eventually("time stores the cursors", || {
        cursor(&soon) == 40 && cursor(&default) == 40
    })
    .await;
}

pub async fn d3_a_strict_checkpoint_stores_before_the_next_batch(subject: &Subject) {
    let store = subject.open();
    for _ in 0..30 {
        append(&store, "a", 2).await;
    }
    let late = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (store, late) = (store.clone(), Arc::clone(&late));
        HandleStream::new(move |batch: EventBatch| {
            let stored = store.streams_here()[0].cursor;
            if stored != Some(batch.first_sequence() - 1) {
                late.fetch_add(1, Ordering::SeqCst);
            }
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    let name = DurableStream::new("strict").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(stream.status().handled_batches, 30);
    assert_eq!(
        late.load(Ordering::SeqCst),
        0,
        "batches came before the cursor was stored"
    );
    end(stream).await;
}

pub async fn d3_a_crash_repeats_no_more_than_the_checkpoint_allows(subject: &Subject) {
    for (round, limit) in [1u32, 2, 5].into_iter().enumerate() {
        let dead = subject.open();
        let base = dead.head();
        for _ in 0..20 {
            append(&dead, "a", 1).await;
        }
        let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(13)));
        let name = DurableStream::new(format!("crash-{round}"))
            .start(Start::After(base))
            .checkpoint(every(limit));
        let stream = dead
            .stream_all_durable(&name, recorder.gated(&gate))
            .await
            .unwrap();
        eventually("13 batches are handled", || stream.status().handled_batches == 13).await;
        // To who takes the name over, a stream that hangs is as good as dead.
        let next = subject.open();
        let name = name.ownership(Ownership::TakeOver);
        let again = Recorder::new();
        let resumed = next.stream_all_durable(&name, again.handler()).await.unwrap();
        let repeated = base + 13 - resumed.started_after();
        assert!(
            repeated <= u64::from(limit),
            "{repeated} batches are repeated, {limit} are allowed"
        );
        resumed.caught_up().await.unwrap();
        let expected: Vec<u64> = (resumed.started_after() + 1..=base + 20).collect();
        assert_eq!(again.sequences(), expected);
        gate.add_permits(1_000);
        dead.close().await.unwrap();
        next.close().await.unwrap();
    }
}

/// How often a store looks for other processes' commits, where a test wants many looks.
const POLL: Duration = Duration::from_millis(1);

pub async fn d4_a_query_that_selects_nothing_has_no_lag_and_is_swept_along(subject: &Subject) {
    let stores = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&stores);
    let store = subject.open_faulty(
        |builder| builder.poll_interval(POLL),
        move |point| {
            if point == FaultPoint::AfterCursor {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            false
        },
    );
    let nothing = EventQuery::types(["never"]);
    let stream = store
        .stream_to_durable(&DurableStream::new("idle"), &nothing, takes_all())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    for _ in 0..50 {
        let (_, last) = append(&store, "a", 1).await;
        stream.caught_up().await.unwrap();
        let status = stream.status();
        assert_eq!(
            (status.lag, status.position, status.handled_batches),
            (0, last, 0)
        );
    }
    assert_eq!(stores.load(Ordering::SeqCst), 0, "an idle stream costs no writes");
    append(&store, "a", 10_000).await;
    let written = stores.load(Ordering::SeqCst);
    let many_looks = Instant::now() + 50 * POLL;
    while Instant::now() < many_looks {
        store.query(&nothing).await.unwrap();
    }
    let idle = stores.load(Ordering::SeqCst);
    assert_eq!(idle, written, "nothing is written while nothing is appended");
    eventually("the next groups take the cursor along", || {
        store.append_blocking(events("a", 1)).unwrap();
        cursor(&stream) >= 10_000
    })
    .await;
    assert!(stores.load(Ordering::SeqCst) <= 2, "a sweep is one write");
    assert_eq!(stream.status().lag, 0);
}

pub async fn d4_the_cursor_of_an_idle_stream_is_stored_at_its_end(subject: &Subject) {
    let store = subject.open();
    let nothing = EventQuery::types(["never"]);
    let name = DurableStream::new("idle");
    let stream = store
        .stream_to_durable(&name, &nothing, takes_all())
        .await
        .unwrap();
    for _ in 0..5 {
        append(&store, "a", 1).await;
    }
    eventually("all of it is settled", || stream.status().position == 5).await;
    end(stream).await;
    let store = subject.reopen(store).await;
    let stream = store
        .stream_to_durable(&name, &nothing, takes_all())
        .await
        .unwrap();
    assert_eq!(stream.started_after(), 5);
    let late = DurableStream::new("late");
    let late = store
        .stream_to_durable(&late, &nothing, takes_all())
        .await
        .unwrap();
    late.caught_up().await.unwrap();
    assert_eq!((late.status().lag, late.status().position), (0, 5));
}

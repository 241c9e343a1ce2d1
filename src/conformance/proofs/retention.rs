//! Retention: what `prune` promises.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::{FutureExt, TryStreamExt};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::builder::StoreBuilder;
use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, events, in_time, log, read_all, sequences, takes_all};
use crate::error::{AppendError, ReadError, StopCause, StreamError};
use crate::event::new_event::NewEvent;
use crate::event::query::{EventFilter, EventQuery};
use crate::fault::FaultPoint;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::prune::Prune;
use crate::log::request::ExpectedContext;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::options::DurableStream;

async fn all(store: &Store) -> Vec<u64> {
    sequences(&log(store, &EventQuery::all()).await)
}

async fn end(stream: EventStream) {
    stream.unsubscribe();
    in_time("the stream stops", stream.stopped()).await;
}

/// Batches of three events each.
async fn threes(store: &Store, batches: usize) {
    for _ in 0..batches {
        append(store, "a", 3).await;
    }
}

pub async fn prune_removes_whole_batches_only(subject: &Subject) {
    let store = subject.open();
    threes(&store, 4).await;
    for (before, removed, through) in [(0, 0, 0), (3, 0, 0), (4, 3, 3), (9, 3, 6), (9, 0, 6), (7, 0, 6)] {
        let pruned = store.prune(before).await.unwrap();
        assert_eq!(
            (pruned.removed_events, pruned.pruned_through),
            (removed, through),
            "before {before}"
        );
        assert_eq!(pruned.held_by, None);
        assert_eq!(all(&store).await, (through + 1..=12).collect::<Vec<_>>());
    }
    let later = Prune::older_than(SystemTime::now() + Duration::from_secs(60));
    let earlier = Prune::older_than(SystemTime::now() - Duration::from_secs(60));
    assert_eq!(store.prune(earlier).await.unwrap().removed_events, 0);
    assert_eq!(store.prune(later).await.unwrap().removed_events, 6);
    assert_eq!(all(&store).await, [0; 0]);
}

pub async fn prune_goes_on_over_batches_that_are_larger_than_a_step(subject: &Subject) {
    let store = subject.open();
    for count in [700, 1, 1, 300, 255, 1, 2] {
        append(&store, "a", count).await;
    }
    let pruned = store.prune(1_259).await.unwrap();
    assert_eq!((pruned.removed_events, pruned.pruned_through), (1_258, 1_258));
    assert_eq!(all(&store).await, [1_259, 1_260]);
}

pub async fn prune_gives_no_sequence_again_when_nothing_is_left(subject: &Subject) {
    let store = subject.open();
    threes(&store, 2).await;
    let newest = store.query(&EventQuery::all()).await.unwrap().events[5].recorded_at();
    let pruned = store.prune(u64::MAX).await.unwrap();
    assert_eq!((pruned.removed_events, pruned.pruned_through), (6, 6));
    assert_eq!(store.head(), 6);
    let store = subject.reopen(store).await;
    assert_eq!(store.head(), 6);
    let found = store.query(&EventQuery::all()).await.unwrap();
    assert_eq!((found.head, found.pruned_through, found.events.len()), (6, 6, 0));
    assert_eq!(append(&store, "b", 2).await, (7, 8));
    assert_eq!(all(&store).await, [7, 8]);
    let found = store.query(&EventQuery::all()).await.unwrap();
    assert!(
        found.events[0].recorded_at() >= newest,
        "recorded time does not go back"
    );
}

pub async fn prune_is_held_by_the_slowest_cursor_and_says_so(subject: &Subject) {
    let store = subject.open();
    threes(&store, 4).await;
    let slow = DurableStream::new("slow").start(Start::After(4));
    let fast = DurableStream::new("fast").start(Start::After(9));
    // Whether a stream runs does not matter.
    let gate = Arc::new(Semaphore::new(0));
    end(store.stream_all_durable(&fast, takes_all()).await.unwrap()).await;
    let fast_at = 9;
    let slow = store
        .stream_all_durable(&slow, Recorder::new().gated(&gate))
        .await
        .unwrap();
    // A batch that would stay anyway is held by nobody.
    let pruned = store.prune(6).await.unwrap();
    assert_eq!((pruned.pruned_through, pruned.held_by), (3, None));
    let pruned = store.prune(12).await.unwrap();
    assert_eq!((pruned.removed_events, pruned.pruned_through), (0, 3));
    let held_by = pruned.held_by.expect("somebody holds");
    assert_eq!((held_by.stream.as_deref(), held_by.position), (Some("slow"), 4));
    gate.add_permits(10);
    slow.caught_up().await.unwrap();
    end(slow).await;
    let pruned = store.prune(13).await.unwrap();
    let position = pruned.held_by.as_ref().map_or(12, |held_by| held_by.position);
    assert!(position >= fast_at, "{pruned:?}");
    assert_eq!(pruned.pruned_through, position / 3 * 3);
}

pub async fn prune_is_not_held_by_a_cursor_that_rests_behind_its_stream(subject: &Subject) {
    let store = subject.open();
    let durable = DurableStream::new("idle");
    let stream = store
        .stream_to_durable(&durable, &EventQuery::types(["never"]), takes_all())
        .await
        .unwrap();
    threes(&store, 4).await;
    stream.caught_up().await.unwrap();
    let pruned = store.prune(10).await.unwrap();
    assert_eq!((pruned.pruned_through, pruned.held_by), (9, None));
    end(stream).await;
}

pub async fn prune_is_held_by_a_running_stream_without_a_cursor(subject: &Subject) {
    let store = subject.open();
    threes(&store, 1).await;
    let (gate, recorder) = (Arc::new(Semaphore::new(0)), Recorder::new());
    let stream = store.stream_all(recorder.gated(&gate)).await.unwrap();
    threes(&store, 3).await;
    let pruned = store.prune(u64::MAX).await.unwrap();
    assert_eq!(pruned.pruned_through, 3);
    let held_by = pruned.held_by.expect("somebody holds");
    assert_eq!((held_by.stream, held_by.position), (None, 3));
    gate.add_permits(10);
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (4..=12).collect::<Vec<_>>());
    assert_eq!(store.prune(u64::MAX).await.unwrap().pruned_through, 12);
    end(stream).await;
}

pub async fn prune_past_cursors_is_told_to_the_stream_that_was_passed(subject: &Subject) {
    let store = subject.open();
    threes(&store, 4).await;
    let durable = DurableStream::new("ledger").start(Start::After(3));
    let gate = Arc::new(Semaphore::new(0));
    let stream = store
        .stream_all_durable(&durable, Recorder::new().gated(&gate))
        .await
        .unwrap();
    stream.unsubscribe();
    // The call under way waits for the gate; closing it fails the call, and the cursor stays.
    gate.close();
    in_time("the stream stops", stream.stopped()).await;
    let pruned = store.prune(Prune::before(7).past_cursors()).await.unwrap();
    assert_eq!((pruned.pruned_through, pruned.held_by), (6, None));
    let store = subject.reopen(store).await;
    for choice in [OnMismatch::Refuse, OnMismatch::KeepCursor] {
        let refused = store
            .stream_all_durable(&durable.clone().on_mismatch(choice), takes_all())
            .await;
        assert!(
            matches!(
                refused,
                Err(StreamError::Pruned {
                    position: 3,
                    pruned_through: 6,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    let over = durable.on_mismatch(OnMismatch::StartOver);
    let refused = store.stream_all_durable(&over, takes_all()).await;
    assert!(matches!(refused, Err(StreamError::Pruned { .. })), "{refused:?}");
    let recorder = Recorder::new();
    let over = over.start(Start::Beginning);
    let stream = store.stream_all_durable(&over, recorder.handler()).await.unwrap();
    assert_eq!(stream.started_after(), 6);
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (7..=12).collect::<Vec<_>>());
    end(stream).await;
}

pub async fn prune_stops_a_running_stream_that_needs_what_is_gone(subject: &Subject) {
    // Nothing stays in memory, and a page is a batch.
    let store = subject.open_with(|builder| builder.window_bytes(0).page_batches(1));
    let gate = Arc::new(Semaphore::new(0));
    let recorder = Recorder::new();
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), recorder.gated(&gate))
        .await
        .unwrap();
    // More than is read ahead.
    threes(&store, 40).await;
    let pruned = store.prune(Prune::before(118).past_cursors()).await.unwrap();
    assert_eq!(pruned.pruned_through, 117);
    gate.add_permits(100);
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(
            cause,
            StopCause::Log(ReadError::Pruned {
                pruned_through: 117,
                ..
            })
        ),
        "{cause:?}"
    );
    let seen = recorder.sequences();
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    assert!(seen.len() < 117);
}

pub async fn prune_is_told_to_whoever_starts_before_what_is_left(subject: &Subject) {
    let store = subject.open();
    threes(&store, 4).await;
    let pruned = store.prune(7).await.unwrap();
    assert_eq!(pruned.pruned_through, 6);
    for reader in [
        store.read(&EventQuery::all()).after(5),
        store.follow(&EventQuery::all()).after(5),
    ] {
        let outcomes: Vec<_> = futures::StreamExt::collect::<Vec<_>>(reader).await;
        assert!(
            matches!(
                outcomes[..],
                [Err(ReadError::Pruned {
                    after: 5,
                    pruned_through: 6
                })]
            ),
            "{outcomes:?}"
        );
    }
    let left: Vec<u64> = (7..=12).collect();
    assert_eq!(
        sequences(&read_all(store.read(&EventQuery::all()).after(6)).await),
        left
    );
    assert_eq!(all(&store).await, left);
    let mut follow = store.follow(&EventQuery::all());
    assert_eq!(follow.try_next().await.unwrap().unwrap().first_sequence(), 7);
    let found = store.query(&EventQuery::all()).await.unwrap();
    assert_eq!((found.pruned_through, found.events[0].sequence()), (6, 7));
    let early = DurableStream::new("early").start(Start::After(5));
    let refused = store.stream_all_durable(&early, takes_all()).await;
    assert!(
        matches!(refused, Err(StreamError::Pruned { position: 5, .. })),
        "{refused:?}"
    );
    for (name, start) in [
        ("new", Start::Beginning),
        ("old", Start::At(SystemTime::UNIX_EPOCH)),
    ] {
        let recorder = Recorder::new();
        let durable = DurableStream::new(name).start(start.clone());
        let stream = store
            .stream_all_durable(&durable, recorder.handler())
            .await
            .unwrap();
        assert_eq!(stream.started_after(), 6, "{start:?}");
        stream.caught_up().await.unwrap();
        assert_eq!(recorder.sequences(), left);
        end(stream).await;
    }
}

pub async fn prune_lets_no_append_overlook_what_was_pruned(subject: &Subject) {
    let store = subject.open();
    threes(&store, 2).await;
    let query = EventQuery::types(["a"]);
    let _ = store.prune(u64::MAX).await.unwrap();
    for expected in [ExpectedContext::nothing_after(3), ExpectedContext::version(6)] {
        let refused = store.append_if(events("a", 1), &query, expected).await;
        assert!(
            matches!(refused, Err(AppendError::Conflict { .. })),
            "{refused:?}"
        );
    }
    let context = store.query(&query).await.unwrap();
    assert_eq!(context.context_version, 0);
    let nothing = ExpectedContext::nothing_after(context.head);
    store.append_if(events("a", 1), &query, nothing).await.unwrap();
}

pub async fn prune_holds_up_neither_appends_nor_streams(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 5_000).await;
    for _ in 0..50 {
        append(&store, "a", 40).await;
    }
    let recorder = Recorder::new();
    let stream = store.stream_all(recorder.handler()).await.unwrap();
    let before = store.head();
    let appends = async {
        for _ in 0..50 {
            append(&store, "b", 2).await;
        }
    };
    let (pruned, ()) = tokio::join!(store.prune(before + 1), appends);
    let pruned = pruned.unwrap();
    assert_eq!((pruned.removed_events, pruned.pruned_through), (before, before));
    stream.caught_up().await.unwrap();
    let expected: Vec<u64> = (before + 1..=before + 100).collect();
    assert_eq!(recorder.sequences(), expected);
    assert_eq!(all(&store).await, expected);
    end(stream).await;
}

pub async fn prune_stops_between_two_steps_when_it_is_dropped(subject: &Subject) {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (released, waits) = (Mutex::new(released), Arc::new(AtomicBool::new(false)));
    let hook = Arc::clone(&waits);
    let store = subject.open_faulty(
        |builder| builder,
        move |point| {
            if point == FaultPoint::BeforeCommit && hook.swap(false, Ordering::SeqCst) {
                // An error means that the test is over.
                let _ = released.lock().map(|released| released.recv());
            }
            false
        },
    );
    for _ in 0..20 {
        append(&store, "a", 100).await;
    }
    waits.store(true, Ordering::SeqCst);
    let mut prune = Box::pin(store.prune(u64::MAX));
    assert!(
        prune.as_mut().now_or_never().is_none(),
        "the first step waits in its commit"
    );
    drop(prune);
    release.send(()).unwrap();
    assert_eq!(append(&store, "b", 1).await, (2_001, 2_001));
    assert_eq!(all(&store).await, (201..=2_001).collect::<Vec<_>>());
    let pruned = store.prune(2_001).await.unwrap();
    assert_eq!(pruned.pruned_through, 2_000);
    assert_eq!(all(&store).await, [2_001]);
}

pub async fn a_prune_that_fails_leaves_the_step_undone(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&fails);
    let store = subject.open_faulty(
        |builder| builder,
        move |point| point == FaultPoint::BeforeCommit && hook.load(Ordering::SeqCst),
    );
    threes(&store, 2).await;
    fails.store(true, Ordering::SeqCst);
    let failed = store.prune(u64::MAX).await;
    assert!(failed.is_err(), "{failed:?}");
    fails.store(false, Ordering::SeqCst);
    assert_eq!(all(&store).await, (1..=6).collect::<Vec<_>>());
    assert_eq!(store.prune(4).await.unwrap().pruned_through, 3);
    assert_eq!(all(&store).await, [4, 5, 6]);
    assert_eq!(append(&store, "a", 1).await, (7, 7));
}

pub async fn a_pruned_log_finds_what_is_left_by_type_tag_and_payload(subject: &Subject) {
    let small = |builder: StoreBuilder| {
        // So small an index is spilled and merged by a few batches.
        #[cfg(feature = "sqlite")]
        let builder = crate::internals::with_small_index(builder);
        builder.index_payload("/order")
    };
    let store = subject.open_with(small);
    for batch in 0..60 {
        let events = (1..=5).map(|place| numbered(batch * 5 + place));
        store.append(events).await.unwrap();
        if batch % 3 == 2 {
            finds_all_that_is_left(&store).await;
            // Not all that could go, so that runs of the index are left in part.
            let _ = store.prune(store.head() / 2 + 1).await.unwrap();
            finds_all_that_is_left(&store).await;
        }
    }
    let store = subject.reopen(store).await;
    finds_all_that_is_left(&store).await;
}

/// An event that its sequence says everything about.
fn numbered(sequence: u64) -> NewEvent {
    let event_type = ["a", "b"][sequence as usize % 2];
    NewEvent::new(event_type, json!({ "order": sequence % 7 })).tag(format!("tag:{}", sequence % 5))
}

async fn finds_all_that_is_left(store: &Store) {
    let found = store.query(&EventQuery::all()).await.unwrap();
    let by_order = EventFilter::all().payload(json!({ "order": 4 }));
    for (query, divisor, rest) in [
        (EventQuery::types(["a"]), 2, 0),
        (EventQuery::tags(["tag:3"]), 5, 3),
        (by_order.into(), 7, 4),
    ] {
        let left = found.pruned_through + 1..=found.head;
        let expected: Vec<u64> = left.filter(|sequence| sequence % divisor == rest).collect();
        assert_eq!(sequences(&log(store, &query).await), expected, "{query:?}");
    }
}

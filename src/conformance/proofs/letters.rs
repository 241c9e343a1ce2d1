//! D2, D5: what becomes of events whose handling fails for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{Poison, append_types, by_type, letters, shapes};
use crate::conformance::tools::{Recorder, append, hasty, in_time, takes_all};
use crate::error::{DecodeError, FailureCategory, StopCause};
use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::record::EventRecord;
use crate::fault::FaultPoint;
use crate::log::letter::DeadLetterState;
use crate::stream::failure::FailurePolicy;
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;
use crate::stream::policy::Retry;

use DeadLetterState::{Parked, Queued, Skipped};

pub async fn d5_a_parked_batch_is_in_a_letter_and_the_others_are_handled(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 2).await;
    }
    let (recorder, poison) = (Recorder::new(), Poison::on([3]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 5, 6, 7, 8]);
    assert_eq!(shapes(&store, "ledger").await, [(3, 4, Parked)]);
    let letter = &letters(&store, "ledger").await[0];
    assert_eq!(letter.category, Some(FailureCategory::Error));
    assert_eq!(letter.cause.as_deref(), Some("poisoned by 3"));
    assert_eq!(
        (letter.attempts, letter.event_count(), &letter.key),
        (2, 2, &None)
    );
    assert!(letter.first_failed_at <= letter.last_failed_at);
    let status = stream.status();
    assert_eq!((status.position, status.parked, status.skipped), (8, 1, 0));
    assert_eq!((status.handled_batches, status.failures), (3, 2));
    let (shown, events) = store.dead_letters("ledger").show(3).await.unwrap();
    assert_eq!(&shown, letter);
    let sequences: Vec<u64> = events.iter().map(EventRecord::sequence).collect();
    assert_eq!((sequences, events.last_sequence()), (vec![3, 4], 4));
    stream.unsubscribe();
    stream.stopped().await;
    // The letter and the cursor behind it survive.
    let store = subject.reopen(store).await;
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    assert_eq!((stream.started_after(), stream.status().parked), (8, 1));
    assert_eq!(shapes(&store, "ledger").await, [(3, 4, Parked)]);
}

pub async fn d5_the_event_that_is_named_is_parked_alone(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 6).await;
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([3, 6]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store
        .stream_all_durable(&name, poison.naming(&recorder))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(3, 3, Parked), (6, 6, Parked)]);
    // The handler itself did 1, 2, 4 and 5, as it said with the error.
    assert_eq!(recorder.sequences(), [7]);
    assert_eq!(stream.status().handled_events, 5);
    assert_eq!(stream.status().position, 7);
}

pub async fn d2_a_letter_that_is_not_stored_leaves_the_cursor(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(true));
    let tries = Arc::new(AtomicUsize::new(0));
    let hook = {
        let (fails, tries) = (Arc::clone(&fails), Arc::clone(&tries));
        move |point| {
            point == FaultPoint::BeforeLetter && {
                tries.fetch_add(1, Ordering::SeqCst);
                fails.load(Ordering::SeqCst)
            }
        }
    };
    let store = subject.open_faulty(|builder| builder, hook);
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([2]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::DeadLetterNotStored {
        first_sequence: 2, ..
    } = &cause
    else {
        panic!("expected the letter to be named: {cause:?}");
    };
    assert_eq!(tries.load(Ordering::SeqCst), 5);
    assert_eq!((stream.status().position, stream.status().cursor), (1, Some(1)));
    assert!(letters(&store, "ledger").await.is_empty());
    // What could not be set aside comes again, and appends went on meanwhile.
    append(&store, "a", 1).await;
    fails.store(false, Ordering::SeqCst);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(2, 2, Parked)]);
    assert_eq!(recorder.sequences(), [1, 3]);
}

pub async fn d5_a_letter_that_is_stored_at_the_second_try_is_stored_once(subject: &Subject) {
    let failures = Arc::new(AtomicUsize::new(1));
    let left = Arc::clone(&failures);
    let fails = move |point| {
        point == FaultPoint::BeforeLetter
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
    };
    let store = subject.open_faulty(|builder| builder, fails);
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(failures.load(Ordering::SeqCst), 0);
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked)]);
    assert_eq!(stream.status().parked, 1);
}

pub async fn d5_later_events_of_a_parked_key_queue_across_restarts(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b"]).await;
    append_types(&store, &["a"]).await;
    append_types(&store, &["b", "free", "a", "a", "b"]).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([3]));
    let name = DurableStream::new("ledger").on_failure(by_type());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 4, 5, 8]);
    let parts: Vec<(u64, u64)> = recorder.deliveries().iter().map(|d| (d.first, d.last)).collect();
    assert_eq!(
        parts,
        [(1, 2), (4, 5), (4, 8)],
        "each part has a last sequence of its own"
    );
    assert_eq!(shapes(&store, "ledger").await, [(3, 3, Parked), (6, 7, Queued)]);
    stream.unsubscribe();
    stream.stopped().await;
    let store = subject.reopen(store).await;
    append_types(&store, &["a", "free"]).await;
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 4, 5, 8, 10]);
    let expected = [(3, 3, Parked), (6, 7, Queued), (9, 9, Queued)];
    assert_eq!(shapes(&store, "ledger").await, expected);
    assert_eq!(stream.status().parked, 3);
    // The key is worked off in order, and free then.
    poison.heal();
    recorder.clear();
    let retried = store.dead_letters("ledger").retry_key("a").await.unwrap();
    assert_eq!((retried.handled, retried.failed), (3, 0));
    assert_eq!(recorder.sequences(), [3, 6, 7, 9]);
    append_types(&store, &["a"]).await;
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [3, 6, 7, 9, 11]);
    assert_eq!(stream.status().parked, 0);
    assert!(letters(&store, "ledger").await.is_empty());
}

pub async fn d5_a_failed_batch_of_several_keys_parks_them_all(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "a", "b", "free"]).await;
    append_types(&store, &["free", "b", "a"]).await;
    append_types(&store, &["c"]).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let name = DurableStream::new("ledger").on_failure(by_type());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    let expected = [
        (1, 2, Parked),
        (3, 3, Parked),
        (4, 4, Parked),
        (6, 6, Queued),
        (7, 7, Queued),
    ];
    assert_eq!(shapes(&store, "ledger").await, expected);
    assert_eq!(recorder.sequences(), [5, 8]);
}

pub async fn d5_what_is_skipped_is_recorded_and_counted(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::skip());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(1, 2, Skipped)]);
    assert_eq!((stream.status().skipped, stream.status().parked), (1, 0));
    assert_eq!(recorder.sequences(), [3]);
    // Records are left alone, unless one is meant.
    poison.heal();
    let dead_letters = store.dead_letters("ledger");
    assert_eq!(dead_letters.retry_all().await.unwrap().handled, 0);
    dead_letters.retry(1).await.unwrap();
    assert_eq!(recorder.sequences(), [3, 1, 2]);
    assert_eq!(stream.status().skipped, 0);
}

pub async fn d5_what_cannot_be_decoded_stops_the_stream_unless_told_otherwise(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    store.append([NewEvent::new("a", "no number")]).await.unwrap();
    append(&store, "a", 1).await;
    let recorder = Recorder::new();
    let handler = {
        let recorder = recorder.clone();
        HandleStream::new(move |batch: EventBatch| {
            let recorder = recorder.clone();
            async move {
                for event in &batch {
                    event.payload().decode::<u64>()?;
                }
                recorder.write(&batch);
                Ok::<_, DecodeError>(())
            }
        })
    };
    let handler = handler.retry(Retry::never());
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::skip());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let undecodable = FailureCategory::Undecodable;
    assert!(
        matches!(cause, StopCause::HandlerFailed { last_sequence: 2, category, .. } if category == undecodable),
        "{cause:?}"
    );
    let name = name.on(undecodable, FailurePolicy::park());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 3]);
    assert_eq!(letters(&store, "ledger").await[0].category, Some(undecodable));
}

pub async fn d5_a_call_that_takes_too_long_is_dropped_and_has_failed(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (recorder, calls) = (recorder.clone(), Arc::clone(&calls));
        HandleStream::new(move |batch: EventBatch| {
            let (recorder, gate) = (recorder.clone(), Arc::clone(&gate));
            let calls = Arc::clone(&calls);
            async move {
                if batch.last_sequence() == 1 {
                    calls.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await?.forget();
                }
                recorder.write(&batch);
                Ok::<_, tokio::sync::AcquireError>(())
            }
        })
    };
    let handler = handler
        .timeout(Duration::from_millis(20))
        .retry(hasty().attempts_max(2));
    let name = DurableStream::new("ledger").on(FailureCategory::Timeout, FailurePolicy::park());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    in_time("the stream goes on", stream.caught_up()).await.unwrap();
    assert_eq!((recorder.sequences(), calls.load(Ordering::SeqCst)), (vec![2], 2));
    let letter = &letters(&store, "ledger").await[0];
    assert_eq!(letter.category, Some(FailureCategory::Timeout));
    assert!(letter.cause.as_deref().unwrap().contains("20ms"), "{letter:?}");
}

pub async fn d5_when_most_fail_the_stream_stops_instead(subject: &Subject) {
    let store = subject.open();
    for _ in 0..40 {
        append(&store, "a", 1).await;
    }
    let (recorder, poison) = (Recorder::new(), Poison::on((1..=40).filter(|n| n % 3 != 0)));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(
            cause,
            StopCause::MostFail {
                set_aside: 11,
                of: 20,
                ..
            }
        ),
        "{cause:?}"
    );
    // 1, 2, 4, 5, 7, 8, 10, 11, 13, 14 are parked, and 16 is the eleventh.
    assert_eq!(letters(&store, "ledger").await.len(), 10);
    assert_eq!(stream.status().cursor, Some(15));
    poison.heal();
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(stream.status().parked, 10);
}

pub async fn d5_over_the_limits_the_stream_stops(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a"]).await;
    for _ in 0..6 {
        append_types(&store, &["free"]).await;
    }
    append_types(&store, &["a"]).await;
    append_types(&store, &["b"]).await;
    let recorder = Recorder::new();
    let poison = Poison::on([1, 9]);
    let handler = poison.handler(&recorder);
    for (name, policy, position, option) in [
        ("few letters", by_type().letters_max(1), 7, "letters_max"),
        ("few keys", by_type().keys_max(1), 8, "keys_max"),
    ] {
        let durable = DurableStream::new(name).on_failure(policy);
        let stream = store.stream_all_durable(&durable, handler.clone()).await.unwrap();
        let cause = in_time("the stream stops", stream.stopped()).await;
        assert_eq!(stream.status().cursor, Some(position), "{cause}");
        let StopCause::DeadLettersFull {
            found,
            max,
            option: named,
            ..
        } = cause
        else {
            panic!("expected the limit to be named: {cause:?}");
        };
        assert_eq!((found, max, named), (2, 1, option));
    }
}

pub async fn d5_a_closure_for_keys_that_panics_stops_the_stream(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let policy = FailurePolicy::park_key(|_| panic!("no key"));
    let name = DurableStream::new("ledger").on_failure(policy);
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::KeyPanicked(text) if &**text == "no key"),
        "{cause:?}"
    );
    assert_eq!(stream.status().cursor, Some(0));
}

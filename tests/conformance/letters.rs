//! D2, D5, D6: what becomes of events whose handling fails for good.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use millstream::internals::FaultPoint;
use millstream::{
    DeadLetter, DeadLetterError, DeadLetterState, DurableStream, EventBatch, EventQuery, EventRecord,
    FailureCategory, FailurePolicy, HandleStream, HandlerError, NewEvent, OnMismatch, Prune, Retry, Start,
    StopCause, Store, StreamState,
};
use tokio::sync::Semaphore;

use crate::common::{Recorder, append, eventually, hasty, in_time, takes_all};
use crate::subject::Subject;

use DeadLetterState::{Parked, Queued, Skipped};

/// Which events a handler fails on, to be changed while it runs.
#[derive(Clone, Default)]
struct Poison(Arc<Mutex<BTreeSet<u64>>>);

impl Poison {
    fn on(sequences: impl IntoIterator<Item = u64>) -> Self {
        Self(Arc::new(Mutex::new(sequences.into_iter().collect())))
    }

    fn add(&self, sequence: u64) {
        self.0.lock().unwrap().insert(sequence);
    }

    fn heal(&self) {
        self.0.lock().unwrap().clear();
    }

    fn first_in(&self, batch: &EventBatch) -> Option<u64> {
        let poisoned = self.0.lock().unwrap();
        let mut sequences = batch.iter().map(EventRecord::sequence);
        sequences.find(|sequence| poisoned.contains(sequence))
    }

    /// A handler that fails on a batch with a poisoned event, and writes the others down.
    fn handler(&self, recorder: &Recorder) -> HandleStream {
        let (poison, recorder) = (self.clone(), recorder.clone());
        let handler = HandleStream::new(move |batch: EventBatch| {
            let failed = poison.first_in(&batch);
            if failed.is_none() {
                recorder.write(&batch);
            }
            async move { failed.map_or(Ok(()), |sequence| Err(format!("poisoned by {sequence}"))) }
        });
        handler.retry(hasty().attempts_max(2))
    }

    /// A handler that takes the events one by one, and says which of them it fails on.
    fn naming(&self, recorder: &Recorder) -> HandleStream {
        let (poison, recorder) = (self.clone(), recorder.clone());
        let handler = HandleStream::new(move |batch: EventBatch| {
            let failed = poison.first_in(&batch);
            if failed.is_none() {
                recorder.write(&batch);
            }
            async move { failed.map_or(Ok(()), |sequence| Err(HandlerError::at(sequence, "poisoned"))) }
        });
        handler.retry(Retry::never())
    }
}

/// The key of an event is its type, in these tests; `free` events have none.
fn by_type() -> FailurePolicy {
    FailurePolicy::park_key(|event| (event.event_type() != "free").then(|| event.event_type().to_owned()))
}

async fn letters(store: &Store, name: &str) -> Vec<DeadLetter> {
    store.dead_letters(name).list().try_collect().await.unwrap()
}

/// Where each letter begins and ends, and what it waits for.
async fn shapes(store: &Store, name: &str) -> Vec<(u64, u64, DeadLetterState)> {
    let letters = letters(store, name).await;
    let shape = |letter: &DeadLetter| (letter.first_sequence, letter.last_sequence, letter.state);
    letters.iter().map(shape).collect()
}

async fn append_types(store: &Store, types: &[&str]) {
    let events = types.iter().map(|name| NewEvent::new(*name, 1));
    store.append(events).await.unwrap();
}

pub(crate) async fn d5_a_parked_batch_is_in_a_letter_and_the_others_are_handled(subject: &Subject) {
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

pub(crate) async fn d5_the_event_that_is_named_is_parked_alone(subject: &Subject) {
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

pub(crate) async fn d2_a_letter_that_is_not_stored_leaves_the_cursor(subject: &Subject) {
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

pub(crate) async fn d5_a_letter_that_is_stored_at_the_second_try_is_stored_once(subject: &Subject) {
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

pub(crate) async fn d5_later_events_of_a_parked_key_queue_across_restarts(subject: &Subject) {
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

pub(crate) async fn d5_a_failed_batch_of_several_keys_parks_them_all(subject: &Subject) {
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

pub(crate) async fn d5_what_is_skipped_is_recorded_and_counted(subject: &Subject) {
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

pub(crate) async fn d5_what_cannot_be_decoded_stops_the_stream_unless_told_otherwise(subject: &Subject) {
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
                Ok::<_, millstream::DecodeError>(())
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

pub(crate) async fn d5_a_call_that_takes_too_long_is_dropped_and_has_failed(subject: &Subject) {
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

pub(crate) async fn d5_when_most_fail_the_stream_stops_instead(subject: &Subject) {
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

pub(crate) async fn d5_over_the_limits_the_stream_stops(subject: &Subject) {
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

pub(crate) async fn d5_a_closure_for_keys_that_panics_stops_the_stream(subject: &Subject) {
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

pub(crate) async fn d5_a_retry_removes_its_letter_and_never_moves_the_cursor(subject: &Subject) {
    let store = subject.open();
    for _ in 0..3 {
        append(&store, "a", 2).await;
    }
    let (recorder, poison) = (Recorder::new(), Poison::on([1, 3]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let dead_letters = store.dead_letters("ledger");
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    stream.caught_up().await.unwrap();
    let again = dead_letters.retry(3).await;
    assert!(
        matches!(
            again,
            Err(DeadLetterError::HandlerFailed {
                first_sequence: 3,
                ..
            })
        ),
        "{again:?}"
    );
    assert_eq!(letters(&store, "ledger").await[1].attempts, 3);
    poison.heal();
    dead_letters.retry(3).await.unwrap();
    assert_eq!(recorder.sequences(), [5, 6, 3, 4]);
    assert_eq!((stream.status().position, stream.status().parked), (6, 1));
    assert!(matches!(
        dead_letters.retry(3).await,
        Err(DeadLetterError::NotFound { .. })
    ));
    // Nor does a letter that is discarded.
    dead_letters.discard(1, "the order was cancelled").await.unwrap();
    assert!(matches!(
        dead_letters.discard(1, "twice").await,
        Err(DeadLetterError::NotFound { .. })
    ));
    assert_eq!((stream.status().position, stream.status().parked), (6, 0));
    stream.unsubscribe();
    stream.stopped().await;
    let stopped = dead_letters.retry(1).await;
    assert!(
        matches!(stopped, Err(DeadLetterError::NotRunning { .. })),
        "{stopped:?}"
    );
    let store = subject.reopen(store).await;
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    assert_eq!(stream.started_after(), 6);
}

pub(crate) async fn d5_letters_of_a_key_are_retried_in_order_only(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a"]).await;
    append_types(&store, &["b"]).await;
    append_types(&store, &["a"]).await;
    append_types(&store, &["free"]).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1, 2, 4]));
    let name = DurableStream::new("ledger").on_failure(by_type());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    let dead_letters = store.dead_letters("ledger");
    let early = dead_letters.retry(3).await;
    assert!(
        matches!(
            early,
            Err(DeadLetterError::NotFirstOfKey {
                first_sequence: 3,
                first: 1,
                ..
            })
        ),
        "{early:?}"
    );
    poison.heal();
    poison.add(1);
    let retried = dead_letters.retry_all().await.unwrap();
    assert_eq!((retried.handled, retried.failed, retried.waiting), (2, 1, 1));
    let first = retried.first_failure.unwrap();
    assert!(
        matches!(
            first,
            DeadLetterError::HandlerFailed {
                first_sequence: 1,
                ..
            }
        ),
        "{first:?}"
    );
    assert_eq!(
        recorder.sequences(),
        [2, 4],
        "the other key, and what has none, went on"
    );
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked), (3, 3, Queued)]);
    let retried = dead_letters.retry_key("a").await.unwrap();
    assert_eq!((retried.handled, retried.failed), (0, 1));
    // Without its first letter the key is still parked.
    dead_letters.discard(1, "it will never work").await.unwrap();
    append_types(&store, &["a"]).await;
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(3, 3, Queued), (5, 5, Queued)]);
    assert_eq!(dead_letters.retry_key("a").await.unwrap().handled, 2);
    assert_eq!(recorder.sequences(), [2, 4, 3, 5]);
}

pub(crate) async fn d5_what_comes_while_its_key_is_worked_off_keeps_the_order(subject: &Subject) {
    let store = subject.open();
    let (recorder, poison) = (Recorder::new(), Poison::default());
    let name = DurableStream::new("ledger").on_failure(by_type());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    let dead_letters = store.dead_letters("ledger");
    for _ in 0..20 {
        let first = store.head() + 1;
        poison.add(first);
        append_types(&store, &["a"]).await;
        stream.caught_up().await.unwrap();
        append_types(&store, &["a"]).await;
        poison.heal();
        let appending = async {
            for _ in 0..15 {
                append_types(&store, &["a", "free"]).await;
            }
        };
        let working_off = async {
            // The key is free in between, and whatever comes then is handled at once.
            for _ in 0..5 {
                let retried = dead_letters.retry_key("a").await.unwrap();
                assert_eq!(retried.failed, 0);
            }
        };
        tokio::join!(appending, working_off);
        stream.caught_up().await.unwrap();
        let retried = dead_letters.retry_key("a").await.unwrap();
        assert_eq!(retried.failed, 0);
        assert!(letters(&store, "ledger").await.is_empty());
    }
    let found = store.query(&EventQuery::types(["a"])).await.unwrap();
    let of_key: Vec<u64> = found.events.iter().map(EventRecord::sequence).collect();
    let keys: BTreeSet<u64> = of_key.iter().copied().collect();
    let handled = recorder.sequences();
    let of_key_handled: Vec<u64> = handled.iter().copied().filter(|n| keys.contains(n)).collect();
    assert_eq!(
        of_key_handled, of_key,
        "the key's order is the log's, each event once"
    );
    assert_eq!(handled.len() as u64, store.head());
}

pub(crate) async fn s2_a_retry_does_not_overlap_the_streams_own_calls(subject: &Subject) {
    let store = subject.open();
    let at_work = Arc::new(AtomicUsize::new(0));
    let overlaps = Arc::new(AtomicUsize::new(0));
    let poison = Poison::on([1]);
    let handler = {
        let (at_work, overlaps, poison) = (Arc::clone(&at_work), Arc::clone(&overlaps), poison.clone());
        HandleStream::new(move |batch: EventBatch| {
            let (at_work, overlaps) = (Arc::clone(&at_work), Arc::clone(&overlaps));
            let failed = poison.first_in(&batch).is_some();
            async move {
                overlaps.fetch_add(at_work.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                at_work.fetch_sub(1, Ordering::SeqCst);
                if failed { Err("no") } else { Ok(()) }
            }
        })
    };
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = handler.retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    append(&store, "a", 1).await;
    stream.caught_up().await.unwrap();
    let dead_letters = store.dead_letters("ledger");
    let appending = async {
        for _ in 0..200 {
            append(&store, "a", 1).await;
        }
    };
    let retrying = async {
        for _ in 0..50 {
            assert!(dead_letters.retry(1).await.is_err());
        }
    };
    tokio::join!(appending, retrying);
    stream.caught_up().await.unwrap();
    assert_eq!(overlaps.load(Ordering::SeqCst), 0);
}

pub(crate) async fn s7_a_stream_has_stopped_when_no_retry_runs(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let gate = Arc::new(Semaphore::new(0));
    let (is_parked, runs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, is_parked, runs) = (Arc::clone(&gate), Arc::clone(&is_parked), Arc::clone(&runs));
        HandleStream::new(move |_| {
            let (gate, runs) = (Arc::clone(&gate), Arc::clone(&runs));
            let waits = is_parked.swap(true, Ordering::SeqCst);
            async move {
                if !waits {
                    return Err("no");
                }
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.map_err(|_| "closed")?.forget();
                runs.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
    };
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = handler.retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    let dead_letters = store.dead_letters("ledger");
    let retry = tokio::spawn(async move { dead_letters.retry(1).await });
    eventually("the retry is under way", || runs.load(Ordering::SeqCst) == 1).await;
    assert!(stream.status().call_running_for.is_some(), "a letter that hangs is seen");
    stream.unsubscribe();
    let early = tokio::time::timeout(Duration::from_millis(50), stream.stopped()).await;
    assert!(
        early.is_err(),
        "the stream has not stopped while its handler runs: {early:?}"
    );
    gate.add_permits(1);
    in_time("the stream stops", stream.stopped()).await;
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    retry.await.unwrap().unwrap();
}

pub(crate) async fn d7_a_stream_that_starts_over_has_no_letters_of_what_comes_again(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    let (recorder, poison) = (Recorder::new(), Poison::on([1, 3]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = poison.handler(&recorder);
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(letters(&store, "ledger").await.len(), 2);
    stream.unsubscribe();
    stream.stopped().await;
    poison.heal();
    let over = name.start(Start::After(2)).on_mismatch(OnMismatch::StartOver);
    let changed = EventQuery::types(["a", "b"]);
    let stream = store.stream_to_durable(&over, &changed, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked)]);
    assert_eq!(recorder.sequences(), [2, 4, 3, 4]);
}

pub(crate) async fn prune_is_held_by_the_oldest_letter_that_waits(subject: &Subject) {
    let store = subject.open();
    for _ in 0..6 {
        append(&store, "a", 1).await;
    }
    let poison = Poison::on([1, 3]);
    let name = DurableStream::new("ledger")
        .on_failure(FailurePolicy::park())
        .on(FailureCategory::Panic, FailurePolicy::skip());
    let handler = {
        let poison = poison.clone();
        HandleStream::new(move |batch: EventBatch| {
            let failed = poison.first_in(&batch);
            assert_ne!(failed, Some(1), "the first one is skipped");
            async move { failed.map_or(Ok(()), |_| Err("no")) }
        })
    };
    let handler = handler.retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Skipped), (3, 3, Parked)]);
    let pruned = store.prune(7).await.unwrap();
    assert_eq!(pruned.pruned_through, 2);
    let held_by = pruned.held_by.unwrap();
    assert_eq!(
        (held_by.stream.as_deref(), held_by.dead_letter),
        (Some("ledger"), Some(3))
    );
    // Who goes past cursors does not go past letters unasked.
    let pruned = store.prune(Prune::before(7).past_cursors()).await.unwrap();
    assert_eq!(pruned.pruned_through, 2);
    let pruned = store
        .prune(Prune::before(7).past_cursors().past_dead_letters())
        .await
        .unwrap();
    assert_eq!((pruned.pruned_through, pruned.held_by), (6, None));
    let gone = store.dead_letters("ledger").show(3).await;
    assert!(matches!(gone, Err(DeadLetterError::Read(_))), "{gone:?}");
    let retried = store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!((retried.handled, retried.failed), (0, 1));
    assert!(matches!(
        stream.status().state,
        StreamState::Live | StreamState::CatchingUp
    ));
}

pub(crate) async fn d6_who_lost_the_name_sets_nothing_aside(subject: &Subject) {
    let (one, other) = (subject.open(), subject.open());
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        HandleStream::new(move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.map_err(|_| "closed")?.forget();
                Err("no")
            }
        })
    };
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = handler.retry(Retry::never());
    let lost = one.stream_all_durable(&name, handler).await.unwrap();
    append(&one, "a", 1).await;
    eventually("the handler is called", || {
        lost.status().call_running_for.is_some()
    })
    .await;
    let recorder = Recorder::new();
    let owner = other.stream_all_durable(&name, recorder.handler()).await.unwrap();
    recorder.batches(1).await;
    gate.add_permits(1);
    let cause = in_time("the stream stops", lost.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert!(letters(&one, "ledger").await.is_empty());
    owner.caught_up().await.unwrap();
}

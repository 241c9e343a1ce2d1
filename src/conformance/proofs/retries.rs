//! D5, D6, S2, S7: letters that are retried and discarded, and who holds or keeps them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{Poison, append_types, by_type, letters, shapes};
use crate::conformance::tools::{Recorder, append, eventually, in_time};
use crate::error::{DeadLetterError, FailureCategory, StopCause};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::letter::DeadLetterState;
use crate::log::owner::Ownership;
use crate::log::prune::Prune;
use crate::stream::failure::FailurePolicy;
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;
use crate::stream::policy::Retry;
use crate::stream::status::StreamState;

use DeadLetterState::{Parked, Queued, Skipped};

pub async fn d5_a_retry_removes_its_letter_and_never_moves_the_cursor(subject: &Subject) {
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

pub async fn d5_letters_of_a_key_are_retried_in_order_only(subject: &Subject) {
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

pub async fn d5_what_comes_while_its_key_is_worked_off_keeps_the_order(subject: &Subject) {
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

pub async fn s2_a_retry_does_not_overlap_the_streams_own_calls(subject: &Subject) {
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

pub async fn s7_a_stream_has_stopped_when_no_retry_runs(subject: &Subject) {
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
    let is_seen = || stream.status().call_running_for.is_some();
    assert!(is_seen(), "a letter that hangs is seen");
    let control = store.stream("ledger").await.unwrap();
    control.pause("the proof").await.unwrap();
    let is_paused = || matches!(stream.status().state, StreamState::Paused { .. });
    eventually("the stream is paused", is_paused).await;
    assert!(
        is_seen(),
        "a letter that hangs is seen while its stream is paused"
    );
    control.resume().await.unwrap();
    let is_live = || matches!(stream.status().state, StreamState::Live);
    eventually("the stream is live", is_live).await;
    assert!(is_seen(), "a letter that hangs is seen while its stream is live");
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

pub async fn d7_a_stream_that_starts_over_has_no_letters_of_what_comes_again(subject: &Subject) {
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

pub async fn prune_is_held_by_the_oldest_letter_that_waits(subject: &Subject) {
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

pub async fn d6_who_lost_the_name_sets_nothing_aside(subject: &Subject) {
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
    let name = name.ownership(Ownership::TakeOver);
    let owner = other.stream_all_durable(&name, recorder.handler()).await.unwrap();
    recorder.batches(1).await;
    gate.add_permits(1);
    let cause = in_time("the stream stops", lost.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert!(letters(&one, "ledger").await.is_empty());
    owner.caught_up().await.unwrap();
}

//! D1, D3, D5, D9: streams that handle several keys at once, steered and restarted.

use std::time::Duration;

use crate::conformance::subject::Subject;
use crate::conformance::tools::hands::{Hands, key_of, keyed};
use crate::conformance::tools::poison::append_types;
use crate::conformance::tools::{append, eventually, hasty, in_time};
use crate::error::{FailureCategory, StopCause};
use crate::log::steer::{ExpectedCursor, Reset};
use crate::stream::failure::FailurePolicy;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;
use crate::stream::status::StreamState;

pub async fn d9_a_pause_waits_for_the_calls_and_repeats_nothing_of_the_run(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "c", "d"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    hands.fail("b");
    hands.fail("c");
    let name = keyed("ledger", 2)
        .on_failure(FailurePolicy::park())
        .on(FailureCategory::Panic, FailurePolicy::stop());
    let slow = Retry::default()
        .attempts_max(2)
        .delay_min(Duration::from_secs(3600));
    let handler = hands
        .handler()
        .retry(slow.elapsed_max(Duration::from_secs(86_400)));
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    hands.took(&[4]).await;
    eventually("two wait to be tried again", || stream.status().failures == 2).await;
    let control = store.stream("ledger").await.unwrap();
    control.pause("anna").await.unwrap();
    append(&store, "e", 1).await;
    assert!(
        !matches!(stream.status().state, StreamState::Paused { .. }),
        "a call is under way"
    );
    hands.let_go("a");
    eventually("it is paused", || {
        matches!(stream.status().state, StreamState::Paused { .. })
    })
    .await;
    let status = stream.status();
    assert_eq!(
        (status.position, status.cursor, status.calls_under_way),
        (1, Some(1), 0)
    );
    assert_eq!(hands.taken(), [4, 1]);
    hands.heal("b");
    hands.heal("c");
    control.resume().await.unwrap();
    stream.caught_up().await.unwrap();
    let mut taken = hands.taken();
    taken.sort_unstable();
    // 4 was handled before the pause, and is not handled again in the same run (S3).
    assert_eq!(taken, [1, 2, 3, 4, 5]);
}

pub async fn d9_after_a_word_what_failed_is_tried_at_once(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    hands.fail("b");
    let slow = Retry::default()
        .delay_min(Duration::from_secs(3600))
        .elapsed_max(Duration::from_secs(86_400));
    let stream = store
        .stream_all_durable(&keyed("ledger", 2), hands.handler().retry(slow))
        .await
        .unwrap();
    eventually("b waits to be tried again", || stream.status().failures == 1).await;
    // The pause is taken back before the call under way lets the stream heed it.
    let control = store.stream("ledger").await.unwrap();
    control.pause("anna").await.unwrap();
    control.resume().await.unwrap();
    hands.heal("b");
    hands.let_go("a");
    in_time("b is tried again", stream.caught_up()).await.unwrap();
    assert_eq!(hands.taken(), [1, 2]);
}

pub async fn d9_a_reset_waits_for_the_calls_and_begins_a_new_run(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "c"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("b");
    let stream = store
        .stream_all_durable(&keyed("ledger", 3), hands.handler())
        .await
        .unwrap();
    hands.took(&[1, 3]).await;
    let control = store.stream("ledger").await.unwrap();
    control
        .reset(Reset::Beginning, ExpectedCursor::anywhere())
        .await
        .unwrap();
    hands.let_go("b");
    eventually("all is handled again", || hands.taken().len() == 6).await;
    stream.caught_up().await.unwrap();
    assert_eq!((stream.status().position, hands.taken().len()), (3, 6));
}

pub async fn d9_the_batch_that_stands_failed_is_skipped(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "c"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.fail("b");
    let handler = hands.handler().retry(hasty().attempts_max(u32::MAX));
    let stream = store
        .stream_all_durable(&keyed("ledger", 3), handler)
        .await
        .unwrap();
    hands.took(&[1, 3]).await;
    let control = store.stream("ledger").await.unwrap();
    eventually("the cursor is before what fails", || {
        stream.status().cursor == Some(1)
    })
    .await;
    let skipped = control.skip_batch(1, "somebody").await.unwrap();
    assert_eq!((skipped.first_sequence, skipped.last_sequence), (2, 2));
    stream.caught_up().await.unwrap();
    assert!(!hands.taken().contains(&2));
    assert_eq!(stream.status().position, 3);
}

pub async fn d3_the_checkpoint_and_the_lookahead_bound_what_is_repeated(subject: &Subject) {
    let store = subject.open();
    for number in 0..40 {
        append(&store, ["a", "b", "c", "d"][number % 4], 1).await;
    }
    let hands = Hands::default();
    let checkpoint = Checkpoint::Every {
        batches: 3,
        within: Duration::from_secs(3600),
    };
    let name = keyed("ledger", 4).checkpoint(checkpoint).lookahead(6);
    let stream = store.stream_all_durable(&name, hands.handler()).await.unwrap();
    let mut worst = 0;
    loop {
        // Asked before, the cursor is no further than it is.
        let cursor = stream.status().cursor.unwrap();
        let furthest = hands.work().begun.iter().max().copied().unwrap_or(0);
        worst = worst.max(furthest.saturating_sub(stream.status().cursor.unwrap().max(cursor)));
        if furthest == 40 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(worst <= 3 + 6, "{worst} batches would be repeated");
    stream.caught_up().await.unwrap();
}

pub async fn d1_the_number_of_workers_may_change_between_runs(subject: &Subject) {
    let store = subject.open();
    let hands = Hands::default();
    for (run, workers) in [1, 16, 3, 1_024, 1].into_iter().enumerate() {
        let stream = store
            .stream_all_durable(&keyed("ledger", workers), hands.handler())
            .await
            .unwrap();
        assert_eq!(stream.started_after(), 20 * run as u64);
        for _ in 0..5 {
            append_types(&store, &["a", "b", "free", "a"]).await;
        }
        stream.caught_up().await.unwrap();
        stream.unsubscribe();
        stream.stopped().await;
    }
    // And no workers at all, which is as good.
    let plain = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&plain, hands.handler()).await.unwrap();
    assert_eq!((stream.started_after(), hands.taken().len()), (100, 100));
}

pub async fn d5_a_closure_that_panics_stops_a_partitioned_stream(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b"]).await;
    append(&store, "c", 1).await;
    let hands = Hands::default();
    let name = DurableStream::new("ledger").partition_by(2, |event| {
        assert_ne!(event.event_type(), "c", "no key");
        key_of(event)
    });
    let stream = store.stream_all_durable(&name, hands.handler()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(&cause, StopCause::PartitionPanicked(text) if text.contains("no key")),
        "{cause:?}"
    );
    assert!(stream.status().cursor <= Some(2));
}

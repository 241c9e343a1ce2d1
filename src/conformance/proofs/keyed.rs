//! S2, S3, S7, D2, D3, D5, D9: streams that handle several keys at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::conformance::subject::Subject;
use crate::conformance::tools::hands::{Hands, key_of, keyed, park_key};
use crate::conformance::tools::poison::{append_types, shapes};
use crate::conformance::tools::{append, eventually, hasty, in_time};
use crate::error::StopCause;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::fault::FaultPoint;
use crate::log::letter::DeadLetterState;
use crate::log::owner::Ownership;
use crate::stream::failure::FailurePolicy;
use crate::stream::policy::Retry;
use crate::stream::status::StreamState;

use DeadLetterState::{Parked, Queued, Skipped};

pub async fn s2_keys_are_in_order_with_one_call_at_a_time(subject: &Subject) {
    let store = subject.open_with(|builder| builder.page_batches(3).window_bytes(2_000));
    let types = ["a", "b", "free", "c", "a", "a", "free", "b"];
    for batch in 0..60 {
        let count = 1 + batch % 5;
        let names: Vec<_> = (0..count)
            .map(|index| types[(batch * 3 + index) % types.len()])
            .collect();
        append_types(&store, &names).await;
    }
    let hands = Hands::default();
    let stream = store
        .stream_all_durable(&keyed("ledger", 4), hands.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let work = hands.work();
    assert!(work.most_under_way > 1, "keys were handled at once");
    assert_eq!(stream.status().handled_events, store.head());
    let events = store.query(&EventQuery::all()).await.unwrap().events;
    let key = |sequence: &u64| key_of(&events[*sequence as usize - 1]);
    for name in [Some("a"), Some("b"), Some("c"), None] {
        let of_key = |sequence: &&u64| key(sequence).as_deref() == name;
        let taken: Vec<u64> = work.taken.iter().filter(of_key).copied().collect();
        let all = events.iter().map(EventRecord::sequence).collect::<Vec<_>>();
        let expected: Vec<u64> = all.iter().filter(of_key).copied().collect();
        assert_eq!(taken, expected, "{name:?}");
    }
    assert_eq!((stream.status().position, stream.status().lag), (store.head(), 0));
}

pub async fn s1_a_call_gets_the_events_of_one_key_of_one_batch(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b", "a", "free"]).await;
    append_types(&store, &["a", "a"]).await;
    let hands = Hands::default();
    let stream = store
        .stream_all_durable(&keyed("ledger", 1), hands.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let work = hands.work();
    assert_eq!(work.taken, [1, 3, 2, 4, 5, 6]);
    // Each part has a range of its own, so that its last sequence is a key of its own.
    assert_eq!(work.ranges, [(1, 3), (2, 2), (4, 4), (5, 6)]);
    assert_eq!((stream.status().handled_batches, work.most_under_way), (4, 1));
}

pub async fn d2_a_key_that_retries_holds_the_cursor_and_no_other_key(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["b", "a"]).await;
    append_types(&store, &["a", "b"]).await;
    let hands = Hands::default();
    hands.fail("a");
    let stream = store
        .stream_all_durable(&keyed("ledger", 2), hands.handler().retry(hasty()))
        .await
        .unwrap();
    hands.took(&[1, 4]).await;
    for _ in 0..5 {
        append(&store, "b", 1).await;
    }
    in_time("the other key goes on", hands.took(&[5, 6, 7, 8, 9])).await;
    let status = stream.status();
    assert_eq!((status.position, status.lag), (1, 8));
    assert!(matches!(status.state, StreamState::Retrying { .. }), "{status:?}");
    assert!(
        store
            .stream("ledger")
            .await
            .unwrap()
            .status()
            .await
            .unwrap()
            .cursor
            <= Some(1)
    );
    hands.heal("a");
    stream.caught_up().await.unwrap();
    assert_eq!(hands.taken().len(), 9);
    assert_eq!(stream.status().position, 9);
}

pub async fn s3_a_commit_while_calls_are_under_way_is_seen(subject: &Subject) {
    // No look at the poll interval comes to help.
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(3600)));
    let hands = Hands::default();
    hands.hold("a");
    let stream = store
        .stream_all_durable(&keyed("ledger", 3), hands.handler())
        .await
        .unwrap();
    append(&store, "a", 1).await;
    hands.begun(1).await;
    for sequence in 2..20 {
        append(&store, "b", 1).await;
        in_time("what was committed is handled", hands.took(&[sequence])).await;
    }
    eventually("one call is under way", || stream.status().calls_under_way == 1).await;
    let status = stream.status();
    assert_eq!((status.position, status.head), (0, 19));
    assert!(status.call_running_for.is_some() && status.oldest_unhandled.is_some());
    hands.let_go("a");
    stream.caught_up().await.unwrap();
    let status = stream.status();
    assert_eq!((status.position, status.calls_under_way), (19, 0));
    assert!(matches!(status.state, StreamState::Live), "{status:?}");
}

pub async fn s5_the_lookahead_bounds_how_far_other_keys_get(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    for _ in 0..20 {
        append(&store, "b", 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    let stream = store
        .stream_all_durable(&keyed("ledger", 2).lookahead(5), hands.handler())
        .await
        .unwrap();
    hands.took(&[2, 3, 4, 5]).await;
    // A second stream that is started later and gets to the head shows that there was time for more.
    let other = Hands::default();
    let second = store
        .stream_all_durable(&keyed("second", 2), other.handler())
        .await
        .unwrap();
    second.caught_up().await.unwrap();
    assert_eq!(hands.taken(), [2, 3, 4, 5]);
    hands.let_go("a");
    stream.caught_up().await.unwrap();
    assert_eq!(hands.taken().len(), 21);
}

pub async fn s7_no_call_starts_after_unsubscribe_and_none_runs_after_stopped(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "c", "a", "d"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    hands.hold("b");
    let name = keyed("ledger", 2);
    let stream = store.stream_all_durable(&name, hands.handler()).await.unwrap();
    hands.begun(2).await;
    stream.unsubscribe();
    let early = tokio::time::timeout(Duration::from_millis(50), stream.stopped()).await;
    assert!(early.is_err(), "calls are under way: {early:?}");
    hands.let_go("a");
    hands.let_go("b");
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Unsubscribed), "{cause:?}");
    let mut work = hands.work();
    work.begun.sort_unstable();
    assert_eq!(work.begun, [1, 2]);
    assert!(work.under_way.is_empty());
    // What they did is settled and stored.
    assert_eq!(stream.status().cursor, Some(2));
    let stream = store.stream_all_durable(&name, hands.handler()).await.unwrap();
    assert_eq!(stream.started_after(), 2);
    stream.caught_up().await.unwrap();
    assert_eq!(hands.taken().len(), 5);
}

pub async fn d5_a_letter_is_stored_when_the_position_comes_to_it(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b", "c"]).await;
    append(&store, "d", 1).await;
    let hands = Hands::default();
    hands.hold("a");
    hands.fail("b");
    let name = keyed("ledger", 4).on_failure(FailurePolicy::park());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    hands.took(&[3, 4]).await;
    eventually("b has failed", || stream.status().failures == 1).await;
    assert!(shapes(&store, "ledger").await.is_empty());
    assert_eq!(stream.status().position, 0);
    hands.let_go("a");
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(2, 2, Parked)]);
    let status = stream.status();
    assert_eq!((status.position, status.parked, status.handled_events), (4, 1, 3));
    // It was stored with the cursor, so nothing of it comes again.
    assert!(status.cursor >= Some(2));
    hands.heal("b");
    let retried = store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!((retried.handled, stream.status().parked), (1, 0));
}

pub async fn d2_a_letter_ahead_that_is_not_stored_comes_again(subject: &Subject) {
    let fails = Arc::new(AtomicUsize::new(1));
    let hook = {
        let fails = Arc::clone(&fails);
        move |point| point == FaultPoint::BeforeLetter && fails.load(Ordering::SeqCst) == 1
    };
    let store = subject.open_faulty(|builder| builder, hook);
    for name in ["a", "b", "c"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    hands.fail("b");
    let name = keyed("ledger", 4).on_failure(FailurePolicy::skip());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    hands.took(&[3]).await;
    hands.let_go("a");
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::DeadLetterNotStored {
        first_sequence: 2, ..
    } = &cause
    else {
        panic!("expected the letter to be named: {cause:?}");
    };
    assert_eq!((stream.status().position, stream.status().cursor), (1, Some(1)));
    fails.store(0, Ordering::SeqCst);
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(2, 2, Skipped)]);
    assert_eq!(stream.status().position, 3);
}

pub async fn d5_events_of_a_parked_key_queue_also_those_in_hand(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["z", "a", "b"]).await;
    append_types(&store, &["a", "b", "a"]).await;
    let hands = Hands::default();
    hands.hold("z");
    hands.fail("a");
    let name = keyed("ledger", 4).on_failure(park_key());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    hands.took(&[3, 5]).await;
    hands.let_go("z");
    append(&store, "a", 1).await;
    stream.caught_up().await.unwrap();
    let all = [(2, 2, Parked), (4, 6, Queued), (7, 7, Queued)];
    assert_eq!(shapes(&store, "ledger").await, all);
    assert_eq!(stream.status().failures, 1);
    // The same after a restart, with other workers.
    stream.unsubscribe();
    stream.stopped().await;
    let store = subject.reopen(store).await;
    let name = keyed("ledger", 2).on_failure(park_key());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    append_types(&store, &["b", "a"]).await;
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await.last(), Some(&(9, 9, Queued)));
    hands.heal("a");
    let retried = store.dead_letters("ledger").retry_key("a").await.unwrap();
    assert_eq!((retried.handled, retried.failed), (4, 0));
    append(&store, "a", 1).await;
    stream.caught_up().await.unwrap();
    let mut of_a = hands.taken();
    of_a.retain(|sequence| [2, 4, 6, 7, 9, 10].contains(sequence));
    assert_eq!(of_a, [2, 4, 6, 7, 9, 10]);
    assert!(shapes(&store, "ledger").await.is_empty());
}

pub async fn d5_what_queued_in_hand_is_handled_when_its_key_is_free(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let hands = Hands::default();
    hands.fail("a");
    let name = keyed("ledger", 4).on_failure(park_key());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked)]);
    // These queue behind the parked one, ahead of a position that another key holds.
    hands.hold("z");
    for name in ["z", "a", "a", "b"] {
        append(&store, name, 1).await;
    }
    hands.took(&[5]).await;
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked)]);
    store.dead_letters("ledger").discard(1, "so it is").await.unwrap();
    hands.heal("a");
    append(&store, "a", 1).await;
    hands.let_go("z");
    stream.caught_up().await.unwrap();
    assert!(shapes(&store, "ledger").await.is_empty());
    let mut of_a = hands.taken();
    of_a.retain(|sequence| [3, 4, 6].contains(sequence));
    assert_eq!(of_a, [3, 4, 6]);
}

pub async fn d5_a_watched_stretch_goes_on_behind_a_letter_that_waits(subject: &Subject) {
    let (dead, next) = (subject.open(), subject.open());
    let hands = Hands::default();
    hands.hold("a");
    let stream = dead
        .stream_all_durable(&keyed("ledger", 2), hands.handler())
        .await
        .unwrap();
    append_types(&dead, &["a", "b", "a"]).await;
    append_types(&dead, &["b", "a"]).await;
    hands.begun(2).await;
    // To who takes the name over, a stream that hangs is as good as dead: what it had is watched.
    let again = Hands::default();
    again.fail("a");
    let name = keyed("ledger", 4).on_failure(FailurePolicy::park());
    let name = name.ownership(Ownership::TakeOver);
    let handler = again.handler().retry(Retry::never());
    let watched = next.stream_all_durable(&name, handler).await.unwrap();
    in_time("it is passed", watched.caught_up()).await.unwrap();
    // In the order of the log, one at a time, though the letter for 1 and 3 waits for 2.
    let work = again.work();
    assert_eq!((work.begun, work.most_under_way), (vec![1, 2, 4, 5], 1));
    assert_eq!(shapes(&next, "ledger").await, [(1, 3, Parked), (5, 5, Parked)]);
    again.hold("c");
    again.hold("d");
    append_types(&next, &["c", "d"]).await;
    in_time(
        "keys are handled at once",
        again.until(|work| work.under_way.len() == 2),
    )
    .await;
    again.let_go("c");
    again.let_go("d");
    watched.caught_up().await.unwrap();
    hands.let_go("a");
    let cause = in_time("the first owner stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
}

pub async fn d5_a_failure_that_stops_waits_for_the_calls_under_way(subject: &Subject) {
    let store = subject.open();
    for name in ["a", "b", "c"] {
        append(&store, name, 1).await;
    }
    let hands = Hands::default();
    hands.hold("a");
    hands.fail("b");
    let name = keyed("ledger", 2);
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    eventually("b has failed", || stream.status().failures == 1).await;
    assert!(stream.status().calls_under_way == 1, "a is under way");
    hands.let_go("a");
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(cause, StopCause::HandlerFailed { last_sequence: 2, .. }),
        "{cause:?}"
    );
    // The one under way was settled; what had not begun does not begin.
    assert_eq!((hands.taken(), stream.status().cursor), (vec![1], Some(1)));
    hands.heal("b");
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(hands.work().taken.len(), 3);
}

pub async fn d5_over_all_keys_when_most_fail_the_stream_stops(subject: &Subject) {
    let store = subject.open();
    let names: Vec<String> = (0..15).map(|number| format!("k{number}")).collect();
    let hands = Hands::default();
    for name in &names {
        append(&store, name, 1).await;
        hands.fail(name);
    }
    let name = keyed("ledger", 4).on_failure(FailurePolicy::park());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(cause, StopCause::MostFail { set_aside: 11, .. }),
        "{cause:?}"
    );
    let stored = shapes(&store, "ledger").await.len() as u64;
    assert!(stored <= 10, "{stored} letters");
    assert_eq!(stream.status().cursor, Some(stored));
}

pub async fn s2_a_retry_of_a_letter_waits_for_all_calls_and_is_not_passed_over(subject: &Subject) {
    let store = subject.open();
    append(&store, "z", 1).await;
    let hands = Hands::default();
    hands.fail("z");
    let name = keyed("ledger", 3).on_failure(FailurePolicy::park());
    let handler = hands.handler().retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    hands.heal("z");
    hands.hold("a");
    append(&store, "a", 1).await;
    hands.begun(2).await;
    let dead_letters = store.dead_letters("ledger");
    let retry = tokio::spawn(async move { dead_letters.retry(1).await });
    // The retry waits for the call under way, and from then on nothing begins before it.
    let mut sequence = 2;
    loop {
        append(&store, "b", 1).await;
        sequence += 1;
        let sequences = [sequence];
        let took = hands.took(&sequences);
        if tokio::time::timeout(Duration::from_millis(100), took)
            .await
            .is_err()
        {
            break;
        }
    }
    assert!(!retry.is_finished());
    hands.let_go("a");
    in_time("the letter is retried", retry).await.unwrap().unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(hands.taken().len() as u64, store.head());
}

//! S2, S3, D2, D3, D5, D9: handlers that take several batches in one call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::conformance::subject::Subject;
use crate::conformance::tools::hands::keyed;
use crate::conformance::tools::poison::{Poison, append_types, by_type, letters, shapes};
use crate::conformance::tools::{append, eventually, hasty, in_time};
use crate::error::{StopCause, StreamError};
use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;
use crate::log::letter::DeadLetterState;
use crate::stream::failure::FailurePolicy;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;
use crate::stream::status::StreamState;

use DeadLetterState::{Parked, Queued};

/// Writes down the events of each call, and of those that failed.
#[derive(Clone, Default)]
struct Groups {
    taken: watch::Sender<Vec<Vec<u64>>>,
    failed: Arc<Mutex<Vec<Vec<u64>>>>,
    poison: Poison,
}

impl Groups {
    fn on(poison: Poison) -> Self {
        Self {
            poison,
            ..Self::default()
        }
    }

    fn handler(&self, batches_max: u32, within: Duration) -> HandleStream {
        let groups = self.clone();
        HandleStream::group(batches_max, within, move |batches: Vec<EventBatch>| {
            let groups = groups.clone();
            async move {
                tokio::task::yield_now().await;
                let events = batches.iter().flatten().map(EventRecord::sequence).collect();
                if let Some(sequence) = batches.iter().find_map(|batch| groups.poison.first_in(batch)) {
                    groups.failed.lock().unwrap().push(events);
                    return Err(format!("poisoned by {sequence}"));
                }
                groups.taken.send_modify(|taken| taken.push(events));
                Ok(())
            }
        })
    }

    fn calls(&self) -> Vec<Vec<u64>> {
        self.taken.borrow().clone()
    }

    fn failed(&self) -> Vec<Vec<u64>> {
        self.failed.lock().unwrap().clone()
    }

    fn sequences(&self) -> Vec<u64> {
        self.calls().concat()
    }

    async fn took(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        let enough = taken.wait_for(|calls| calls.iter().map(Vec::len).sum::<usize>() >= count);
        in_time("it is handled", enough).await.unwrap();
    }
}

pub async fn s3_a_group_has_what_is_there_in_order_and_no_more_than_fits(subject: &Subject) {
    let store = subject.open_with(|builder| builder.page_batches(5));
    for _ in 0..23 {
        append(&store, "a", 1).await;
    }
    let groups = Groups::default();
    let handler = groups.handler(4, Duration::ZERO);
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handler)
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let calls = groups.calls();
    assert!(calls.concat().into_iter().eq(1..=23), "{calls:?}");
    assert!(calls.iter().all(|call| call.len() <= 4), "{calls:?}");
    assert!(
        calls.iter().filter(|call| call.len() == 4).count() >= 4,
        "{calls:?}"
    );
    let status = stream.status();
    assert_eq!(
        (status.position, status.handled_batches, status.handled_events),
        (23, 23, 23)
    );
    // One that comes alone has a call of its own, at once.
    append(&store, "a", 2).await;
    stream.caught_up().await.unwrap();
    assert_eq!(groups.calls().last(), Some(&vec![24, 25]));
}

pub async fn s3_a_live_group_waits_for_more_and_no_longer_than_it_may(subject: &Subject) {
    // No look at the poll interval comes to help.
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(3600)));
    let groups = Groups::default();
    let hour = Duration::from_secs(3600);
    let stream = store.stream_all(groups.handler(3, hour)).await.unwrap();
    for _ in 0..6 {
        append(&store, "a", 1).await;
    }
    groups.took(6).await;
    assert_eq!(groups.calls(), [[1, 2, 3], [4, 5, 6]]);
    eventually("they are settled", || stream.status().position == 6).await;
    append(&store, "a", 1).await;
    // Whoever waits for more has handled nothing of it.
    eventually("it has a batch in hand", || {
        stream.status().oldest_unhandled.is_some()
    })
    .await;
    let status = stream.status();
    assert_eq!((status.position, status.lag, status.calls_under_way), (6, 1, 0));
    stream.unsubscribe();
    in_time("it stops while it waits", stream.stopped()).await;
    assert_eq!(groups.sequences().len(), 6);
    let hasty = Groups::default();
    let name = DurableStream::new("hasty");
    let stream = store
        .stream_all_durable(&name, hasty.handler(100, Duration::from_millis(20)))
        .await
        .unwrap();
    hasty.took(7).await;
    stream.caught_up().await.unwrap();
}

pub async fn s7_a_group_that_waits_keeps_nobody_waiting(subject: &Subject) {
    let store = subject.open();
    let groups = Groups::default();
    let hour = Duration::from_secs(3600);
    let live = store.stream_all(groups.handler(100, hour)).await.unwrap();
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    in_time("who waits is not kept waiting", live.caught_up())
        .await
        .unwrap();
    assert_eq!(groups.sequences(), [1, 2, 3]);
    append(&store, "a", 1).await;
    eventually("it waits for more", || live.status().oldest_unhandled.is_some()).await;
    in_time("it delivers what is committed and ends", store.close())
        .await
        .unwrap();
    assert_eq!(groups.sequences(), [1, 2, 3, 4]);
}

pub async fn d2_a_group_is_settled_as_a_whole_or_not_at_all(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    let groups = Groups::on(Poison::on([3]));
    let name = DurableStream::new("ledger");
    let handler = groups
        .handler(10, Duration::ZERO)
        .retry(hasty().attempts_max(u32::MAX));
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    eventually("it is retried", || groups.failed().len() > 3).await;
    // A group is repeated as it was, also when there is more.
    append(&store, "a", 1).await;
    let failed = groups.failed().len();
    eventually("it is retried again", || groups.failed().len() > failed + 2).await;
    assert!(
        groups.failed().iter().all(|call| *call == [1, 2, 3, 4]),
        "{:?}",
        groups.failed()
    );
    assert_eq!((stream.status().position, stream.status().cursor), (0, Some(0)));
    groups.poison.heal();
    stream.caught_up().await.unwrap();
    assert_eq!(groups.calls(), [vec![1, 2, 3, 4], vec![5]]);
}

pub async fn d5_of_a_group_that_fails_only_the_batch_at_fault_is_set_aside(subject: &Subject) {
    let store = subject.open();
    for _ in 0..6 {
        append(&store, "a", 2).await;
    }
    let groups = Groups::on(Poison::on([5]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let handler = groups.handler(4, Duration::ZERO).retry(hasty().attempts_max(2));
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(5, 6, Parked)]);
    assert_eq!(letters(&store, "ledger").await[0].attempts, 2);
    let group: Vec<u64> = (1..=8).collect();
    assert_eq!(groups.failed(), [group.clone(), group, vec![5, 6], vec![5, 6]]);
    assert_eq!(
        groups.calls(),
        [vec![1, 2], vec![3, 4], vec![7, 8], vec![9, 10, 11, 12]]
    );
    // A letter that is retried comes as a group of one.
    groups.poison.heal();
    store.dead_letters("ledger").retry(5).await.unwrap();
    assert_eq!(groups.calls().last(), Some(&vec![5, 6]));
}

pub async fn d5_a_group_that_stops_its_stream_names_the_batch_at_fault(subject: &Subject) {
    let store = subject.open();
    for _ in 0..4 {
        append(&store, "a", 1).await;
    }
    let groups = Groups::on(Poison::on([3]));
    let handler = groups.handler(4, Duration::ZERO).retry(Retry::never());
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handler)
        .await
        .unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(
            cause,
            StopCause::HandlerFailed {
                last_sequence: 3,
                attempts: 1,
                ..
            }
        ),
        "{cause:?}"
    );
    assert_eq!(
        (groups.calls(), stream.status().cursor),
        (vec![vec![1], vec![2]], Some(2))
    );
}

pub async fn d5_a_group_ends_before_events_that_queue(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a"]).await;
    let groups = Groups::on(Poison::on([1]));
    let name = DurableStream::new("ledger").on_failure(by_type());
    let handler = groups.handler(10, Duration::ZERO).retry(Retry::never());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    stream.caught_up().await.unwrap();
    stream.unsubscribe();
    stream.stopped().await;
    for types in [&["b"][..], &["c"], &["b", "a"], &["c"], &["d"]] {
        append_types(&store, types).await;
    }
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked), (5, 5, Queued)]);
    assert_eq!(groups.calls(), [vec![2, 3], vec![4], vec![6, 7]]);
}

pub async fn d3_a_group_is_no_larger_than_what_may_be_unstored(subject: &Subject) {
    let store = subject.open();
    for _ in 0..20 {
        append(&store, "a", 1).await;
    }
    let every = Checkpoint::Every {
        batches: 5,
        within: Duration::from_secs(3600),
    };
    for (name, checkpoint, most) in [("every", every, 5), ("strict", Checkpoint::Strict, 1)] {
        let groups = Groups::default();
        let durable = DurableStream::new(name).checkpoint(checkpoint);
        let handler = groups.handler(100, Duration::ZERO);
        let stream = store.stream_all_durable(&durable, handler).await.unwrap();
        stream.caught_up().await.unwrap();
        let calls = groups.calls();
        assert!(calls.concat().into_iter().eq(1..=20), "{calls:?}");
        let largest = calls.iter().map(Vec::len).max();
        assert_eq!(largest, Some(most), "{name}: {calls:?}");
    }
}

pub async fn d9_a_pause_while_a_group_waits_loses_nothing(subject: &Subject) {
    let store = subject.open();
    let groups = Groups::default();
    let hour = Duration::from_secs(3600);
    let name = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&name, groups.handler(3, hour))
        .await
        .unwrap();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    eventually("it waits for more", || stream.status().oldest_unhandled.is_some()).await;
    let control = store.stream("ledger").await.unwrap();
    control.pause("anna").await.unwrap();
    eventually("it is paused", || {
        matches!(stream.status().state, StreamState::Paused { .. })
    })
    .await;
    assert_eq!(stream.status().position, 0);
    control.resume().await.unwrap();
    append(&store, "a", 1).await;
    groups.took(3).await;
    assert_eq!(groups.calls(), [[1, 2, 3]]);
}

pub async fn s1_groups_of_batches_are_refused_where_calls_are_by_key(subject: &Subject) {
    let store = subject.open();
    let handler = Groups::default().handler(3, Duration::ZERO);
    let refused = store.stream_all_durable(&keyed("ledger", 2), handler).await;
    assert!(
        matches!(&refused, Err(StreamError::InvalidOption { problem, .. }) if problem.contains("partition_by")),
        "{refused:?}"
    );
}

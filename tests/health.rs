//! What is wrong with a log as a whole, and that each problem of a stream is named by itself.

#[allow(unused, reason = "no test target uses all of it")]
mod common;

use std::time::Duration;

use common::hasty;
use millstream::{
    DurableStream, EventBatch, FailurePolicy, HandleStream, HealthLimits, LogProblem, NewEvent, Problem,
    Prune, Retry, Start, StopCause, Store,
};

fn taking() -> HandleStream {
    HandleStream::new(|_batch: EventBatch| async { Ok::<_, std::io::Error>(()) })
}

fn failing() -> HandleStream {
    HandleStream::new(|_batch: EventBatch| async { Err::<(), _>("no") }).retry(Retry::never())
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_named_with_what_is_free_and_what_has_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let more_than_there_is = HealthLimits::default().free_bytes_min(u64::MAX);
    let health = store.health_within(&more_than_there_is).await.unwrap();
    let [
        LogProblem::DiskNearlyFull {
            free_bytes,
            free_bytes_min,
        },
    ] = health.log[..]
    else {
        panic!("{health:?}");
    };
    assert!(free_bytes > 0 && free_bytes < u64::MAX, "{health:?}");
    assert_eq!(free_bytes_min, u64::MAX);
    assert!(!health.is_well(), "{health:?}");
    let less = HealthLimits::default().free_bytes_min(free_bytes / 2);
    let health = store.health_within(&less).await.unwrap();
    assert!(health.log.is_empty() && health.is_well(), "{health:?}");
    store.close().await.unwrap();
    let in_memory = Store::in_memory().unwrap();
    let health = in_memory.health_within(&more_than_there_is).await.unwrap();
    assert!(health.is_well(), "memory is no disk: {health:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_disk_that_cannot_be_asked_is_a_problem_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = Store::open(&path).unwrap();
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), taking())
        .await
        .unwrap();
    store.stream("ledger").await.unwrap().pause("anna").await.unwrap();
    std::fs::rename(&path, folder.path().join("moved.db")).unwrap();
    let health = store.health().await.unwrap();
    let [LogProblem::FreeSpaceUnknown { cause }] = &health.log[..] else {
        panic!("{health:?}");
    };
    assert!(cause.contains("free space"), "{cause}");
    assert!(
        matches!(health.of("ledger"), Some([Problem::Paused { .. }])),
        "{health:?}"
    );
    std::fs::rename(folder.path().join("moved.db"), &path).unwrap();
    drop(stream);
    store.close().await.unwrap();
}

#[tokio::test]
async fn problems_of_a_stream_are_named_each_by_itself() {
    name_each_problem(Store::in_memory().unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    name_each_problem(Store::open(folder.path().join("log.db")).unwrap()).await;
}

async fn name_each_problem(store: Store) {
    let limits = HealthLimits::default()
        .lag_events_max(2)
        .lag_age_max(Duration::ZERO);
    let parking = DurableStream::new("parking").on_failure(FailurePolicy::park());
    let parking = store.stream_all_durable(&parking, failing()).await.unwrap();
    let stopping = DurableStream::new("stopping");
    let stopping = store.stream_all_durable(&stopping, failing()).await.unwrap();
    let paused = DurableStream::new("paused");
    let paused = store
        .stream_all_durable(&paused, taking().retry(hasty()))
        .await
        .unwrap();
    store.stream("paused").await.unwrap().pause("anna").await.unwrap();
    for number in 1..=3 {
        store.append([NewEvent::new("number", number)]).await.unwrap();
    }
    parking.caught_up().await.unwrap();
    stopping.stopped().await;
    let health = store.health_within(&limits).await.unwrap();
    assert!(
        matches!(health.of("parking"), Some([Problem::LettersWait { letters: 3 }])),
        "{health:?}"
    );
    let of = |name| health.of(name).unwrap();
    for name in ["stopping", "paused"] {
        let lag = Problem::LagTooHigh {
            events: 3,
            events_max: 2,
        };
        assert_eq!(format!("{:?}", of(name)[0]), format!("{lag:?}"));
        assert!(matches!(of(name)[1], Problem::LagTooOld { .. }), "{health:?}");
        assert_eq!(of(name).len(), 3, "{health:?}");
    }
    let stopped = &of("stopping")[2];
    assert!(matches!(
        stopped,
        Problem::Stopped(StopCause::HandlerFailed { .. })
    ));
    assert!(matches!(&of("paused")[2], Problem::Paused { by, .. } if by == "anna"));
    let status = parking.status();
    assert!(status.oldest_letter.is_some(), "{status:?}");
    let stored = store.stream("parking").await.unwrap().status().await.unwrap();
    assert!(stored.oldest_letter >= status.oldest_letter, "{stored:?}");
    for letter in [1, 2, 3] {
        store
            .dead_letters("parking")
            .discard(letter, "seen")
            .await
            .unwrap();
    }
    assert_eq!(parking.status().oldest_letter, None);
    drop((parking, stopping, paused));
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_pruning_took_has_no_age_and_what_is_left_has() {
    let folder = tempfile::tempdir().unwrap();
    for store in [
        Store::in_memory().unwrap(),
        Store::open(folder.path().join("log.db")).unwrap(),
    ] {
        let begin = DurableStream::new("begin");
        let begin = store.stream_all_durable(&begin, taking()).await.unwrap();
        store.stream("begin").await.unwrap().pause("anna").await.unwrap();
        store.append([NewEvent::new("number", 1)]).await.unwrap();
        store.append([NewEvent::new("number", 2)]).await.unwrap();
        let left = DurableStream::new("left").start(Start::Now);
        let left = store.stream_all_durable(&left, taking()).await.unwrap();
        store.stream("left").await.unwrap().pause("anna").await.unwrap();
        store.append([NewEvent::new("number", 3)]).await.unwrap();
        let ages = || async {
            let statuses = store.streams().await.unwrap();
            [0, 1].map(|index: usize| statuses[index].oldest_unhandled)
        };
        let [of_begin, of_left] = ages().await;
        assert!(
            of_begin.is_some() && of_begin >= of_left,
            "{of_begin:?} {of_left:?}"
        );
        let pruned = store.prune(Prune::before(3).past_cursors()).await.unwrap();
        assert_eq!(pruned.pruned_through, 2);
        let [of_begin, of_left] = ages().await;
        assert!(
            of_begin.is_none() && of_left.is_some(),
            "{of_begin:?} {of_left:?}"
        );
        drop((begin, left));
        store.close().await.unwrap();
    }
}

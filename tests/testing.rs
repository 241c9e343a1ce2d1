//! The kit for the tests of programs does what it says: a clock that stands, mishaps where they were planned, stores that lose every
//! wake-up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream::testing::{Failing, Mishap, Recorder, TestClock, deaf, with_clock};
use millstream::{
    DurableStream, EventBatch, EventQuery, FailureCategory, FailurePolicy, HandleStream, HealthLimits,
    NewEvent, Problem, Prune, Retry, Start, StopCause, Store, StreamState, WaitError,
};

const HOUR: Duration = Duration::from_secs(3600);

fn new_year() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn hasty() -> Retry {
    let pause = Duration::from_millis(1);
    Retry::default().delay_min(pause).delay_max(pause)
}

async fn append(store: &Store, count: usize) {
    let events = (0..count).map(|number| NewEvent::new("counted", number));
    store.append(events).await.unwrap();
}

async fn recorded(store: &Store) -> Vec<SystemTime> {
    let found = store.query(&EventQuery::all()).await.unwrap();
    found.events.iter().map(|event| event.recorded_at()).collect()
}

#[tokio::test]
async fn events_are_recorded_at_the_time_that_the_test_sets() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TestClock::at(new_year());
    let builder = with_clock(Store::builder(), &clock);
    for store in [
        builder.clone().in_memory().unwrap(),
        builder.open(folder.path().join("log.db")).unwrap(),
    ] {
        clock.set(new_year());
        append(&store, 1).await;
        clock.advance(HOUR);
        append(&store, 1).await;
        clock.set(new_year());
        append(&store, 1).await;
        assert_eq!(
            recorded(&store).await,
            [new_year(), new_year() + HOUR, new_year() + HOUR]
        );

        let recorder = Recorder::new();
        let late = DurableStream::new("late").start(Start::At(new_year() + HOUR / 2));
        let stream = store.stream_all_durable(&late, recorder.handler()).await.unwrap();
        stream.caught_up().await.unwrap();
        assert_eq!(recorder.sequences(), [2, 3]);

        let pruned = store
            .prune(Prune::older_than(new_year() + HOUR / 2))
            .await
            .unwrap();
        assert_eq!(pruned.pruned_through, 1);
        store.close().await.unwrap();
    }
    let before = SystemTime::now();
    let store = Store::in_memory().unwrap();
    append(&store, 1).await;
    assert!(
        recorded(&store).await[0] >= before - Duration::from_millis(1),
        "others have the system's time"
    );
}

#[tokio::test]
async fn a_lag_is_as_old_as_the_clock_says() {
    let clock = TestClock::at(new_year());
    let store = with_clock(Store::builder(), &clock).in_memory().unwrap();
    let resting = DurableStream::new("resting");
    let ended = store
        .stream_all_durable(&resting, Recorder::new().handler())
        .await
        .unwrap();
    ended.unsubscribe();
    ended.stopped().await;
    let failing = Failing::new().at(2, Mishap::hang());
    let name = DurableStream::new("working");
    let handler = failing.around(Recorder::new().handler());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    append(&store, 1).await;
    append(&store, 1).await;
    failing.until_mishaps(1).await;
    assert_eq!(stream.status().oldest_unhandled, Some(Duration::ZERO));
    clock.advance(HOUR);
    assert_eq!(stream.status().oldest_unhandled, Some(HOUR));
    let ages: Vec<_> = store
        .streams()
        .await
        .unwrap()
        .iter()
        .map(|status| status.oldest_unhandled)
        .collect();
    assert_eq!(
        ages,
        [Some(HOUR); 2],
        "of the one that is not here the log says it"
    );
    let limits = HealthLimits::default().lag_age_max(HOUR - Duration::from_secs(1));
    let health = store.health_within(&limits).await.unwrap();
    let problems = health.of("working").unwrap();
    assert!(
        matches!(problems[0], Problem::LagTooOld { age: HOUR, .. }),
        "{problems:?}"
    );
    failing.heal();
    stream.caught_up().await.unwrap();
    assert_eq!(stream.status().oldest_unhandled, None);
}

#[tokio::test]
async fn mishaps_happen_where_and_as_often_as_they_were_planned() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let failing = Failing::new()
        .at(2, Mishap::error().times(2))
        .at(3, Mishap::panic().times(1))
        .at(5, Mishap::error().times(0))
        .at(6, Mishap::error().times(1).after_handling());
    let handler = failing.around(recorder.handler()).retry(hasty());
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handler)
        .await
        .unwrap();
    // The first of the events 2 and 3 that has a mishap left has it for the batch of both.
    for count in [1, 2, 1, 1, 1] {
        append(&store, count).await;
    }
    store.settled().await.unwrap();
    assert_eq!(
        recorder.sequences(),
        [1, 2, 3, 4, 5, 6, 6],
        "an effect that was there comes once more"
    );
    assert_eq!((failing.mishaps(), stream.status().failures), (4, 4));
}

#[tokio::test]
async fn each_kind_of_mishap_is_what_it_is_called() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let failing = Failing::new()
        .at(1, Mishap::error())
        .at(2, Mishap::panic())
        .at(3, Mishap::hang());
    let limit = Duration::from_millis(20);
    let handler = failing.around(recorder.handler().timeout(limit).retry(Retry::never()));
    let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let _stream = store.stream_all_durable(&ledger, handler).await.unwrap();
    for _ in 0..4 {
        append(&store, 1).await;
    }
    store.settled().await.unwrap();
    assert_eq!(
        recorder.sequences(),
        [4],
        "what was said of the handler before is kept"
    );
    let letters = store.dead_letters("ledger");
    let letters: Vec<_> = futures::TryStreamExt::try_collect::<Vec<_>>(letters.list())
        .await
        .unwrap();
    let found: Vec<_> = letters.iter().map(|letter| letter.category).collect();
    let expected = [
        FailureCategory::Error,
        FailureCategory::Panic,
        FailureCategory::Timeout,
    ];
    assert_eq!(found, expected.map(Some));
    assert_eq!(letters[0].cause.as_deref(), Some("told to fail at 1"));
    failing.heal();
    let retried = store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!(retried.handled, 3);
    assert_eq!(recorder.sequences(), [4, 1, 2, 3]);
}

#[tokio::test]
async fn a_call_that_hangs_goes_on_when_it_is_healed() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let failing = Failing::new()
        .at(1, Mishap::hang())
        .at(2, Mishap::hang().after_handling());
    let stream = store
        .stream_all(failing.around(recorder.handler()))
        .await
        .unwrap();
    append(&store, 1).await;
    append(&store, 1).await;
    failing.until_mishaps(1).await;
    assert_eq!(recorder.sequences(), [0; 0], "the handler was not called");
    failing.heal();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2]);
    assert_eq!(failing.mishaps(), 1, "nothing fails any more");

    let _ = failing.clone().at(3, Mishap::hang().after_handling());
    append(&store, 1).await;
    failing.until_mishaps(2).await;
    assert_eq!(recorder.sequences(), [1, 2, 3], "the handler was called");
    assert_eq!(stream.status().position, 2, "and has not returned");
    failing.heal();
    stream.caught_up().await.unwrap();
    assert_eq!(stream.status().failures, 0);
}

#[tokio::test]
async fn a_stream_stops_at_the_event_that_always_fails() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let handler = Failing::new().at(3, Mishap::error()).around(recorder.handler());
    let handler = handler.retry(hasty().attempts_max(3));
    let stream = store.stream_all(handler).await.unwrap();
    for _ in 0..4 {
        append(&store, 1).await;
    }
    match store.settled().await {
        Err(WaitError::Stopped {
            position: 2,
            cause:
                StopCause::HandlerFailed {
                    last_sequence: 3,
                    attempts: 3,
                    error,
                    ..
                },
            ..
        }) => assert_eq!(&*error, "told to fail at 3"),
        other => panic!("{other:?}"),
    }
    assert_eq!(recorder.sequences(), [1, 2]);
    assert!(matches!(stream.status().state, StreamState::Stopped(_)));
}

#[tokio::test]
async fn a_handler_of_groups_stays_one() {
    let store = Store::in_memory().unwrap();
    for _ in 0..10 {
        append(&store, 1).await;
    }
    let recorder = Recorder::new();
    let (groups, kept) = (
        std::sync::Arc::new(std::sync::Mutex::new(Vec::new())),
        recorder.clone(),
    );
    let sizes = std::sync::Arc::clone(&groups);
    let handler = HandleStream::group(10, Duration::ZERO, move |batches: Vec<EventBatch>| {
        sizes.lock().unwrap().push(batches.len());
        batches.into_iter().for_each(|batch| kept.record(batch));
        async { Ok::<_, std::io::Error>(()) }
    });
    let failing = Failing::new().at(7, Mishap::error().times(1));
    let handler = failing.around(handler.retry(hasty()));
    let stream = store
        .stream_all_durable(&DurableStream::new("rows"), handler)
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(*groups.lock().unwrap(), [10]);
    assert_eq!(failing.mishaps(), 1, "for the whole group");
    assert_eq!(recorder.sequences(), (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_deaf_store_wakes_nobody_and_delivers_when_it_looks_around() {
    let rarely = Duration::from_secs(3600);
    for is_deaf in [false, true] {
        let builder = Store::builder().poll_interval(rarely);
        let store = if is_deaf { deaf(builder) } else { builder }.in_memory().unwrap();
        let recorder = Recorder::new();
        let stream = store.stream_all(recorder.handler()).await.unwrap();
        append(&store, 1).await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let expected = if is_deaf { (1, vec![]) } else { (0, vec![1]) };
        assert_eq!((stream.status().lag, recorder.sequences()), expected);
    }
    let store = deaf(Store::builder().poll_interval(Duration::from_millis(5)))
        .in_memory()
        .unwrap();
    let recorder = Recorder::new();
    let _stream = store.stream_all(recorder.handler()).await.unwrap();
    for count in 1..=5 {
        append(&store, 1).await;
        recorder.until(|batches| batches.len() == count).await;
    }
    recorder.clear();
    assert!(recorder.events().is_empty() && recorder.batches().is_empty());
}

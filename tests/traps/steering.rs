//! Steering and health: cursors that came back after a reset, and dead loops that looked healthy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use millstream::internals::{FaultPoint, with_faults};
use millstream::testing::deaf;
use millstream::{
    DurableStream, EventBatch, EventQuery, ExpectedCursor, HandleStream, Health, HealthLimits, Problem,
    Reset, Retry, StopCause, Store, StreamControl, StreamState,
};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::Place;
use crate::common::{Recorder, append, events, eventually, in_time, takes_all};

fn stored(file: &Connection) -> i64 {
    let sql = "SELECT position FROM cursor WHERE name = 'ledger'";
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_does_not_write_the_old_position_back_after_a_reset() {
    let place = Place::new();
    let store = place.open();
    let query = EventQuery::types(["never"]);
    let name = DurableStream::new("ledger");
    let stream = store.stream_to_durable(&name, &query, takes_all()).await.unwrap();
    append(&store, "a", 9_000).await;
    stream.caught_up().await.unwrap();
    let ledger = store.stream("ledger").await.unwrap();
    ledger.pause("anna").await.unwrap();
    ledger
        .reset(Reset::Beginning, ExpectedCursor::anywhere())
        .await
        .unwrap();
    // Every 10,000 events the cursors of streams at rest ride along with a group.
    for _ in 0..5 {
        append(&store, "a", 9_000).await;
    }
    assert_eq!(stored(&place.by_hand()), 0);
    assert_eq!(stream.status().position, 0);
    ledger.resume().await.unwrap();
    in_time("it passes them", ledger.wait_for(store.head()))
        .await
        .unwrap();
    assert_eq!(stored(&place.by_hand()), 54_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_is_never_undone_by_the_cursors_of_the_run_before() {
    let place = Place::new();
    let store = place.open();
    let recorder = Recorder::new();
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    let ledger = store.stream("ledger").await.unwrap();
    let anywhere = ExpectedCursor::anywhere();
    for round in 1..=40 {
        append(&store, "a", 1).await;
        append(&store, "a", 1).await;
        recorder.clear();
        // The cursor of what was just handled is on its way.
        ledger.reset(Reset::Beginning, anywhere).await.unwrap();
        in_time("all is handled again", ledger.wait_for(round * 2))
            .await
            .unwrap();
        let handled = recorder.sequences();
        let begin = handled.iter().rposition(|sequence| *sequence == 1);
        let again = &handled[begin.expect("the first event came again")..];
        assert_eq!(again, (1..=round * 2).collect::<Vec<_>>(), "round {round}");
    }
    assert_eq!(stream.status().cursor, Some(80));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_stream_is_not_called_however_often_it_is_woken() {
    let store = Store::builder()
        .poll_interval(Duration::from_millis(1))
        .in_memory()
        .unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = {
        let calls = Arc::clone(&calls);
        HandleStream::new(move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    let ledger = store.stream("ledger").await.unwrap();
    ledger.pause("anna").await.unwrap();
    eventually("it rests", || {
        matches!(stream.status().state, StreamState::Paused { .. })
    })
    .await;
    for _ in 0..200 {
        append(&store, "a", 1).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // Ended while it is paused, it gives its name back.
    stream.unsubscribe();
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Unsubscribed), "{cause:?}");
    let again = store.stream_all_durable(&name, takes_all()).await.unwrap();
    assert!(matches!(again.status().state, StreamState::Paused { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_steers_while_streams_come_and_go_leaves_none_behind() {
    let place = Place::new();
    let store = place.open();
    let recorder = Recorder::new();
    let name = DurableStream::new("ledger");
    drop(store.stream_all_durable(&name, recorder.handler()).await.unwrap());
    let duty = tokio::spawn({
        let store = store.clone();
        async move {
            let ledger = store.stream("ledger").await.unwrap();
            for round in 0..60 {
                match round % 3 {
                    0 => ledger.pause("anna").await.unwrap(),
                    1 => drop(
                        ledger
                            .reset(Reset::Beginning, ExpectedCursor::anywhere())
                            .await
                            .unwrap(),
                    ),
                    _ => ledger.resume().await.unwrap(),
                }
                append(&store, "a", 1).await;
            }
        }
    });
    while !duty.is_finished() {
        let stream = in_time(
            "the name is free",
            store.stream_all_durable(&name, recorder.handler()),
        )
        .await;
        let stream = stream.unwrap();
        tokio::task::yield_now().await;
        drop(stream);
    }
    duty.await.unwrap();
    let ledger = store.stream("ledger").await.unwrap();
    ledger.resume().await.unwrap();
    let last = Recorder::new();
    let stream = store.stream_all_durable(&name, last.handler()).await.unwrap();
    ledger
        .reset(Reset::Beginning, ExpectedCursor::anywhere())
        .await
        .unwrap();
    in_time("it goes on", stream.wait_for(60)).await.unwrap();
    assert!(last.sequences().ends_with(&(1..=60).collect::<Vec<_>>()));
}

#[tokio::test]
async fn a_wait_after_a_reset_is_not_met_by_the_run_before() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let name = DurableStream::new("ledger");
    let _stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    append(&store, "a", 3).await;
    let ledger = store.stream("ledger").await.unwrap();
    ledger.wait_for(3).await.unwrap();
    // With one thread the stream has mostly yet to heed the reset when it is waited for.
    for round in 2..=50 {
        ledger.reset(Reset::Beginning, 3).await.unwrap();
        in_time("it is handled again", ledger.wait_for(3)).await.unwrap();
        assert_eq!(recorder.deliveries().len(), round);
        assert_eq!(ledger.status().await.unwrap().cursor, Some(3));
    }
}

#[tokio::test]
async fn a_word_that_comes_while_a_stream_is_registered_is_heard() {
    // The registration is committed, then the pause, and only then does the registration go on.
    let pausing: Arc<Mutex<Option<StreamControl>>> = Arc::default();
    let (tell, paused) = sync_channel(1);
    let commits = AtomicUsize::new(0);
    let builder = Store::builder().poll_interval(Duration::from_secs(3_600));
    let builder = with_faults(builder, {
        let pausing = Arc::clone(&pausing);
        move |point| {
            match point {
                FaultPoint::AfterCommit => {
                    if let Some(ledger) = pausing.lock().unwrap().take() {
                        let mut pause = Box::pin(async move { ledger.pause("anna").await });
                        let mut context = Context::from_waker(Waker::noop());
                        assert!(pause.as_mut().poll(&mut context).is_pending(), "it is queued");
                        commits.store(1, Ordering::SeqCst);
                    }
                }
                // The second one since then is that of the pause.
                FaultPoint::AfterPublish
                    if commits.load(Ordering::SeqCst) > 0 && commits.fetch_add(1, Ordering::SeqCst) == 2 =>
                {
                    tell.send(()).unwrap();
                }
                _ => {}
            }
            false
        }
    });
    let store = builder.in_memory().unwrap();
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    stream.unsubscribe();
    stream.stopped().await;
    *pausing.lock().unwrap() = Some(store.stream("ledger").await.unwrap());
    // Polled after the registration has asked, and before it can be answered.
    let blocks_the_only_thread = async {
        paused.recv_timeout(Duration::from_secs(25)).unwrap();
    };
    let recorder = Recorder::new();
    let registered = store.stream_all_durable(&name, recorder.handler());
    let (registered, ()) = tokio::join!(registered, blocks_the_only_thread);
    let stream = registered.unwrap();
    eventually("it rests", || {
        matches!(stream.status().state, StreamState::Paused { .. })
    })
    .await;
    append(&store, "a", 1).await;
    assert_eq!(recorder.sequences(), [0; 0]);
}

/// Looks until the stream has a problem that is meant.
async fn problem(store: &Store, is_meant: impl Fn(&Problem) -> bool) -> Health {
    let limits = HealthLimits::default()
        .lag_events_max(2)
        .lag_age_max(Duration::from_millis(1))
        .still_max(Duration::from_millis(1));
    let looking = async {
        loop {
            let health = store.health_within(&limits).await.unwrap();
            if health
                .of("ledger")
                .is_some_and(|problems| problems.iter().any(&is_meant))
            {
                return health;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("the problem is seen", looking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_loop_is_seen_although_nothing_moves() {
    let builder = Store::builder().poll_interval(Duration::from_secs(3_600));
    let store = deaf(builder).in_memory().unwrap();
    let name = DurableStream::new("ledger");
    let _stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    store.settled().await.unwrap();
    assert!(store.health().await.unwrap().is_well());
    store.append(events("a", 3)).await.unwrap();
    let health = problem(&store, |problem| matches!(problem, Problem::LoopDead { .. })).await;
    let problems = health.of("ledger").unwrap();
    assert!(
        matches!(
            problems,
            [
                Problem::LagTooHigh {
                    events: 3,
                    events_max: 2
                },
                Problem::LagTooOld { .. },
                Problem::NotMoving { .. },
                Problem::LoopDead { .. },
            ]
        ),
        "{problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_handler_and_one_that_waits_to_retry_are_told_apart() {
    let store = Store::in_memory().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let recorder = Recorder::new();
    let name = DurableStream::new("ledger");
    let hangs = store
        .stream_all_durable(&name, recorder.gated(&gate))
        .await
        .unwrap();
    append(&store, "a", 1).await;
    let health = problem(&store, |problem| matches!(problem, Problem::HandlerHangs { .. })).await;
    let is_dead = |problem: &Problem| matches!(problem, Problem::LoopDead { .. });
    assert!(!health.of("ledger").unwrap().iter().any(is_dead), "{health:?}");
    hangs.unsubscribe();
    gate.add_permits(1);
    hangs.stopped().await;
    append(&store, "a", 1).await;
    let slow = Duration::from_secs(3_600);
    let patient = Retry::default().delay_min(slow).elapsed_max(24 * slow);
    let handler = HandleStream::new(|_: EventBatch| async { Err::<(), _>("not now") });
    let waits = store
        .stream_all_durable(&name, handler.retry(patient))
        .await
        .unwrap();
    eventually("it waits", || {
        matches!(waits.status().state, StreamState::Retrying { .. })
    })
    .await;
    let health = problem(&store, |problem| matches!(problem, Problem::NotMoving { .. })).await;
    let problems = health.of("ledger").unwrap();
    let is_wrong = |problem: &Problem| is_dead(problem) || matches!(problem, Problem::HandlerHangs { .. });
    assert!(!problems.iter().any(is_wrong), "{problems:?}");
    let status = &store.streams().await.unwrap()[0];
    assert!(matches!(status.state, StreamState::Retrying { .. }), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lag_is_measured_against_the_log_and_not_against_what_the_store_was_told() {
    let place = Place::new();
    let deaf = place.open_with(Store::builder().poll_interval(Duration::from_secs(3_600)));
    let name = DurableStream::new("ledger");
    let stream = deaf.stream_all_durable(&name, takes_all()).await.unwrap();
    let other = place.open();
    append(&other, "a", 5).await;
    assert_eq!((deaf.head(), stream.status().lag), (0, 0), "it was not told");
    let status = &deaf.streams().await.unwrap()[0];
    assert_eq!((status.head, status.lag), (5, 5));
    assert!(status.oldest_unhandled.is_some());
    let health = problem(&deaf, |problem| matches!(problem, Problem::NotMoving { .. })).await;
    assert!(!health.is_well());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_who_paused_and_why_it_stopped() {
    let store = Store::in_memory().unwrap();
    let handler = HandleStream::new(|_: EventBatch| async { Err::<(), _>("broken") });
    let name = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&name, handler.retry(Retry::never()))
        .await
        .unwrap();
    let ledger = store.stream("ledger").await.unwrap();
    ledger.pause("anna").await.unwrap();
    let health = store.health().await.unwrap();
    assert!(
        matches!(health.of("ledger"), Some([Problem::Paused { by, .. }]) if by == "anna"),
        "{health:?}"
    );
    ledger.resume().await.unwrap();
    append(&store, "a", 1).await;
    stream.stopped().await;
    let health = store.health().await.unwrap();
    assert!(
        matches!(
            health.of("ledger"),
            Some([Problem::Stopped(StopCause::HandlerFailed { .. })])
        ),
        "{health:?}"
    );
    assert_eq!(health.of("nobody").map(<[Problem]>::len), None);
}

//! D1, D6: a stream that takes the place of another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{Poison, append_types, by_type, shapes};
use crate::conformance::tools::{Recorder, append, eventually, in_time, takes_all};
use crate::error::{SteerError, StopCause, StreamError, WaitError};
use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::fault::FaultPoint;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::letter::DeadLetterState;
use crate::log::steer::Reset;
use crate::store::Store;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::react::reaction::Reaction;
use crate::stream::react::reactor::Reactor;
use crate::stream::status::StreamState;

/// A stream whose cursor is stored at its end alone.
fn lazy(name: &str) -> DurableStream {
    DurableStream::new(name).checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_secs(3600),
    })
}

fn successor() -> DurableStream {
    lazy("mailer-2").start(Start::AfterStream("mailer".into()))
}

fn is_taken_over(cause: &StopCause) -> bool {
    matches!(cause, StopCause::TakenOver { by } if by == "mailer-2")
}

pub async fn d1_a_stream_takes_over_where_the_older_one_stood(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    append(&store, "a", 1).await;
    let (older, newer) = (Recorder::new(), Recorder::new());
    let stream = store
        .stream_all_durable(&lazy("mailer"), older.handler())
        .await
        .unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    let next = store
        .stream_all_durable(&successor(), newer.handler())
        .await
        .unwrap();
    assert_eq!(next.started_after(), 3);
    assert!(is_taken_over(
        &in_time("the older one has stopped", stream.stopped()).await
    ));
    append(&store, "a", 1).await;
    store.settled().await.unwrap();
    assert_eq!((older.sequences(), newer.sequences()), (vec![1, 2, 3], vec![4]));
    // The next run goes on from the cursor of its own.
    next.unsubscribe();
    next.stopped().await;
    append(&store, "a", 1).await;
    let store = subject.reopen(store).await;
    let _next = store
        .stream_all_durable(&successor(), newer.handler())
        .await
        .unwrap();
    store.settled().await.unwrap();
    assert_eq!(newer.sequences(), [4, 5]);
}

pub async fn d1_a_handler_call_of_the_older_stream_ends_before_the_takeover(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let (older, newer, gate) = (Recorder::new(), Recorder::new(), Arc::new(Semaphore::new(0)));
    let begun = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (older, gate, begun) = (older.clone(), Arc::clone(&gate), Arc::clone(&begun));
        HandleStream::new(move |batch: EventBatch| {
            begun.fetch_add(1, Ordering::SeqCst);
            let (older, gate) = (older.clone(), Arc::clone(&gate));
            async move {
                let permit = gate.acquire().await;
                older.write(&batch);
                permit.map(|permit| permit.forget())
            }
        })
    };
    let _stream = store.stream_all_durable(&lazy("mailer"), handler).await.unwrap();
    eventually("the call is under way", || begun.load(Ordering::SeqCst) == 1).await;
    let registering = tokio::spawn({
        let (store, handler) = (store.clone(), newer.handler());
        async move { store.stream_all_durable(&successor(), handler).await }
    });
    // A name that is active is refused at once, and one whose stream is on its way out is waited for.
    let name = lazy("mailer");
    let again = || store.stream_all_durable(&name, takes_all()).now_or_never();
    eventually("the older one is to end", || again().is_none()).await;
    gate.add_permits(10);
    let next = in_time("the successor is there", registering)
        .await
        .unwrap()
        .unwrap();
    store.settled().await.unwrap();
    let (older, newer) = (older.sequences(), newer.sequences());
    assert_eq!((older, newer), (vec![1], vec![2]), "each by one of them");
    assert_eq!(next.started_after(), 1);
}

pub async fn d1_who_starts_after_an_unknown_stream_is_told_which_one_was_meant(subject: &Subject) {
    let store = subject.open();
    let _stream = store
        .stream_all_durable(&lazy("mailer"), takes_all())
        .await
        .unwrap();
    let mistyped = lazy("mailer-2").start(Start::AfterStream("mialer".into()));
    let refused = store.stream_all_durable(&mistyped, takes_all()).await;
    let Err(StreamError::NoSuchOlderStream { older, nearest, .. }) = &refused else {
        panic!("there is none of that name: {refused:?}");
    };
    assert_eq!((older.as_str(), nearest.as_deref()), ("mialer", Some("mailer")));
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("did you mean \"mailer\""), "{text}");
    assert!(store.stream("mailer-2").await.is_err(), "nothing is left of it");
}

pub async fn d6_a_stream_that_was_taken_over_does_not_come_back(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    let stream = store
        .stream_all_durable(&lazy("mailer"), takes_all())
        .await
        .unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    let next = store.stream_all_durable(&successor(), takes_all()).await.unwrap();
    append(&store, "a", 1).await;
    store.settled().await.unwrap();
    let again = |store: Store| async move {
        for choice in [OnMismatch::Refuse, OnMismatch::KeepCursor, OnMismatch::StartOver] {
            let older = lazy("mailer").on_mismatch(choice);
            let refused = store.stream_all_durable(&older, takes_all()).await;
            let Err(StreamError::TakenOver { name, by }) = refused else {
                panic!("it has been taken over: {refused:?}");
            };
            assert_eq!((name.as_str(), by.as_str()), ("mailer", "mailer-2"));
        }
    };
    again(store.clone()).await;
    let control = store.stream("mailer").await.unwrap();
    for refused in [
        control.resume().await.err(),
        control.pause("anna").await.err(),
        control.reset(Reset::Beginning, 2).await.err(),
    ] {
        assert!(
            matches!(refused, Some(SteerError::TakenOver { .. })),
            "{refused:?}"
        );
    }
    let waited = in_time("it is known", control.wait_for(3)).await;
    let Err(WaitError::Stopped { cause, .. }) = waited else {
        panic!("it does not go on: {waited:?}");
    };
    assert!(is_taken_over(&cause));
    let third = lazy("mailer-3").start(Start::AfterStream("mailer".into()));
    let refused = store.stream_all_durable(&third, takes_all()).await;
    assert!(
        matches!(refused, Err(StreamError::TakenOver { .. })),
        "{refused:?}"
    );
    // It is no problem, and holds no prune.
    let health = store.health().await.unwrap();
    assert!(health.of("mailer").unwrap().is_empty(), "{health:?}");
    let shown = store.streams().await.unwrap();
    assert!(matches!(&shown[0].state, StreamState::Stopped(cause) if is_taken_over(cause)));
    next.unsubscribe();
    next.stopped().await;
    assert_eq!(store.prune(4).await.unwrap().pruned_through, 3);
    let store = subject.reopen(store).await;
    again(store.clone()).await;
    // Deleted, the name is free.
    store.stream("mailer").await.unwrap().delete().await.unwrap();
    let anew = store
        .stream_all_durable(&lazy("mailer"), takes_all())
        .await
        .unwrap();
    let _next = store.stream_all_durable(&successor(), takes_all()).await.unwrap();
    append(&store, "a", 1).await;
    in_time("both go on", store.settled()).await.unwrap();
    assert_eq!(anew.status().position, 4);
}

pub async fn d1_dead_letters_and_a_pause_go_along(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b"]).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let older = lazy("mailer").on_failure(by_type());
    let stream = store
        .stream_all_durable(&older, poison.naming(&recorder))
        .await
        .unwrap();
    in_time("it is parked", stream.caught_up()).await.unwrap();
    store.stream("mailer").await.unwrap().pause("anna").await.unwrap();
    poison.heal();
    let newer = successor().on_failure(by_type());
    let next = store
        .stream_all_durable(&newer, poison.naming(&recorder))
        .await
        .unwrap();
    append_types(&store, &["a", "c"]).await;
    assert!(matches!(&next.status().state, StreamState::Paused { by, .. } if by == "anna"));
    store.stream("mailer-2").await.unwrap().resume().await.unwrap();
    in_time("the stream is at the head", next.caught_up())
        .await
        .unwrap();
    // What comes for the parked key queues behind it, under the new name.
    let (parked, queued) = (DeadLetterState::Parked, DeadLetterState::Queued);
    assert_eq!(shapes(&store, "mailer").await, []);
    assert_eq!(shapes(&store, "mailer-2").await, [(1, 1, parked), (3, 3, queued)]);
    assert_eq!(next.status().parked, 2);
    let retried = store.dead_letters("mailer-2").retry_key("a").await.unwrap();
    assert_eq!((retried.handled, recorder.sequences()), (2, vec![2, 4, 1, 3]));
}

pub async fn d1_a_takeover_that_fails_leaves_the_older_stream_where_it_was(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = {
        let fails = Arc::clone(&fails);
        move |point| point == FaultPoint::BeforeCommit && fails.load(Ordering::SeqCst)
    };
    let store = subject.open_faulty(|builder| builder, hook);
    append(&store, "a", 2).await;
    let stream = store
        .stream_all_durable(&lazy("mailer"), takes_all())
        .await
        .unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    fails.store(true, Ordering::SeqCst);
    let failed = store.stream_all_durable(&successor(), takes_all()).await;
    assert!(matches!(failed, Err(StreamError::Storage(_))), "{failed:?}");
    fails.store(false, Ordering::SeqCst);
    let again = store
        .stream_all_durable(&lazy("mailer"), takes_all())
        .await
        .unwrap();
    assert_eq!(again.started_after(), 2);
    let next = store.stream_all_durable(&successor(), takes_all()).await.unwrap();
    assert_eq!(next.started_after(), 2);
    assert!(is_taken_over(&in_time("it has stopped", again.stopped()).await));
}

pub async fn d1_a_takeover_inside_the_handler_of_the_older_stream_is_refused(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let refused = Arc::new(AtomicBool::new(false));
    let handler = {
        let (store, refused) = (store.clone(), Arc::clone(&refused));
        HandleStream::new(move |_| {
            let (store, refused) = (store.clone(), Arc::clone(&refused));
            async move {
                let taken = store.stream_all_durable(&successor(), takes_all()).await;
                let is_refused = matches!(taken, Err(StreamError::InvalidOption { .. }));
                refused.store(is_refused, Ordering::SeqCst);
                Ok::<_, std::io::Error>(())
            }
        })
    };
    let stream = store.stream_all_durable(&lazy("mailer"), handler).await.unwrap();
    in_time("the handler returns", stream.caught_up()).await.unwrap();
    assert!(refused.load(Ordering::SeqCst));
    // The handler holds the store.
    store.close().await.unwrap();
}

pub async fn d6_an_older_stream_elsewhere_can_store_nothing_after_the_takeover(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(600)));
    append(&store, "a", 1).await;
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let answering = |gate: &Arc<Semaphore>, answer: &'static str| {
        let (gate, begun) = (Arc::clone(gate), Arc::clone(&begun));
        Reactor::new(move |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move {
                let permit = gate.acquire().await;
                permit.map(|permit| permit.forget())?;
                Ok::<_, tokio::sync::AcquireError>(Reaction::from(NewEvent::new(answer, 1)))
            }
        })
    };
    let cause = EventQuery::types(["a"]);
    let stream = store
        .react(&lazy("mailer"), &cause, answering(&gate, "lost"))
        .await
        .unwrap();
    eventually("the call is under way", || begun.load(Ordering::SeqCst) == 1).await;
    let other = subject.open();
    let open = Arc::new(Semaphore::new(10));
    let _next = other
        .react(&successor(), &cause, answering(&open, "sent"))
        .await
        .unwrap();
    other.settled().await.unwrap();
    gate.add_permits(1);
    let cause = in_time("the older one stops", stream.stopped()).await;
    assert!(is_taken_over(&cause), "{cause:?}");
    let count = |name: &'static str| {
        let other = other.clone();
        async move {
            other
                .query(&EventQuery::types([name]))
                .await
                .unwrap()
                .events
                .len()
        }
    };
    assert_eq!((count("lost").await, count("sent").await), (0, 1));
}

//! A1: handlers that answer events with events.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{letters, shapes};
use crate::conformance::tools::{append, eventually, hasty, in_time};
use crate::error::{DeadLetterError, FailureCategory, ReadError, StopCause, StreamError};
use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::fault::FaultPoint;
use crate::log::letter::DeadLetterState;
use crate::log::owner::Ownership;
use crate::log::steer::{ExpectedCursor, Reset};
use crate::store::Store;
use crate::stream::failure::{FailurePolicy, HandlerError};
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;
use crate::stream::react::reaction::Reaction;
use crate::stream::react::reactor::Reactor;

/// An event of another type for each event of the batch, caused by it, with its sequence as payload.
pub(super) fn each(batch: &EventBatch, event_type: &str) -> Reaction {
    batch.iter().fold(Reaction::nothing(), |reaction, event| {
        let sequence = event.sequence();
        reaction.caused_by(sequence, NewEvent::new(event_type, sequence))
    })
}

/// Answers each event with one of this type.
pub(super) fn answers(event_type: &'static str) -> Reactor {
    let reactor =
        Reactor::new(move |batch: EventBatch| async move { Ok::<_, String>(each(&batch, event_type)) });
    reactor.retry(hasty())
}

/// As `answers`, as soon as the gate lets the call on. Counts the calls that have begun.
fn gated(event_type: &'static str, gate: &Arc<Semaphore>, calls: &Arc<AtomicUsize>) -> Reactor {
    let (gate, calls) = (Arc::clone(gate), Arc::clone(calls));
    let reactor = Reactor::new(move |batch: EventBatch| {
        calls.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.map_err(|error| error.to_string())?.forget();
            Ok::<_, String>(each(&batch, event_type))
        }
    });
    reactor.retry(hasty())
}

/// A name whose cursor is stored with reactions alone, as long as its stream runs.
fn name() -> DurableStream {
    DurableStream::new("payments").checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_secs(3600),
    })
}

fn placed() -> EventQuery {
    EventQuery::types(["placed"])
}

/// What each event of a type answers, as its payload says.
async fn answered(store: &Store, event_type: &str) -> Vec<u64> {
    let found = store.query(&EventQuery::types([event_type])).await.unwrap();
    let payload = |event: &EventRecord| event.payload().decode().unwrap();
    found.events.iter().map(payload).collect()
}

/// The cursor that the log has, which is moved to where it stands.
async fn stored_cursor_is(store: &Store, expected: u64) -> bool {
    let stream = store.stream("payments").await.unwrap();
    stream.reset(Reset::To(expected), expected).await.is_ok()
}

pub async fn a1_a_reaction_is_stored_with_the_cursor_behind_what_it_answers(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 2).await;
    append(&store, "other", 1).await;
    let stream = store.react(&name(), &placed(), answers("asked")).await.unwrap();
    store.settled().await.unwrap();
    append(&store, "placed", 1).await;
    store.settled().await.unwrap();
    assert_eq!(answered(&store, "asked").await, [1, 2, 6]);
    let status = stream.status();
    assert_eq!((status.cursor, status.handled_batches), (Some(6), 2));
    assert!(stored_cursor_is(&store, 6).await);
}

pub async fn a1_a_reaction_of_nothing_moves_the_cursor(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 3).await;
    let nothing =
        Reactor::new(|_| async { Ok::<_, String>(Reaction::nothing().only_if(&EventQuery::all(), 99)) });
    let stream = store.react(&name(), &placed(), nothing).await.unwrap();
    store.settled().await.unwrap();
    let status = stream.status();
    assert_eq!((status.position, status.handled_batches, status.head), (3, 1, 3));
    stream.unsubscribe();
    stream.stopped().await;
    assert!(stored_cursor_is(&store, 3).await);
}

pub async fn a1_a_reaction_that_fails_half_way_is_appended_once(subject: &Subject) {
    let failures = Arc::new(AtomicUsize::new(3));
    let left = Arc::clone(&failures);
    let hook = move |point| point == FaultPoint::InReaction && take_one(&left);
    let store = subject.open_faulty(|builder| builder, hook);
    append(&store, "placed", 1).await;
    let stream = store.react(&name(), &placed(), answers("asked")).await.unwrap();
    store.settled().await.unwrap();
    assert_eq!(failures.load(Ordering::SeqCst), 0);
    assert_eq!(answered(&store, "asked").await, [1]);
    assert_eq!(stream.status().failures, 0, "the handler has not failed");
    assert!(stored_cursor_is(&store, 1).await);
}

fn take_one(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

pub async fn a1_a_reaction_that_cannot_be_appended_stops_the_stream_before_its_cause(subject: &Subject) {
    let failing: Arc<Mutex<Option<FaultPoint>>> = Arc::default();
    let hook = {
        let failing = Arc::clone(&failing);
        move |point| *failing.lock().unwrap() == Some(point)
    };
    let store = subject.open_faulty(|builder| builder, hook);
    for (round, point) in [(0, FaultPoint::InReaction), (1, FaultPoint::BeforeCommit)] {
        let gate = Arc::new(Semaphore::new(0));
        let reactor = gated("asked", &gate, &Arc::default());
        let stream = store.react(&name(), &placed(), reactor).await.unwrap();
        let (cause, _) = append(&store, "placed", 1).await;
        *failing.lock().unwrap() = Some(point);
        gate.add_permits(1);
        let stopped = in_time("the stream stops", stream.stopped()).await;
        let StopCause::ReactionNotStored { last_sequence, .. } = stopped else {
            panic!("the reaction is named: {stopped:?}");
        };
        assert_eq!((last_sequence, stream.status().position), (cause, cause - 1));
        assert_eq!(
            (store.head(), answered(&store, "asked").await.len()),
            (cause, round)
        );
        *failing.lock().unwrap() = None;
        let _stream = store.react(&name(), &placed(), answers("asked")).await.unwrap();
        store.settled().await.unwrap();
        assert_eq!(answered(&store, "asked").await.last(), Some(&cause));
    }
    assert_eq!(answered(&store, "asked").await.len(), 2);
}

pub async fn a1_a_commit_that_was_reported_to_have_failed_doubles_no_reaction(subject: &Subject) {
    let left = Arc::new(AtomicUsize::new(0));
    let hook = {
        let left = Arc::clone(&left);
        move |point| point == FaultPoint::AfterCommit && take_one(&left)
    };
    let store = subject.open_faulty(|builder| builder, hook);
    let gate = Arc::new(Semaphore::new(0));
    let reactor = gated("asked", &gate, &Arc::default());
    let stream = store.react(&name(), &placed(), reactor).await.unwrap();
    append(&store, "placed", 1).await;
    left.store(1, Ordering::SeqCst);
    gate.add_permits(1);
    eventually("the position passes it", || stream.status().position >= 1).await;
    store.settled().await.unwrap();
    assert_eq!(left.load(Ordering::SeqCst), 0, "the commit seemed to fail");
    assert_eq!(answered(&store, "asked").await, [1]);
    assert!(stored_cursor_is(&store, 1).await);
}

pub async fn a1_no_older_position_follows_the_one_of_a_reaction(subject: &Subject) {
    let store = subject.open();
    for _ in 0..20 {
        append(&store, "placed", 1).await;
    }
    // The position of what is not answered waits for a group, and rides along with the next reaction.
    let every_other = Reactor::new(|batch: EventBatch| async move {
        Ok::<_, String>(match batch.last_sequence() % 2 {
            0 => each(&batch, "asked"),
            _ => Reaction::nothing(),
        })
    });
    let riding = name().checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_millis(30),
    });
    let stream = store.react(&riding, &placed(), every_other).await.unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert!(stored_cursor_is(&store, 20).await);
    let even: Vec<u64> = (1..=10).map(|half| 2 * half).collect();
    assert_eq!(answered(&store, "asked").await, even);
}

pub async fn a1_a_reset_during_the_call_lets_nothing_of_the_run_before_in(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::default());
    let stream = store
        .react(&name(), &placed(), gated("asked", &gate, &calls))
        .await
        .unwrap();
    eventually("the call is under way", || calls.load(Ordering::SeqCst) == 1).await;
    let control = store.stream("payments").await.unwrap();
    control
        .reset(Reset::Beginning, ExpectedCursor::anywhere())
        .await
        .unwrap();
    gate.add_permits(1);
    eventually("the batch is given again", || calls.load(Ordering::SeqCst) == 2).await;
    assert_eq!(answered(&store, "asked").await, [0; 0]);
    gate.add_permits(1);
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(answered(&store, "asked").await, [1]);
}

pub async fn a1_who_lost_the_name_appends_nothing(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(600)));
    append(&store, "placed", 1).await;
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::default());
    let lost = store
        .react(&name(), &placed(), gated("lost", &gate, &calls))
        .await
        .unwrap();
    eventually("the call is under way", || calls.load(Ordering::SeqCst) == 1).await;
    let other = subject.open();
    let takes_over = name().ownership(Ownership::TakeOver);
    let _stream = other
        .react(&takes_over, &placed(), answers("asked"))
        .await
        .unwrap();
    other.settled().await.unwrap();
    gate.add_permits(1);
    let cause = in_time("the stream stops", lost.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert_eq!(answered(&other, "asked").await, [1]);
    assert_eq!(answered(&other, "lost").await, [0; 0]);
}

pub async fn a1_a_reaction_that_is_refused_tells_its_stream_of_the_reset(subject: &Subject) {
    let store = subject.open_with(|builder| builder.poll_interval(Duration::from_secs(600)));
    append(&store, "placed", 1).await;
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::default());
    let stream = store
        .react(&name(), &placed(), gated("asked", &gate, &calls))
        .await
        .unwrap();
    eventually("the call is under way", || calls.load(Ordering::SeqCst) == 1).await;
    let other = subject.open();
    let control = other.stream("payments").await.unwrap();
    control
        .reset(Reset::Beginning, ExpectedCursor::anywhere())
        .await
        .unwrap();
    gate.add_permits(2);
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(
        calls.load(Ordering::SeqCst),
        2,
        "what was refused is decided again"
    );
    assert_eq!(answered(&store, "asked").await, [1]);
}

pub async fn a1_a_store_that_closes_during_the_call_loses_no_reaction(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::default());
    let stream = store
        .react(&name(), &placed(), gated("asked", &gate, &calls))
        .await
        .unwrap();
    eventually("the call is under way", || calls.load(Ordering::SeqCst) == 1).await;
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    let refused = async { while store.append([NewEvent::new("other", 1)]).await.is_ok() {} };
    in_time("appends are refused", refused).await;
    gate.add_permits(1);
    in_time("the store is closed", closing).await.unwrap().unwrap();
    assert!(matches!(stream.stopped().await, StopCause::Closed));
    drop((stream, store));
    let store = subject.open();
    assert_eq!(answered(&store, "asked").await, [0; 0]);
    let _stream = store.react(&name(), &placed(), answers("asked")).await.unwrap();
    store.settled().await.unwrap();
    assert_eq!(answered(&store, "asked").await, [1]);
}

/// Answers each batch with `asked`, if nothing of that type came since it looked. `meddles` says how often something comes.
fn deciding(store: &Store, meddles: usize, calls: &Arc<AtomicUsize>) -> Reactor {
    let (store, calls, left) = (
        store.clone(),
        Arc::clone(calls),
        Arc::new(AtomicUsize::new(meddles)),
    );
    Reactor::new(move |batch: EventBatch| {
        let (store, left) = (store.clone(), Arc::clone(&left));
        calls.fetch_add(1, Ordering::SeqCst);
        async move {
            let asked = EventQuery::types(["asked", "meddled"]);
            let context = store.query(&asked).await?;
            if take_one(&left) {
                append(&store, "meddled", 1).await;
            }
            let reaction = each(&batch, "asked").only_if(&asked, context.context_version);
            Ok::<_, ReadError>(reaction)
        }
    })
}

pub async fn a1_a_condition_that_does_not_hold_is_decided_again(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    let calls = Arc::default();
    let reactor = deciding(&store, 2, &calls).retry(hasty());
    let stream = store.react(&name(), &placed(), reactor).await.unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!((calls.load(Ordering::SeqCst), stream.status().failures), (3, 2));
    assert_eq!(answered(&store, "asked").await, [1]);
    assert!(stream.status().last_error.unwrap().contains("context"));
}

pub async fn a1_a_condition_that_never_holds_has_its_own_category(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    let calls = Arc::default();
    let reactor = deciding(&store, usize::MAX, &calls).retry(hasty().attempts_max(3));
    let park = name()
        .on_failure(FailurePolicy::stop())
        .on(FailureCategory::Conflict, FailurePolicy::park());
    let stream = store.react(&park, &placed(), reactor).await.unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let found = letters(&store, "payments").await;
    assert_eq!(
        (found[0].category, found[0].attempts),
        (Some(FailureCategory::Conflict), 3)
    );
    assert_eq!(answered(&store, "asked").await, [0; 0]);
    // A retry decides once, and the letter says why it failed again.
    let failed = store.dead_letters("payments").retry(1).await;
    let Err(DeadLetterError::HandlerFailed { category, .. }) = failed else {
        panic!("the condition cannot hold: {failed:?}");
    };
    assert_eq!(category, FailureCategory::Conflict);
    assert_eq!(letters(&store, "payments").await[0].attempts, 4);
}

/// Answers with an event that no append takes, for as long as it is not mended.
fn broken(is_mended: &Arc<AtomicBool>) -> Reactor {
    let is_mended = Arc::clone(is_mended);
    let reactor = Reactor::new(move |batch: EventBatch| {
        let is_bad = batch.first_sequence() == 2 && !is_mended.load(Ordering::SeqCst);
        async move { Ok::<_, String>(each(&batch, if is_bad { "" } else { "asked" })) }
    });
    reactor.retry(Retry::never())
}

pub async fn a1_a_reaction_that_no_append_takes_is_a_failure_and_loses_nothing(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    append(&store, "placed", 2).await;
    append(&store, "placed", 1).await;
    let is_mended = Arc::default();
    let stream = store.react(&name(), &placed(), broken(&is_mended)).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::HandlerFailed {
        last_sequence: 3,
        category: FailureCategory::Error,
        error,
        ..
    } = &cause
    else {
        panic!("the handler has failed: {cause:?}");
    };
    assert!(error.contains("event type is empty"), "{error}");
    assert_eq!(answered(&store, "asked").await, [1]);
    let park = name().on_failure(FailurePolicy::park());
    let stream = store.react(&park, &placed(), broken(&is_mended)).await.unwrap();
    store.settled().await.unwrap();
    assert_eq!(
        shapes(&store, "payments").await,
        [(2, 3, DeadLetterState::Parked)]
    );
    assert_eq!(answered(&store, "asked").await, [1, 4]);
    is_mended.store(true, Ordering::SeqCst);
    let retried = store.dead_letters("payments").retry_all().await.unwrap();
    assert_eq!((retried.handled, stream.status().parked), (1, 0));
    assert_eq!(answered(&store, "asked").await, [1, 4, 2, 3]);
}

pub async fn a1_a_letter_is_removed_with_its_reaction_or_not_at_all(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = {
        let fails = Arc::clone(&fails);
        move |point| point == FaultPoint::InReaction && fails.load(Ordering::SeqCst)
    };
    let store = subject.open_faulty(|builder| builder, hook);
    append(&store, "other", 1).await;
    append(&store, "placed", 1).await;
    let is_mended = Arc::default();
    let park = name().on_failure(FailurePolicy::park());
    let stream = store.react(&park, &placed(), broken(&is_mended)).await.unwrap();
    in_time("it is parked", stream.caught_up()).await.unwrap();
    is_mended.store(true, Ordering::SeqCst);
    fails.store(true, Ordering::SeqCst);
    let failed = store.dead_letters("payments").retry(2).await;
    assert!(matches!(failed, Err(DeadLetterError::Storage(_))), "{failed:?}");
    assert_eq!((letters(&store, "payments").await.len(), store.head()), (1, 2));
    fails.store(false, Ordering::SeqCst);
    store.dead_letters("payments").retry(2).await.unwrap();
    assert_eq!(letters(&store, "payments").await.len(), 0);
    assert_eq!(answered(&store, "asked").await, [2]);
    let gone = store.dead_letters("payments").retry(2).await;
    assert!(matches!(gone, Err(DeadLetterError::NotFound { .. })), "{gone:?}");
    assert_eq!(answered(&store, "asked").await, [2]);
}

pub async fn a1_a_letter_that_was_discarded_meanwhile_is_not_answered(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 1).await;
    let (gate, calls): (_, Arc<AtomicUsize>) = (Arc::new(Semaphore::new(0)), Arc::default());
    let reactor = {
        let (gate, calls) = (Arc::clone(&gate), Arc::clone(&calls));
        Reactor::new(move |batch: EventBatch| {
            let (gate, call) = (Arc::clone(&gate), calls.fetch_add(1, Ordering::SeqCst));
            async move {
                if call == 0 {
                    return Err("not yet");
                }
                gate.acquire().await.expect("it stays open").forget();
                Ok(each(&batch, "asked"))
            }
        })
    };
    let park = name().on_failure(FailurePolicy::park());
    let stream = store
        .react(&park, &placed(), reactor.retry(Retry::never()))
        .await
        .unwrap();
    in_time("it is parked", stream.caught_up()).await.unwrap();
    let letters = store.dead_letters("payments");
    let retry = tokio::spawn({
        let letters = letters.clone();
        async move { letters.retry(1).await }
    });
    eventually("the call is under way", || calls.load(Ordering::SeqCst) == 2).await;
    letters.discard(1, "nobody wants it").await.unwrap();
    gate.add_permits(1);
    let gone = retry.await.unwrap();
    assert!(matches!(gone, Err(DeadLetterError::NotFound { .. })), "{gone:?}");
    assert_eq!(answered(&store, "asked").await, [0; 0]);
}

pub async fn a1_an_error_that_names_an_event_leaves_none_before_it_unanswered(subject: &Subject) {
    let store = subject.open();
    append(&store, "placed", 3).await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let reactor = {
        let is_mended = Arc::clone(&is_mended);
        Reactor::new(move |batch: EventBatch| {
            let is_mended = is_mended.load(Ordering::SeqCst);
            async move {
                match is_mended {
                    true => Ok(each(&batch, "asked")),
                    false => Err(HandlerError::at(2, "no")),
                }
            }
        })
    };
    let park = name().on_failure(FailurePolicy::park());
    let stream = store
        .react(&park, &placed(), reactor.retry(Retry::never()))
        .await
        .unwrap();
    in_time("it is parked", stream.caught_up()).await.unwrap();
    assert_eq!(
        shapes(&store, "payments").await,
        [(1, 3, DeadLetterState::Parked)]
    );
    let letters = store.dead_letters("payments");
    assert!(letters.retry(1).await.is_err());
    assert_eq!(
        shapes(&store, "payments").await,
        [(1, 3, DeadLetterState::Parked)]
    );
    is_mended.store(true, Ordering::SeqCst);
    letters.retry(1).await.unwrap();
    assert_eq!(answered(&store, "asked").await, [1, 2, 3]);
}

pub async fn a1_a_reactor_of_several_keys_at_once_is_refused(subject: &Subject) {
    let store = subject.open();
    let keyed = name().partition_by(2, |event| Some(event.event_type().to_owned()));
    let refused = store.react(&keyed, &placed(), answers("asked")).await;
    let Err(StreamError::InvalidOption { name, problem }) = refused else {
        panic!("it is refused: {refused:?}");
    };
    assert!(
        name == "payments" && problem.contains("partition_by"),
        "{problem}"
    );
}

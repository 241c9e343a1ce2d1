//! D9: what is done with dead letters for somebody who does not have the handler.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::proofs::steering::ledger;
use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{Poison, append_types, by_type, letters, shapes};
use crate::conformance::tools::{Recorder, append, eventually, in_time};
use crate::error::{DeadLetterError, SteerError};
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::letter::DeadLetterState;
use crate::log::retry_request::RetryLetters;
use crate::store::Store;
use crate::stream::failure::FailurePolicy;
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;
use crate::stream::policy::Retry;
use crate::stream::retry_request::{RetryProgress, RetryState, RetryTicket, Withdrawal};

use DeadLetterState::{Parked, Queued, Skipped};

const SOON: Duration = Duration::from_secs(20);

async fn ask(store: &Store, which: RetryLetters) -> Result<RetryTicket, SteerError> {
    ledger(store).await.ask_for_retry(which, "anna", SOON).await
}

async fn asked(store: &Store, which: RetryLetters) -> RetryProgress {
    let ticket = ask(store, which).await.unwrap();
    in_time("the request ends", ticket.ended()).await.unwrap()
}

/// What a request came to: handled, failed, waiting.
fn counts(progress: &RetryProgress) -> (u64, u64, u64) {
    assert_eq!(progress.state, RetryState::Ended, "{progress:?}");
    (progress.handled, progress.failed, progress.waiting)
}

pub async fn d9_letters_are_retried_for_whoever_asks(subject: &Subject) {
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
    assert_eq!(
        shapes(&store, "ledger").await,
        [(1, 1, Parked), (2, 2, Parked), (3, 3, Queued), (4, 4, Parked)]
    );
    // The stream rests, its letters do not.
    ledger(&store).await.pause("ben").await.unwrap();
    let out_of_turn = asked(&store, RetryLetters::One(3)).await;
    assert_eq!(counts(&out_of_turn), (0, 0, 1));
    let problem = out_of_turn.problem.unwrap();
    assert!(problem.contains("1"), "{problem}");
    let failed = asked(&store, RetryLetters::Key("a".into())).await;
    assert_eq!((counts(&failed), &failed.problem), ((0, 1, 0), &None));
    let letter = &letters(&store, "ledger").await[0];
    assert_eq!(
        (letter.attempts, letter.cause.as_deref()),
        (3, Some("poisoned by 1"))
    );
    assert_eq!(counts(&asked(&store, RetryLetters::All).await), (0, 3, 1));
    poison.heal();
    let one = asked(&store, RetryLetters::One(4)).await;
    assert_eq!((counts(&one), one.handled_first), ((1, 0, 0), vec![4]));
    let of_key = asked(&store, RetryLetters::Key("a".into())).await;
    assert_eq!((counts(&of_key), of_key.handled_first), ((2, 0, 0), vec![1, 3]));
    assert_eq!(counts(&asked(&store, RetryLetters::All).await), (1, 0, 0));
    assert_eq!(recorder.sequences(), [4, 1, 3, 2]);
    let status = ledger(&store).await.status().await.unwrap();
    assert_eq!((status.cursor, status.parked), (Some(4), 0));
    for missing in [RetryLetters::One(1), RetryLetters::Key("a".into())] {
        let refused = ask(&store, missing).await;
        assert!(
            matches!(refused, Err(SteerError::NoSuchLetter { .. })),
            "{refused:?}"
        );
    }
}

pub async fn d9_who_asks_for_a_stream_that_nobody_runs_is_refused(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store
        .stream_all_durable(&name, poison.handler(&recorder))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    stream.unsubscribe();
    stream.stopped().await;
    // That a run has ended is stored a moment after its stream has.
    let refused = async {
        loop {
            match ask(&store, RetryLetters::All).await {
                Ok(ticket) => assert_eq!(ticket.withdraw().await.unwrap(), Withdrawal::Withdrawn),
                Err(refused) => return refused,
            }
        }
    };
    let refused = in_time("the end is stored", refused).await;
    assert!(matches!(refused, SteerError::NobodyRuns { .. }), "{refused:?}");
    // Nothing of it is left for the next run.
    poison.heal();
    let store = subject.reopen(store).await;
    let stream = store
        .stream_all_durable(&name, poison.handler(&recorder))
        .await
        .unwrap();
    append(&store, "a", 1).await;
    stream.wait_for(2).await.unwrap();
    assert_eq!(recorder.sequences(), [2]);
    assert_eq!(shapes(&store, "ledger").await, [(1, 1, Parked)]);
}

pub async fn d9_one_request_at_a_time_and_what_was_begun_is_not_taken_back(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let is_first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let handler = HandleStream::new(move |_| {
        let (held, fails) = (
            Arc::clone(&held),
            is_first.swap(false, std::sync::atomic::Ordering::SeqCst),
        );
        async move {
            if fails {
                return Err("not yet");
            }
            held.acquire().await.expect("the gate stays").forget();
            Ok(())
        }
    });
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store
        .stream_all_durable(&name, handler.retry(Retry::never()))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let ticket = ask(&store, RetryLetters::All).await.unwrap();
    eventually("the handler has the letter", || {
        stream.status().call_running_for.is_some()
    })
    .await;
    assert_eq!(ticket.progress().await.unwrap().state, RetryState::UnderWay);
    let refused = ask(&store, RetryLetters::All).await;
    assert!(
        matches!(&refused, Err(SteerError::RetryUnderWay { by, .. }) if by == "anna"),
        "{refused:?}"
    );
    assert_eq!(ticket.withdraw().await.unwrap(), Withdrawal::TooLate);
    gate.add_permits(1);
    let ended = in_time("the request ends", ticket.ended()).await.unwrap();
    assert_eq!(counts(&ended), (1, 0, 0));
    append(&store, "a", 1).await;
    gate.add_permits(1);
    stream.wait_for(2).await.unwrap();
    // The next request takes the place of the one that ended.
    assert_eq!(counts(&asked(&store, RetryLetters::All).await), (0, 0, 0));
    assert_eq!(ticket.progress().await.unwrap().state, RetryState::Gone);
}

/// A stream that another store runs, whose handler fails on the first event.
async fn run_elsewhere(subject: &Subject, poison: &Poison, recorder: &Recorder) -> Store {
    let store = subject.open();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    let name = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store
        .stream_all_durable(&name, poison.handler(recorder))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    stream.detach();
    store
}

pub async fn d9_a_request_is_heard_by_the_store_that_runs_the_stream(subject: &Subject) {
    let (recorder, poison) = (Recorder::new(), Poison::on([1]));
    let runs = run_elsewhere(subject, &poison, &recorder).await;
    let asks = subject.open();
    let here = asks.dead_letters("ledger").retry_all().await;
    assert!(
        matches!(here, Err(DeadLetterError::NotRunning { .. })),
        "{here:?}"
    );
    assert_eq!(counts(&asked(&asks, RetryLetters::All).await), (0, 1, 0));
    poison.heal();
    let one = asked(&asks, RetryLetters::One(1)).await;
    assert_eq!((counts(&one), one.handled_first), ((1, 0, 0), vec![1]));
    assert_eq!(recorder.sequences(), [2, 1]);
    let status = runs.stream("ledger").await.unwrap().status().await.unwrap();
    assert_eq!((status.cursor, status.parked), (Some(2), 0));
}

pub async fn d9_a_skipped_batch_is_recorded_with_the_events_that_the_query_selects(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b", "a", "b", "a"]).await;
    append_types(&store, &["b"]).await;
    let (recorder, poison) = (Recorder::new(), Poison::on([2]));
    let handler = poison.handler(&recorder).retry(Retry::never());
    let query = EventQuery::types(["b"]);
    let name = DurableStream::new("ledger");
    let stream = store.stream_to_durable(&name, &query, handler).await.unwrap();
    in_time("it stops", stream.stopped()).await;
    let control = ledger(&store).await;
    let refused = control.skip_batch(0, "").await;
    assert!(
        matches!(refused, Err(SteerError::InvalidText { .. })),
        "{refused:?}"
    );
    control.skip_batch(0, "anna, a test order").await.unwrap();
    assert_eq!(shapes(&store, "ledger").await, [(2, 4, Skipped)]);
    let (letter, events) = store.dead_letters("ledger").show(2).await.unwrap();
    assert_eq!(letter.cause.as_deref(), Some("skipped by anna, a test order"));
    assert_eq!(
        (letter.attempts, letter.category, letter.event_count()),
        (0, None, 2)
    );
    let sequences: Vec<u64> = events.iter().map(EventRecord::sequence).collect();
    assert_eq!(sequences, [2, 4]);
    let handler = poison.handler(&recorder);
    let stream = store.stream_to_durable(&name, &query, handler).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!((recorder.sequences(), stream.status().skipped), (vec![6], 1));
    // What was left out can be made good.
    poison.heal();
    store.dead_letters("ledger").retry(2).await.unwrap();
    assert_eq!(
        (recorder.sequences(), stream.status().skipped),
        (vec![6, 2, 4], 0)
    );
}

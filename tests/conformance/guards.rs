//! Who guards the guards: on a log that breaks a promise, the suite has to fail.

use std::time::Duration;

use millstream::internals::Sabotage;

use crate::subject::Subject;
use crate::{PROOFS, Proof};

/// How long a proof may take on a broken log before it counts as failed.
const BROKEN_LIMIT: Duration = Duration::from_secs(3);

/// How many proofs run at once. More of them only slow each other down.
const PROOFS_AT_ONCE: usize = 8;

/// The proofs that fail, by name. What a proof does ends with it.
async fn failing(
    limit: Duration,
    chosen: impl Fn(&str) -> bool,
    subject: impl Fn() -> Subject,
) -> Vec<&'static str> {
    use futures::StreamExt;
    let proofs = PROOFS.iter().filter(|(name, _)| chosen(name));
    let outcomes = futures::stream::iter(proofs).map(|&(name, proof)| {
        let subject = subject();
        async move { (name, holds(proof, subject, limit).await) }
    });
    let outcomes: Vec<_> = outcomes.buffer_unordered(PROOFS_AT_ONCE).collect().await;
    outcomes
        .into_iter()
        .filter_map(|(name, holds)| (!holds).then_some(name))
        .collect()
}

/// Whether a proof comes to its end in time and without a panic.
async fn holds(proof: Proof, subject: Subject, limit: Duration) -> bool {
    let task = tokio::spawn(async move { tokio::time::timeout(limit, proof(&subject)).await.is_ok() });
    task.await.unwrap_or(false)
}

/// The promises of which a proof failed.
async fn caught_by(sabotage: Sabotage) -> Vec<&'static str> {
    let names = failing(BROKEN_LIMIT, |_| true, || Subject::broken(sabotage)).await;
    let mut promises: Vec<&str> = names.iter().map(|name| &name[..2]).collect();
    promises.sort_unstable();
    promises.dedup();
    promises
}

async fn is_caught(sabotage: Sabotage, by: &str) {
    let promises = caught_by(sabotage).await;
    assert!(
        promises.contains(&by),
        "{sabotage:?} was to be caught by {by}, and was by {promises:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_log_fails_no_proof() {
    let failed = failing(crate::LIMIT, |_| true, Subject::memory).await;
    assert_eq!(failed, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_loses_batches_is_caught_by_completeness() {
    is_caught(Sabotage::Loses, "s3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_doubles_batches_is_caught_by_completeness() {
    is_caught(Sabotage::Doubles, "s3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_reorders_batches_is_caught_by_order() {
    is_caught(Sabotage::Reorders, "s2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_publishes_before_it_commits_is_caught_by_reading_at_once() {
    is_caught(Sabotage::PublishesEarly, "l2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ignores_conditions_is_caught_by_conditional_appends() {
    is_caught(Sabotage::IgnoresConditions, "l3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_forgets_cursors_is_caught_by_resuming() {
    is_caught(Sabotage::ForgetsCursors, "d1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_loses_letters_is_caught_by_setting_aside() {
    is_caught(Sabotage::LosesLetters, "d5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_forgets_keys_is_caught_by_repeated_appends() {
    is_caught(Sabotage::ForgetsKeys, "l6").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_wake_ups_without_the_poll_are_caught_by_completeness() {
    let an_hour = Duration::from_secs(3_600);
    let is_completeness = |name: &str| name.starts_with("s3") || name.starts_with("d8");
    let subject = || Subject::memory().losing_wake_ups(an_hour);
    let failed = failing(BROKEN_LIMIT, is_completeness, subject).await;
    assert!(failed.contains(&"s3_a_live_stream_misses_nothing"), "{failed:?}");
    assert!(
        failed.contains(&"d8_lost_wake_ups_delay_by_the_poll_interval"),
        "{failed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d8_lost_wake_ups_with_the_poll_break_no_promise_of_completeness() {
    let default = Duration::from_millis(100);
    let is_completeness = |name: &str| name.starts_with("s3") || name.starts_with("d8");
    let subject = || Subject::memory().losing_wake_ups(default);
    let failed = failing(crate::LIMIT, is_completeness, subject).await;
    assert_eq!(failed, [""; 0]);
}

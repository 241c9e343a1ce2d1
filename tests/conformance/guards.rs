//! Who guards the guards: on a log that breaks a promise, the kit has to fail.

use std::time::Duration;

use millstream::conformance::{Proof, run};

use crate::logs;

mod in_memory {
    millstream::conformance_guards!(crate::logs::in_memory());
}

mod in_a_file {
    millstream::conformance_guards!(crate::logs::in_a_file());
}

fn is_completeness(proof: &Proof) -> bool {
    ["S3", "D8"].contains(&proof.promise().number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_log_fails_no_proof() {
    let report = run(logs::in_memory, |_| true).await;
    assert_eq!(report.failed().count(), 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_wake_ups_without_the_poll_are_caught_by_completeness() {
    let an_hour = Duration::from_secs(3_600);
    let deaf = || logs::in_memory().losing_wake_ups(an_hour);
    let names = [
        "s3_a_live_stream_misses_nothing",
        "d8_lost_wake_ups_delay_by_the_poll_interval",
    ];
    for name in names {
        let proof = millstream::conformance::proof(name).expect("it is in the list");
        let outcome = proof.run(deaf(), Duration::from_secs(3)).await;
        assert!(
            matches!(outcome, millstream::conformance::Outcome::Failed(_)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d8_lost_wake_ups_with_the_poll_break_no_promise_of_completeness() {
    let default = Duration::from_millis(100);
    let report = run(|| logs::in_memory().losing_wake_ups(default), is_completeness).await;
    assert!(report.outcomes().count() > 10, "{report}");
    assert_eq!(report.failed().count(), 0, "{report}");
}

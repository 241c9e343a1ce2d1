//! What the kit says: of its proofs, of what it left out, and of what failed.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream::conformance::{Capability, Outcome, PROOFS, Sabotage, guard, proof, run};

use crate::logs;

#[test]
fn proofs_are_listed_once_and_found_by_name() {
    let names: BTreeSet<&str> = PROOFS.iter().map(|proof| proof.name).collect();
    assert_eq!(names.len(), PROOFS.len());
    assert!(names.iter().all(|name| proof(name).is_some()));
    assert!(proof("l1").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_log_cannot_do_is_left_out_and_told() {
    let report = run(logs::in_memory, |proof| {
        proof.name.starts_with("d7_") || proof.name.starts_with("l3_")
    })
    .await;
    let left_out: Vec<_> = report
        .left_out()
        .map(|(proof, missing)| (proof.name, missing))
        .collect();
    assert_eq!(
        left_out,
        [
            ("d7_a_cursor_ahead_of_the_log_is_refused", Capability::Tampered),
            ("d7_a_cursor_of_another_log_is_refused", Capability::Tampered),
        ]
    );
    let held = report
        .outcomes()
        .filter(|(_, outcome)| **outcome == Outcome::Held);
    assert_eq!(held.count() + left_out.len(), report.outcomes().count());
    let told = report.to_string();
    assert!(told.contains("held, 0 failed, 2 were left out"), "{told}");
    let line =
        "left out: d7_a_cursor_of_another_log_is_refused: it needs a log that can be changed past its stores";
    assert!(told.contains(line), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_told_with_the_promise_and_what_was_found() {
    let broken = || logs::in_memory().breaking(Sabotage::IgnoresConditions);
    let report = run(broken, |proof| proof.name.starts_with("l3_an")).await;
    let failed: Vec<_> = report.failed().collect();
    let [(proof, found)] = failed[..] else {
        panic!("{report}");
    };
    assert_eq!(proof.name, "l3_an_append_is_refused_when_its_context_moved");
    let told = report.to_string();
    assert!(!found.is_empty() && told.contains(found), "{told}");
    assert!(
        told.contains("L3: `append_if` refuses when its context moved"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_does_not_end_in_time_has_failed() {
    // It waits for a time that passes; what appends alone may be done before the time is looked at.
    let proof = proof("s7_a_stream_has_stopped_when_no_retry_runs").expect("it is in the list");
    let outcome = proof.run(logs::in_memory(), Duration::ZERO).await;
    assert!(
        matches!(&outcome, Outcome::Failed(found) if found.contains("not done within 0ns")),
        "{outcome:?}"
    );
    proof.show(&logs::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_builder_is_not_heeded_is_not_caught() {
    struct Deaf;
    impl millstream::conformance::TestLog for Deaf {
        fn open(&self, _: millstream::StoreBuilder) -> Result<millstream::Store, millstream::OpenError> {
            millstream::Store::in_memory()
        }

        fn has(&self, _: Capability) -> bool {
            false
        }
    }
    let sound = || millstream::conformance::Subject::new(Deaf);
    let caught = guard(Sabotage::IgnoresConditions, sound).await;
    assert_eq!(caught.by, [""; 0]);
    assert_eq!(caught.sabotage.promise(), "L3");
}

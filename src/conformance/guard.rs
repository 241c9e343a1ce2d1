//! Who guards the guards: a log that breaks a promise has to fail a proof of that promise.

use std::time::Duration;

use crate::conformance::run::{Outcome, Proof, run_within};
use crate::conformance::subject::Subject;
use crate::log::broken::Sabotage;

/// How long a proof may take on a broken log before it counts as failed.
const BROKEN_TIME_MAX: Duration = Duration::from_secs(3);

/// Which proofs have noticed that a log breaks a promise.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "it says whether anybody noticed"]
pub struct Caught {
    /// What the log was made to do wrong.
    pub sabotage: Sabotage,
    /// The proofs of the promise that failed. None: the kit has not noticed.
    pub by: Vec<&'static str>,
}

/// Lets logs do one thing wrong, and runs the proofs of the promise that they break. A proof that is not done within 3 s has failed. Only
/// proofs count that hold, within the same time, where nothing is wrong.
///
/// Where the way in which your log is opened leaves out the builder that it is given, the log is not broken, and nothing is caught.
pub async fn guard(sabotage: Sabotage, fresh: impl Fn() -> Subject) -> Caught {
    let of_promise = |proof: &Proof| proof.promise().number == sabotage.promise();
    let sound = run_within(BROKEN_TIME_MAX, &fresh, of_promise).await;
    let held = |name| {
        let mut outcomes = sound.outcomes();
        outcomes.any(|(proof, outcome)| proof.name == name && *outcome == Outcome::Held)
    };
    let broken = || fresh().breaking(sabotage);
    let report = run_within(BROKEN_TIME_MAX, broken, |proof| {
        of_promise(proof) && held(proof.name)
    })
    .await;
    let by = report.failed().map(|(proof, _)| proof.name).collect();
    Caught { sabotage, by }
}

/// What a test that `conformance_guards!` makes does; without a subject it is skipped.
pub async fn hold_guard(sabotage: Sabotage, fresh: impl Fn() -> Option<Subject>) {
    if fresh().is_none() {
        return;
    }
    let caught = guard(sabotage, || fresh().expect("what was there is there again")).await;
    assert!(
        !caught.by.is_empty(),
        "a log that does this is caught by no proof of {} that a sound one keeps in time: {sabotage:?}",
        sabotage.promise()
    );
}

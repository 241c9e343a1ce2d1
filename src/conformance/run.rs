//! Proofs run one by one or together, and what is said of that.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use crate::conformance::list::PROOFS;
use crate::conformance::promise::Promise;
use crate::conformance::subject::{Capability, Subject};

/// How long a proof may take before the log counts as broken: 30 s, unless a test says otherwise.
pub const TIME_MAX: Duration = Duration::from_secs(30);

/// How many proofs [`run`] has under way at once. More of them only slow each other down.
const PROOFS_AT_ONCE: usize = 8;

/// One proof: a claim about a log, and the function that shows it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Proof {
    /// The claim. It begins with the number of the promise.
    pub name: &'static str,
    /// What the log has to be able to do for it; nothing: every log has to keep it.
    pub needs: Option<Capability>,
    pub(crate) show: for<'a> fn(&'a Subject) -> BoxFuture<'a, ()>,
}

/// What came of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The log keeps the promise.
    Held,
    /// It does not, and this is what was found.
    Failed(String),
    /// The proof was not run: the log does not say that it can do what it takes.
    LeftOut(Capability),
}

/// What came of several proofs.
#[derive(Clone, Debug, Default)]
#[must_use = "it says what failed"]
pub struct Report {
    outcomes: Vec<(Proof, Outcome)>,
}

impl Proof {
    /// The promise that it proves.
    pub fn promise(&self) -> &'static Promise {
        Promise::of(self.name)
    }

    /// Runs it on a new log, and panics where it fails.
    ///
    /// # Panics
    /// The log does not keep the promise.
    pub async fn show(&self, subject: &Subject) {
        (self.show)(subject).await;
    }

    /// Runs it on a new log, for so long at the most. It needs a tokio runtime with its time driver, and is meant for one of several
    /// threads.
    pub async fn run(&self, subject: Subject, time_max: Duration) -> Outcome {
        if let Some(missing) = self.needs.filter(|needed| !subject.has(*needed)) {
            return Outcome::LeftOut(missing);
        }
        let show = self.show;
        let shown = tokio::spawn(async move { tokio::time::timeout(time_max, show(&subject)).await });
        match shown.await {
            Ok(Ok(())) => Outcome::Held,
            Ok(Err(_)) => Outcome::Failed(format!("not done within {time_max:?}")),
            Err(error) => Outcome::Failed(match error.try_into_panic() {
                Ok(panic) => told(&*panic),
                Err(error) => error.to_string(),
            }),
        }
    }
}

/// What a panic says.
fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| String::from(*text));
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| String::from("it panicked"))
}

/// The proof of this name.
pub fn proof(name: &str) -> Option<&'static Proof> {
    PROOFS.iter().find(|proof| proof.name == name)
}

/// Runs the proofs that are chosen, each on a new log and for [`TIME_MAX`] at the most, a few at a time.
///
/// ```
/// # #[tokio::main] async fn main() {
/// use millstream::conformance::{Capability, Subject, TestLog, run};
/// use millstream::{OpenError, Store, StoreBuilder};
///
/// struct InMemory;
///
/// impl TestLog for InMemory {
///     fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
///         builder.in_memory()
///     }
///
///     fn has(&self, _: Capability) -> bool {
///         false
///     }
/// }
///
/// let appends = run(|| Subject::new(InMemory), |proof| proof.name.starts_with("l3_")).await;
/// println!("{appends}");
/// assert_eq!(appends.failed().count(), 0);
/// # }
/// ```
pub async fn run(fresh: impl Fn() -> Subject, chosen: impl Fn(&Proof) -> bool) -> Report {
    run_within(TIME_MAX, fresh, chosen).await
}

pub(super) async fn run_within(
    time_max: Duration,
    fresh: impl Fn() -> Subject,
    chosen: impl Fn(&Proof) -> bool,
) -> Report {
    let proofs = PROOFS.iter().filter(|proof| chosen(proof));
    let outcomes = futures::stream::iter(proofs).map(|proof| {
        let subject = fresh();
        async move { (*proof, proof.run(subject, time_max).await) }
    });
    Report {
        outcomes: outcomes.buffered(PROOFS_AT_ONCE).collect().await,
    }
}

impl Report {
    /// All proofs that were chosen, in the order of the list.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Proof, &Outcome)> {
        self.outcomes.iter().map(|(proof, outcome)| (proof, outcome))
    }

    /// Those that failed, with what was found.
    pub fn failed(&self) -> impl Iterator<Item = (&Proof, &str)> {
        self.outcomes.iter().filter_map(|(proof, outcome)| match outcome {
            Outcome::Failed(found) => Some((proof, found.as_str())),
            _ => None,
        })
    }

    /// Those that were left out, with what the log would have to be able to do.
    pub fn left_out(&self) -> impl Iterator<Item = (&Proof, Capability)> {
        self.outcomes.iter().filter_map(|(proof, outcome)| match outcome {
            Outcome::LeftOut(missing) => Some((proof, *missing)),
            _ => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, left_out) = (self.failed().count(), self.left_out().count());
        let held = self.outcomes.len() - failed - left_out;
        writeln!(
            formatter,
            "{held} proofs held, {failed} failed, {left_out} were left out"
        )?;
        for (proof, found) in self.failed() {
            writeln!(formatter, "failed: {}: {found}", proof.name)?;
            writeln!(formatter, "    {}", proof.promise())?;
        }
        for (proof, missing) in self.left_out() {
            writeln!(formatter, "left out: {}: it needs {missing}", proof.name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Proof");
        shown.field("name", &self.name).field("needs", &self.needs);
        shown.finish_non_exhaustive()
    }
}

/// What a test that `conformance_tests!` makes does; without a subject it is skipped.
pub async fn hold_named(name: &str, subject: impl Into<Option<Subject>>) {
    let Some(subject) = subject.into() else {
        return;
    };
    let Some(proof) = proof(name) else {
        panic!("there is no proof {name}");
    };
    match proof.run(subject, TIME_MAX).await {
        Outcome::Held => {}
        Outcome::Failed(found) => panic!("{found}\n{}", proof.promise()),
        Outcome::LeftOut(missing) => panic!(
            "`conformance_tests!` was told that this is {missing}, and `TestLog::has` says that it is not"
        ),
    }
}

/// What another one of these tests does: the macro and the log say the same of what it can do.
pub fn hold_capabilities(said: &[Capability], subject: impl Into<Option<Subject>>) {
    let Some(subject) = subject.into() else {
        return;
    };
    for capability in [Capability::Shared, Capability::Tampered] {
        let has = subject.has(capability);
        assert_eq!(
            said.contains(&capability),
            has,
            "`TestLog::has` says {has} of {capability}, and `conformance_tests!` was told otherwise"
        );
    }
}

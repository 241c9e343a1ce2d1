//! Brings a build up to a point of the log without a stream: for read models on demand, and for rebuilds.

use std::time::Instant;

use futures::TryStreamExt;
use tokio::sync::OwnedMutexGuard;

use crate::error::ReadModelError;
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::projection::applier::{Writer, blocking};
use crate::projection::build::NotApplied;
use crate::projection::lacking::Lacking;
use crate::store::Store;
use crate::stream::failure::Failure;
use crate::stream::policy::{Failures, Retry, Verdict};
use crate::stream::reader::EventReader;

/// What a catch-up needs to know.
#[derive(Clone)]
pub(crate) struct CatchUp {
    pub(crate) store: Store,
    pub(crate) query: EventQuery,
    pub(crate) retry: Retry,
}

/// Where a catch-up came to an end. The writer is given back.
pub(crate) struct CaughtUp {
    pub(crate) writer: OwnedMutexGuard<Writer>,
    pub(crate) outcome: Result<(), Stuck>,
}

/// Why it goes no further.
pub(crate) enum Stuck {
    /// The projection failed on this batch, until the retries were used up.
    Failed {
        batch: EventBatch,
        failure: Failure,
    },
    Model(ReadModelError),
}

/// How many batches are gathered at once, besides the limit on events.
const GATHERED_BATCHES_MAX: usize = 4_096;

impl CatchUp {
    /// Applies everything from the writer's position through a sequence, without what is given up, and moves the position there.
    /// `seen` is told how far it is.
    pub(crate) async fn run(
        &self,
        mut writer: OwnedMutexGuard<Writer>,
        through: u64,
        lacking: &Lacking,
        seen: impl Fn(u64),
    ) -> CaughtUp {
        let position = writer.build.position();
        if position >= through {
            let outcome = Ok(());
            return CaughtUp { writer, outcome };
        }
        let mut reader = self.store.read(&self.query).through(through);
        if position > 0 {
            reader = reader.after(position);
        }
        let mut next = gather(&mut reader, lacking, writer.limits.events_max).await;
        let outcome = loop {
            let batches = match next {
                Ok(None) => break Ok(()),
                Ok(Some(batches)) => batches,
                Err(error) => break Err(Stuck::Model(error)),
            };
            let events_max = writer.limits.events_max;
            // While these are applied, the next ones are read.
            let (applied, read) = tokio::join!(
                self.apply(writer, batches),
                gather(&mut reader, lacking, events_max)
            );
            writer = applied.writer;
            seen(writer.build.position());
            if applied.outcome.is_err() {
                break applied.outcome;
            }
            next = read;
        };
        if outcome.is_err() {
            return CaughtUp { writer, outcome };
        }
        let passed = blocking(move || {
            let passed = writer.pass(through);
            (writer, passed)
        });
        match passed.await {
            Ok((writer, passed)) => {
                seen(through);
                let outcome = passed.map_err(Stuck::Model);
                CaughtUp { writer, outcome }
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Applies batches; those of a transaction that failed one by one.
    async fn apply(&self, writer: OwnedMutexGuard<Writer>, batches: Vec<EventBatch>) -> CaughtUp {
        let (mut writer, outcome) = apply(writer, batches.clone()).await;
        match outcome {
            Ok(()) => {}
            Err(NotApplied::Model(error)) => {
                let outcome = Err(Stuck::Model(error));
                return CaughtUp { writer, outcome };
            }
            Err(_) => {
                for batch in batches {
                    let alone = self.apply_alone(writer, batch).await;
                    if alone.outcome.is_err() {
                        return alone;
                    }
                    writer = alone.writer;
                }
            }
        }
        CaughtUp {
            writer,
            outcome: Ok(()),
        }
    }

    /// Applies a batch, until its retries are used up.
    async fn apply_alone(&self, mut writer: OwnedMutexGuard<Writer>, batch: EventBatch) -> CaughtUp {
        let mut failures = None::<Failures>;
        loop {
            let (given_back, outcome) = apply(writer, vec![batch.clone()]).await;
            writer = given_back;
            let failure = match outcome {
                Ok(()) => {
                    return CaughtUp {
                        writer,
                        outcome: Ok(()),
                    };
                }
                Err(NotApplied::Model(error)) => {
                    let outcome = Err(Stuck::Model(error));
                    return CaughtUp { writer, outcome };
                }
                Err(not_applied) => not_applied.into_failure(),
            };
            let failures = failures.get_or_insert_with(|| Failures::new(self.retry, Instant::now()));
            match failures.record(Instant::now()) {
                Verdict::RetryAfter(delay) => tokio::time::sleep(delay).await,
                Verdict::GiveUp => {
                    let outcome = Err(Stuck::Failed { batch, failure });
                    return CaughtUp { writer, outcome };
                }
            }
        }
    }
}

async fn apply(
    mut writer: OwnedMutexGuard<Writer>,
    batches: Vec<EventBatch>,
) -> (OwnedMutexGuard<Writer>, Result<(), NotApplied>) {
    let applied = blocking(move || {
        let outcome = writer.apply(&batches);
        (writer, outcome)
    });
    match applied.await {
        Ok(applied) => applied,
        // The runtime is shut down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// The next batches that fit into a transaction; nothing: the end.
async fn gather(
    reader: &mut EventReader,
    lacking: &Lacking,
    events_max: usize,
) -> Result<Option<Vec<EventBatch>>, ReadModelError> {
    let (mut batches, mut events) = (Vec::new(), 0);
    while events < events_max && batches.len() < GATHERED_BATCHES_MAX {
        let Some(batch) = reader.try_next().await? else {
            return Ok((events > 0).then_some(batches));
        };
        events += batch.len();
        batches.extend(lacking.trim(batch));
    }
    Ok(Some(batches))
}

impl Stuck {
    pub(crate) fn into_error(self, name: &str, version: u32) -> ReadModelError {
        match self {
            Self::Model(error) => error,
            Self::Failed { batch, failure } => ReadModelError::Apply {
                name: name.to_owned(),
                version,
                last_sequence: batch.last_sequence(),
                category: failure.category,
                error: failure.text,
            },
        }
    }
}

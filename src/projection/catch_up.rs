//! Brings a build up to a point of the log without a stream: for read models on demand, and for rebuilds.

use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;

use crate::error::{ReadError, ReadModelError, UndecodableEvent};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::page::{PageBounds, Range};
use crate::projection::lacking::Lacking;
use crate::projection::spec::NotApplied;
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

/// A build, wherever it is, and its projection, with nobody else at work on them.
pub(crate) trait Target: Sized + Send {
    /// How far it is.
    fn position(&self) -> u64;
    /// How many events are given to it at once.
    fn events_max(&self) -> usize;
    /// How much a rebuild reads and applies in one portion.
    fn portion_events(&self) -> u64;
    /// Applies what is behind the position of these batches. Unless all of it was applied, what was committed before stays.
    fn apply(self, batches: Vec<EventBatch>) -> impl Future<Output = (Self, Result<(), NotApplied>)> + Send;
    /// Moves the position to where it is not yet.
    fn pass(self, position: u64) -> impl Future<Output = (Self, Result<(), ReadModelError>)> + Send;
}

/// Where a catch-up came to an end. The writer is given back.
pub(crate) struct CaughtUp<T> {
    pub(crate) writer: T,
    pub(crate) outcome: Result<(), Stuck>,
}

/// Why it goes no further.
pub(crate) enum Stuck {
    /// The projection failed on this batch, until the retries were used up.
    Failed {
        batch: EventBatch,
        failure: Failure,
    },
    /// The log shows everything before this event, and not the event.
    Undecodable(UndecodableEvent),
    Model(ReadModelError),
}

/// All that a batch has before one of its events. No reader shows the batch, so there is nothing else in the range.
const ONE_BATCH: PageBounds = PageBounds {
    batches_max: 1,
    bytes_max: usize::MAX,
};

/// How many batches are gathered at once, besides the limit on events.
const GATHERED_BATCHES_MAX: usize = 4_096;

impl CatchUp {
    /// Applies everything from the writer's position through a sequence, without what is given up, and moves the position there.
    /// `seen` is told how far it is.
    pub(crate) async fn run<T: Target>(
        &self,
        mut writer: T,
        through: u64,
        lacking: &Lacking,
        seen: impl Fn(u64),
    ) -> CaughtUp<T> {
        let position = writer.position();
        if position >= through {
            let outcome = Ok(());
            return CaughtUp { writer, outcome };
        }
        let mut reader = self.store.read(&self.query).through(through);
        if position > 0 {
            reader = reader.after(position);
        }
        let mut next = gather(&mut reader, lacking, writer.events_max()).await;
        let outcome = loop {
            let Gathered { batches, end } = next;
            let events_max = writer.events_max();
            let gathering = async {
                match &end {
                    None => Some(gather(&mut reader, lacking, events_max).await),
                    Some(_) => None,
                }
            };
            // While these are applied, the next ones are read.
            let (applied, read) = tokio::join!(self.apply(writer, batches), gathering);
            writer = applied.writer;
            seen(writer.position());
            if applied.outcome.is_err() {
                break applied.outcome;
            }
            match (read, end) {
                (Some(read), _) => next = read,
                (None, Some(Err(error))) => break Err(error.into()),
                (None, _) => break Ok(()),
            }
        };
        if outcome.is_err() {
            return CaughtUp { writer, outcome };
        }
        let passed = pass(writer, through).await;
        // The last batch may reach further.
        seen(passed.writer.position());
        passed
    }

    /// Applies what lies before an event that cannot be decoded, in its batch, and moves the position behind it.
    pub(crate) async fn pass_over<T: Target>(
        &self,
        writer: T,
        sequence: u64,
        lacking: &Lacking,
    ) -> CaughtUp<T> {
        let range = Range {
            after: writer.position(),
            through: sequence - 1,
        };
        if range.after >= range.through {
            return pass(writer, sequence).await;
        }
        let query = Arc::new(self.query.clone());
        let batches = match self.store.log().page(&query, range, ONE_BATCH).await {
            Ok(page) => page.batches.into_iter().map(EventBatch::whole),
            Err(error) => {
                let outcome = Err(error.into());
                return CaughtUp { writer, outcome };
            }
        };
        // Their range is to end before the event, as that of what was committed does not.
        let before = batches.filter_map(|batch| batch.part(range.after + 1, range.through));
        let batches = before.filter_map(|batch| lacking.trim(batch)).collect();
        let applied = self.apply(writer, batches).await;
        match applied.outcome {
            Ok(()) => pass(applied.writer, sequence).await,
            Err(_) => applied,
        }
    }

    /// Applies batches; those of a transaction that failed one by one.
    async fn apply<T: Target>(&self, writer: T, batches: Vec<EventBatch>) -> CaughtUp<T> {
        let (mut writer, outcome) = writer.apply(batches.clone()).await;
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
    async fn apply_alone<T: Target>(&self, mut writer: T, batch: EventBatch) -> CaughtUp<T> {
        let mut failures = None::<Failures>;
        loop {
            let (given_back, outcome) = writer.apply(vec![batch.clone()]).await;
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

/// Moves the position over what there is nothing to apply of.
async fn pass<T: Target>(writer: T, position: u64) -> CaughtUp<T> {
    let (writer, passed) = writer.pass(position).await;
    let outcome = passed.map_err(Stuck::Model);
    CaughtUp { writer, outcome }
}

/// The next batches that fit into a transaction, and how the reader ends behind them, if it does.
struct Gathered {
    batches: Vec<EventBatch>,
    end: Option<Result<(), ReadError>>,
}

async fn gather(reader: &mut EventReader, lacking: &Lacking, events_max: usize) -> Gathered {
    let (mut batches, mut events) = (Vec::new(), 0);
    while events < events_max && batches.len() < GATHERED_BATCHES_MAX {
        match reader.try_next().await {
            Ok(Some(batch)) => {
                events += batch.len();
                batches.extend(lacking.trim(batch));
            }
            end => {
                let end = Some(end.map(drop));
                return Gathered { batches, end };
            }
        }
    }
    Gathered { batches, end: None }
}

impl From<ReadError> for Stuck {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Undecodable(event) => Self::Undecodable(event),
            error => Self::Model(error.into()),
        }
    }
}

impl Stuck {
    pub(crate) fn into_error(self, name: &str, version: u32) -> ReadModelError {
        match self {
            Self::Model(error) => error,
            Self::Undecodable(event) => ReadError::Undecodable(event).into(),
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

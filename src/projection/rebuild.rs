//! A read model is built anew beside the one that serves, and takes its place in one step (R2).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use crate::error::ReadModelError;
use crate::projection::applier::{Applier, Writer, blocking};
use crate::projection::catalog::requests::{Step, Wanted};
use crate::projection::catalog::{BuildRow, Catalog, Promoted};
use crate::projection::catch_up::{CatchUp, CaughtUp, Stuck};
use crate::projection::lacking::{Lacking, discard_applied, letters};
use crate::projection::model::{Shared, promote};
use crate::projection::request::{ModelRequest, remaining};

/// How far a rebuild is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// The read model.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The events of the log that are done: applied, or not selected by the query.
    pub done: u64,
    /// The events of the log up to where the build is that serves.
    pub total: u64,
    /// Events done in a second, on average since the beginning.
    pub events_per_second: f64,
    /// How long the rest takes at that rate; nothing, while there is no rate.
    pub remaining: Option<Duration>,
    /// Whether it has come to its end, and the new build serves.
    pub is_finished: bool,
}

/// A rebuild under way: got with [`ReadModel::rebuild`](crate::ReadModel::rebuild).
///
/// Dropping it cancels the rebuild; [`detach`](Self::detach) lets it go on. What is cancelled leaves nothing behind, and the
/// model serves as before.
#[must_use = "dropping it cancels the rebuild; wait with `finished`, or detach it"]
pub struct Rebuild {
    name: String,
    progress: watch::Receiver<RebuildProgress>,
    task: Option<JoinHandle<Result<(), ReadModelError>>>,
}

/// How often other processes are told how far a rebuild is.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// How much is read and applied at once.
const STEP_EVENTS: u64 = 500;

/// How much may be left for the last step, during which the model's stream waits.
const LAST_STEP_EVENTS: u64 = 1_000;

impl Rebuild {
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, ReadModelError> {
        Self::begin_for(shared, None).await
    }

    /// The same, because of a request.
    pub(crate) async fn begin_for(
        shared: &Arc<Shared>,
        request: Option<u64>,
    ) -> Result<Self, ReadModelError> {
        shared.check_serving()?;
        let under_way = shared.begin_rebuild()?;
        let position = shared.applier().position();
        let (name, version) = (shared.name().to_owned(), shared.version());
        let (give, progress) = watch::channel(RebuildProgress {
            name: name.clone(),
            version,
            done: 0,
            total: position,
            events_per_second: 0.0,
            remaining: None,
            is_finished: false,
        });
        let catalog = Arc::clone(shared.catalog());
        let (row, request) = blocking({
            let name = name.clone();
            move || {
                let row = catalog.make(&name, version)?;
                let request = match request {
                    Some(request) => request,
                    None => catalog.begin_unasked(&name, ModelRequest::Rebuild)?,
                };
                Ok::<_, ReadModelError>((row, request))
            }
        })
        .await??;
        let attempt = Attempt {
            shared: Arc::clone(shared),
            row: Some(row),
            request,
            error: Some("the rebuild was given up".to_owned()),
        };
        let mut work = Work {
            attempt,
            begun: Instant::now(),
            give,
        };
        let mut reported = progress.clone();
        let task = tokio::spawn(async move {
            let catalog = Arc::clone(work.attempt.shared.catalog());
            let outcome = tokio::select! {
                outcome = work.run() => outcome,
                cancelled = report(&catalog, request, &mut reported) => Err(cancelled),
            };
            work.attempt.error = outcome.as_ref().err().map(ToString::to_string);
            // Whoever waits for the end finds nothing of it left.
            let _ = blocking(move || drop(work)).await;
            drop(under_way);
            outcome
        });
        Ok(Self {
            name,
            progress,
            task: Some(task),
        })
    }

    /// How far it is now.
    pub fn progress(&self) -> RebuildProgress {
        self.progress.borrow().clone()
    }

    /// How far it is, as it goes on: the newest progress each time, nothing after the end.
    pub fn watch(&self) -> impl futures::Stream<Item = RebuildProgress> + Send + Unpin + use<> {
        let follow = |mut progress: watch::Receiver<RebuildProgress>| async move {
            progress.changed().await.ok()?;
            let newest = progress.borrow_and_update().clone();
            Some((newest, progress))
        };
        Box::pin(futures::stream::unfold(self.progress.clone(), follow))
    }

    /// Waits until the new build serves.
    ///
    /// # Errors
    /// The log was pruned, so that it lacks what the model was built from; the projection failed on a batch that is no dead letter; a newer version took over meanwhile; the log or the storage failed;
    /// it was cancelled. What served before serves still.
    ///
    /// # Cancel safety
    /// When the future is dropped, the rebuild is cancelled.
    pub async fn finished(mut self) -> Result<(), ReadModelError> {
        let Some(task) = &mut self.task else {
            return Err(self.cancelled());
        };
        match task.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(self.cancelled()),
        }
    }

    /// Cancels the rebuild. It may have come to its end already, and its last step, once begun, is taken.
    pub fn cancel(self) {
        drop(self);
    }

    /// Lets it go on without a handle.
    pub fn detach(mut self) {
        self.task = None;
    }

    fn cancelled(&self) -> ReadModelError {
        ReadModelError::Cancelled {
            name: self.name.clone(),
        }
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for Rebuild {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Rebuild")
            .field(&*self.progress.borrow())
            .finish()
    }
}

/// A build that is not wanted unless it comes to serve.
struct Attempt {
    shared: Arc<Shared>,
    /// Nothing: it serves.
    row: Option<BuildRow>,
    /// What the list knows it by.
    request: u64,
    /// Why it came to nothing.
    error: Option<String>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let catalog = self.shared.catalog();
        if let Err(error) = catalog.end(self.request, self.error.as_deref()) {
            tracing::warn!(name = self.shared.name(), %error, "what a rebuild came to could not be noted");
        }
        let Some(row) = self.row.take() else { return };
        if let Err(error) = catalog.retire(row.build) {
            tracing::warn!(name = %row.name, %error, "a rebuild that was given up stays in the list");
        }
        catalog.sweep();
    }
}

/// What it takes for a build to serve in place of another. The stream waits.
struct Switch {
    shared: Arc<Shared>,
    row: BuildRow,
    request: u64,
    serving: OwnedMutexGuard<Writer>,
    applier: Applier,
}

impl Switch {
    fn run(mut self, mut writer: OwnedMutexGuard<Writer>, given_up: &[u64]) -> Result<(), ReadModelError> {
        let shared = &self.shared;
        writer.build.is_rebuilt(given_up)?;
        drop(writer);
        if promote(shared.catalog(), &self.row, shared.store().faults())? == Promoted::No {
            return Err(ReadModelError::Cancelled {
                name: shared.name().to_owned(),
            });
        }
        let rebuilt = self.applier.into_writer().expect("the rebuild alone has it");
        let earlier = self.serving.replace(rebuilt);
        shared.serves(self.row);
        // Before the stream goes on: whoever sees what it does next finds the rebuild done.
        let noted = shared.catalog().end(self.request, None);
        drop((self.serving, earlier));
        shared.catalog().sweep();
        noted
    }
}

/// Says at intervals how far a rebuild is, until somebody cancels it.
async fn report(
    catalog: &Arc<Catalog>,
    request: u64,
    progress: &mut watch::Receiver<RebuildProgress>,
) -> ReadModelError {
    loop {
        let newest = progress.borrow_and_update().clone();
        let (catalog, name) = (Arc::clone(catalog), newest.name.clone());
        let step = Step {
            number: request,
            done: newest.done,
            total: newest.total,
            events_per_second: newest.events_per_second,
        };
        match blocking(move || catalog.go_on(&step)).await {
            Ok(Ok(Wanted::No)) => return ReadModelError::Cancelled { name },
            Ok(Ok(Wanted::Yes)) => {}
            // That it cannot be said is no reason to give up.
            Err(error) | Ok(Err(error)) => tracing::debug!(%error, "how far a rebuild is could not be noted"),
        }
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}

struct Work {
    attempt: Attempt,
    begun: Instant,
    give: watch::Sender<RebuildProgress>,
}

impl Work {
    async fn run(&mut self) -> Result<(), ReadModelError> {
        let shared = Arc::clone(&self.attempt.shared);
        tracing::info!(
            name = shared.name(),
            version = shared.version(),
            "a read model is rebuilt"
        );
        let row = self.attempt.row.clone();
        let row = row.expect("a rebuild begins with a build of its own");
        let applier = Applier::new(shared.writer_for(&row).await?);
        let mut lacking = Lacking::new(Vec::new());
        let mut writer = applier.lock().await;
        // When it does not come to its end it is thrown away.
        writer.build.is_disposable()?;
        // It goes as far as what serves. What comes then is the stream's, with all that it does when something fails.
        loop {
            let through = shared.applier().position();
            self.note_total(through);
            if through.saturating_sub(writer.build.position()) <= LAST_STEP_EVENTS {
                break;
            }
            lacking.replace(letters(&shared).await?);
            writer = self.catch_up(writer, through, &mut lacking).await?;
        }
        // From here on the stream waits, so that it is passed by nothing.
        let serving = shared.applier().lock().await;
        let through = serving.build.position();
        self.note_total(through);
        lacking.replace(letters(&shared).await?);
        writer = self.catch_up(writer, through, &mut lacking).await?;
        let switch = Switch {
            shared: Arc::clone(&shared),
            row,
            request: self.attempt.request,
            serving,
            applier,
        };
        let given_up = lacking.given_up();
        // Once it has begun it comes to its end, whoever cancels the rebuild: the list and this process are to say the same.
        blocking(move || switch.run(writer, &given_up)).await??;
        self.attempt.row = None;
        discard_applied(&shared, &lacking, through).await;
        self.give.send_modify(|progress| {
            progress.done = progress.total;
            progress.remaining = Some(Duration::ZERO);
            progress.is_finished = true;
        });
        tracing::info!(
            name = shared.name(),
            version = shared.version(),
            "a read model was rebuilt, and serves"
        );
        Ok(())
    }

    /// Goes on to a sequence, past dead letters that cannot be applied here either.
    async fn catch_up(
        &self,
        mut writer: OwnedMutexGuard<Writer>,
        through: u64,
        lacking: &mut Lacking,
    ) -> Result<OwnedMutexGuard<Writer>, ReadModelError> {
        let shared = &self.attempt.shared;
        let catch_up: &CatchUp = shared.catch_up();
        loop {
            // In steps, so that nothing is read while they are applied: whoever is served meanwhile has a processor to themselves.
            let step_through = through.min(writer.build.position() + STEP_EVENTS);
            let CaughtUp {
                writer: given_back,
                outcome,
            } = catch_up
                .run(writer, step_through, lacking, |position| self.note(position))
                .await;
            writer = given_back;
            match outcome {
                Ok(()) if writer.build.position() >= through => return Ok(writer),
                Ok(()) => {}
                Err(Stuck::Failed { batch, failure }) if lacking.give_up(&batch) => {
                    tracing::info!(name = shared.name(), last_sequence = batch.last_sequence(), error = %failure.text, "a dead letter cannot be applied by the rebuild either");
                }
                // What the stream has set aside nobody can show here either.
                Err(Stuck::Undecodable(event)) if lacking.give_up_event(event.sequence()) => {
                    let passed = catch_up.pass_over(writer, event.sequence(), lacking).await;
                    if let Err(stuck) = passed.outcome {
                        return Err(stuck.into_error(shared.name(), shared.version()));
                    }
                    writer = passed.writer;
                }
                Err(stuck) => return Err(stuck.into_error(shared.name(), shared.version())),
            }
        }
    }

    fn note(&self, position: u64) {
        self.give.send_modify(|progress| {
            progress.done = position.min(progress.total);
            self.measure(progress);
        });
    }

    fn note_total(&self, position: u64) {
        self.give.send_modify(|progress| {
            progress.total = position;
            self.measure(progress);
        });
    }

    fn measure(&self, progress: &mut RebuildProgress) {
        let seconds = self.begun.elapsed().as_secs_f64();
        if progress.done == 0 || seconds <= 0.0 {
            return;
        }
        progress.events_per_second = progress.done as f64 / seconds;
        progress.remaining = remaining(progress.done, progress.total, progress.events_per_second);
    }
}

//! A read model is built anew beside the one that serves, and takes its place in one step (R2).

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::error::ReadModelError;
use crate::projection::applier::{Applier, Writer, blocking};
use crate::projection::model::{Shared, promote};
use crate::projection::rebuilding::{Course, LAST_STEP_EVENTS, Rebuild, report};
use crate::projection::request::ModelRequest;
use crate::projection::standing::{BuildRow, Promoted};

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
        let serving = shared.applier().lock().await;
        blocking(move || serving.build.check_owned()).await??;
        let (name, version) = (shared.name().to_owned(), shared.version());
        let through = shared.applier().position();
        let (course, progress) = Course::new(shared.catch_up(), &name, version, through);
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
        let mut work = Work { attempt, course };
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
        Ok(Self::new(name, progress, task))
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
        let faults = shared.store().faults();
        // Whoever takes the model over meanwhile finds the new build in the list, or has put an end to this rebuild.
        let promoted = self
            .serving
            .build
            .while_owned(|| promote(shared.catalog(), &self.row, faults))?;
        if promoted == Promoted::No {
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

struct Work {
    attempt: Attempt,
    course: Course,
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
        let mut writer = applier.lock().await;
        // When it does not come to its end it is thrown away.
        writer.build.is_disposable()?;
        // It goes as far as what serves. What comes then is the stream's, with all that it does when something fails.
        loop {
            let through = shared.applier().position();
            self.course.note_total(through);
            if through.saturating_sub(writer.build.position()) <= LAST_STEP_EVENTS {
                break;
            }
            writer = self.course.run(writer, through).await?;
        }
        // From here on the stream waits, so that it is passed by nothing.
        let serving = shared.applier().lock().await;
        let through = serving.build.position();
        writer = self.course.run(writer, through).await?;
        let switch = Switch {
            shared: Arc::clone(&shared),
            row,
            request: self.attempt.request,
            serving,
            applier,
        };
        let given_up = self.course.given_up();
        // Once it has begun it comes to its end, whoever cancels the rebuild: the list and this process are to say the same.
        blocking(move || switch.run(writer, &given_up)).await??;
        self.attempt.row = None;
        self.course.end(through).await;
        tracing::info!(
            name = shared.name(),
            version = shared.version(),
            "a read model was rebuilt, and serves"
        );
        Ok(())
    }
}

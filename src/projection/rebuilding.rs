//! A rebuild under way, wherever its build is: how far it is, and how it goes on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::ReadModelError;
use crate::projection::catch_up::{CatchUp, CaughtUp, Stuck, Target};
use crate::projection::lacking::{Lacking, discard_applied, letters};
use crate::projection::request::{RequestList, Wanted};
use crate::projection::spec::stream_name;

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

/// A rebuild under way: got with `rebuild` of its handle.
///
/// Dropping it cancels the rebuild; [`detach`](Self::detach) lets it go on. What is cancelled leaves nothing behind, and the
/// model serves as before.
#[must_use = "dropping it cancels the rebuild; wait with `finished`, or detach it"]
pub struct Rebuild {
    name: String,
    progress: watch::Receiver<RebuildProgress>,
    task: Option<JoinHandle<Result<(), ReadModelError>>>,
}

/// How much may be left for the last step, during which the model's stream waits.
pub(crate) const LAST_STEP_EVENTS: u64 = 1_000;

/// How often other processes are told how far a rebuild is.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

impl Rebuild {
    pub(crate) fn new(
        name: String,
        progress: watch::Receiver<RebuildProgress>,
        task: JoinHandle<Result<(), ReadModelError>>,
    ) -> Self {
        Self {
            name,
            progress,
            task: Some(task),
        }
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
    /// The log was pruned, so that it lacks what the model was built from; the projection failed on a batch that is no dead letter; a dead letter that it had left out was settled meanwhile; a newer version took over meanwhile; the log or the storage failed;
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

/// What a rebuild has done, and what it leaves out.
pub(crate) struct Course {
    catch_up: CatchUp,
    name: String,
    version: u32,
    stream: String,
    lacking: Lacking,
    begun: Instant,
    give: watch::Sender<RebuildProgress>,
}

impl Course {
    /// The course of a rebuild that goes through a sequence, as far as it is known now.
    pub(crate) fn new(
        catch_up: &CatchUp,
        name: &str,
        version: u32,
        through: u64,
    ) -> (Self, watch::Receiver<RebuildProgress>) {
        let (give, progress) = watch::channel(RebuildProgress {
            name: name.to_owned(),
            version,
            done: 0,
            total: through,
            events_per_second: 0.0,
            remaining: None,
            is_finished: false,
        });
        let course = Self {
            catch_up: catch_up.clone(),
            name: name.to_owned(),
            version,
            stream: stream_name(name, version),
            lacking: Lacking::new(Vec::new()),
            begun: Instant::now(),
            give,
        };
        (course, progress)
    }

    /// The dead letters that could not be applied, by their first events.
    pub(crate) fn given_up(&self) -> Vec<u64> {
        self.lacking.given_up()
    }

    /// The new build serves, and holds everything through a sequence. Letters that it holds are removed.
    pub(crate) async fn end(&self, through: u64) {
        discard_applied(&self.catch_up.store, &self.stream, &self.lacking, through).await;
        self.give.send_modify(|progress| {
            progress.done = progress.total;
            progress.remaining = Some(Duration::ZERO);
            progress.is_finished = true;
        });
    }

    /// Goes on to a sequence, past dead letters that cannot be applied here either.
    pub(crate) async fn run<T: Target>(&mut self, mut writer: T, through: u64) -> Result<T, ReadModelError> {
        self.note_total(through);
        let letters = letters(&self.catch_up.store, &self.stream).await?;
        if let Some(first_sequence) = self.lacking.replace(letters) {
            return Err(ReadModelError::LetterSettled {
                name: self.name.clone(),
                first_sequence,
            });
        }
        loop {
            // In portions: whoever writes the build says how large they are, and why.
            let step_through = through.min(writer.position() + writer.portion_events());
            let CaughtUp {
                writer: given_back,
                outcome,
            } = self
                .catch_up
                .run(writer, step_through, &self.lacking, |position| {
                    self.note(position)
                })
                .await;
            writer = given_back;
            match outcome {
                Ok(()) if writer.position() >= through => return Ok(writer),
                Ok(()) => {}
                Err(Stuck::Failed { batch, failure }) if self.lacking.give_up(&batch) => {
                    tracing::info!(name = &*self.name, last_sequence = batch.last_sequence(), error = %failure.text, "a dead letter cannot be applied by the rebuild either");
                }
                // What the stream has set aside nobody can show here either.
                Err(Stuck::Undecodable(event)) if self.lacking.give_up_event(event.sequence()) => {
                    let passed = self.catch_up.pass_over(writer, event.sequence(), &self.lacking);
                    let passed = passed.await;
                    if let Err(stuck) = passed.outcome {
                        return Err(stuck.into_error(&self.name, self.version));
                    }
                    writer = passed.writer;
                }
                Err(stuck) => return Err(stuck.into_error(&self.name, self.version)),
            }
        }
    }

    fn note(&self, position: u64) {
        self.give.send_modify(|progress| {
            progress.done = position.min(progress.total);
            self.measure(progress);
        });
    }

    /// There is more to do, or nothing more.
    pub(crate) fn note_total(&self, position: u64) {
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

/// Says at intervals how far a rebuild is, until somebody cancels it.
pub(crate) async fn report<L: RequestList>(
    list: &Arc<L>,
    request: u64,
    progress: &mut watch::Receiver<RebuildProgress>,
) -> ReadModelError {
    loop {
        let newest = progress.borrow_and_update().clone();
        let name = newest.name.clone();
        match list.note(request, newest).await {
            Ok(Wanted::No) => return ReadModelError::Cancelled { name },
            Ok(Wanted::Yes) => {}
            // That it cannot be said is no reason to give up.
            Err(error) => tracing::debug!(%error, "how far a rebuild is could not be noted"),
        }
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}

/// How long the rest takes at a rate.
pub(crate) fn remaining(done: u64, total: u64, events_per_second: f64) -> Option<Duration> {
    let left = total.saturating_sub(done) as f64;
    Duration::try_from_secs_f64(left / events_per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_known_with_a_rate_alone() {
        assert_eq!(remaining(0, 10, 0.0), None);
        assert_eq!(remaining(4, 10, 2.0), Some(Duration::from_secs(3)));
        assert_eq!(remaining(12, 10, 2.0), Some(Duration::ZERO));
    }
}

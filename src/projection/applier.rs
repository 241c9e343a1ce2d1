//! A build and its projection, with one at a time at work on them: the stream, a catch-up, or the end of a rebuild.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::error::ReadModelError;
use crate::event::batch::EventBatch;
use crate::projection::build::{Build, NotApplied, TransactionLimits};
use crate::projection::catch_up::Target;
use crate::projection::projection::Kept;
pub(crate) use crate::projection::spec::Call;

/// How much a rebuild reads and applies in one portion. Nothing is read while it is applied: whoever is served meanwhile has a processor to
/// themselves.
const PORTION_EVENTS: u64 = 500;

/// What is written, and how.
pub(crate) struct Writer {
    pub(crate) build: Build,
    pub(crate) projection: Box<dyn Kept>,
    pub(crate) limits: TransactionLimits,
    /// The position, for those who only look.
    shown: Arc<AtomicU64>,
}

/// Cloning gives another handle of the same.
#[derive(Clone)]
pub(crate) struct Applier {
    writer: Arc<Mutex<Writer>>,
    shown: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn new(build: Build, projection: Box<dyn Kept>, limits: TransactionLimits) -> Self {
        let shown = Arc::new(AtomicU64::new(build.position()));
        Self {
            build,
            projection,
            limits,
            shown,
        }
    }

    pub(crate) fn apply(&mut self, batches: &[EventBatch]) -> Result<(), NotApplied> {
        let outcome = self.build.apply(&mut *self.projection, batches, self.limits);
        self.show();
        outcome
    }

    /// Moves over what the query does not select.
    pub(crate) fn pass(&mut self, position: u64) -> Result<(), ReadModelError> {
        let outcome = self.build.pass(position);
        self.show();
        outcome
    }

    /// Goes on with what another one has made. Gives what it had itself.
    pub(crate) fn replace(&mut self, other: Self) -> Self {
        let mut earlier = std::mem::replace(self, other);
        std::mem::swap(&mut self.shown, &mut earlier.shown);
        self.show();
        earlier
    }

    fn show(&self) {
        // Relaxed: nothing else is said with it.
        self.shown.store(self.build.position(), Ordering::Relaxed);
    }

    fn call(&mut self, batches: &[EventBatch], call: Call) -> Result<(), NotApplied> {
        match call {
            Call::Next => self.apply(batches),
            Call::Letter => {
                let mut letters = batches.iter();
                letters.try_for_each(|letter| self.build.apply_letter(&mut *self.projection, letter))
            }
        }
    }
}

impl Applier {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            shown: Arc::clone(&writer.shown),
            writer: Arc::new(Mutex::new(writer)),
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// What it has, when nobody else has a handle of it.
    pub(crate) fn into_writer(self) -> Option<Writer> {
        Arc::into_inner(self.writer).map(Mutex::into_inner)
    }

    /// Waits until nobody is at work.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<Writer> {
        Arc::clone(&self.writer).lock_owned().await
    }

    /// Applies what a handler was given, on a thread that may block.
    ///
    /// A call that is dropped meanwhile comes to its end all the same; the position says then that it did.
    pub(crate) async fn handle(&self, batches: Vec<EventBatch>, call: Call) -> Result<(), NotApplied> {
        let mut writer = self.lock().await;
        blocking(move || writer.call(&batches, call)).await?
    }
}

impl Target for OwnedMutexGuard<Writer> {
    fn position(&self) -> u64 {
        self.build.position()
    }

    fn events_max(&self) -> usize {
        self.limits.events_max
    }

    fn portion_events(&self) -> u64 {
        PORTION_EVENTS
    }

    async fn apply(mut self, batches: Vec<EventBatch>) -> (Self, Result<(), NotApplied>) {
        let applied = blocking(move || {
            let outcome = Writer::apply(&mut self, &batches);
            (self, outcome)
        });
        match applied.await {
            Ok(applied) => applied,
            // The runtime is shut down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    async fn pass(mut self, position: u64) -> (Self, Result<(), ReadModelError>) {
        let passed = blocking(move || {
            let passed = Writer::pass(&mut self, position);
            (self, passed)
        });
        match passed.await {
            Ok(passed) => passed,
            // The runtime is shut down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Does what may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadModelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shut down.
        Err(_) => Err(ReadModelError::NoRuntime),
    }
}

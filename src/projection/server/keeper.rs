//! Who has transactions made, and tries them again: the handler of the stream that keeps a read model on the log's server, and what brings
//! a build up without a stream.

use std::ops::DerefMut;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};

use crate::error::ReadModelError;
use crate::event::batch::EventBatch;
use crate::projection::catch_up::Target;
use crate::projection::keeping::KeepingStream;
use crate::projection::server::hand::Hand;
use crate::projection::server::step::{Order, Plan, Stumble, step};
use crate::projection::spec::{Call, NotApplied};

/// The pauses between two tries to reach the server.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How much a rebuild reads and applies in one portion: the next one is read meanwhile, and each ends with a transaction of its own.
const PORTION_EVENTS: u64 = 10_000;

/// Has the projection apply what the stream gives. Cloning gives another handle of the same. It does not keep the store open.
#[derive(Clone)]
pub(super) struct Keeper {
    work: Arc<Work>,
    hand: Arc<Mutex<Hand>>,
}

/// How a version is written, and whose it is.
pub(super) struct Work {
    pub(super) plan: Plan,
    pub(super) fence: Fence,
}

/// What keeps everybody else from writing.
pub(super) enum Fence {
    /// The stream's epoch.
    Stream(KeepingStream),
    /// The owner that the build's row names.
    Row,
}

impl Keeper {
    pub(super) fn new(work: Work, hand: Hand) -> Self {
        Self {
            work: Arc::new(work),
            hand: Arc::new(Mutex::new(hand)),
        }
    }

    pub(super) fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// Waits until nobody is at work.
    pub(super) async fn lock(&self) -> OwnedMutexGuard<Hand> {
        Arc::clone(&self.hand).lock_owned().await
    }

    /// Applies what a handler was given, in as few transactions as the limits allow.
    ///
    /// A call that is dropped meanwhile has its transaction rolled back, unless the server has it that it is committed: the position
    /// says which.
    pub(super) async fn handle(&self, batches: Vec<EventBatch>, call: Call) -> Result<(), NotApplied> {
        let mut hand = self.hand.lock().await;
        match call {
            Call::Next => self.work.apply(&mut hand, &batches).await,
            Call::Letter => self.work.letters(&mut hand, &batches).await,
        }
    }
}

impl Work {
    async fn apply(&self, hand: &mut Hand, batches: &[EventBatch]) -> Result<(), NotApplied> {
        let mut left = batches;
        while !left.is_empty() {
            let applied = self.persist(hand, Order::Next(left)).await?;
            left = &left[applied..];
        }
        Ok(())
    }

    async fn letters(&self, hand: &mut Hand, letters: &[EventBatch]) -> Result<(), NotApplied> {
        for letter in letters {
            self.persist(hand, Order::Letter(letter)).await?;
        }
        Ok(())
    }

    /// One transaction, tried for as long as the server is waited for, and, once it may have been committed, until the server says whether
    /// it was. An outage is no failure of the projection.
    async fn persist(&self, hand: &mut Hand, order: Order<'_>) -> Result<usize, NotApplied> {
        let mut tries = Tries::begin();
        loop {
            let epoch = self.epoch()?;
            let error = match step(&self.plan, hand, epoch, order).await {
                Ok(applied) => return Ok(applied),
                Err(Stumble::Projection(error)) => return Err(NotApplied::Projection(error)),
                Err(Stumble::Model(error)) => return Err(error.into()),
                Err(Stumble::Storage(error)) => error,
            };
            let is_over = !error.is_retryable() || tries.are_over(self.plan.desk.limit());
            // What may be applied already must not be set aside: its letter would be applied again.
            if is_over && !hand.is_in_doubt() {
                return Err(ReadModelError::from(error).into());
            }
            tracing::debug!(stream = &*self.plan.stream, %error, "a read model's transaction is tried again");
            tries.pause().await;
        }
    }

    /// There was nothing to apply, and it failed.
    fn failed_at(&self, position: u64, error: NotApplied) -> ReadModelError {
        let failure = error.into_failure();
        ReadModelError::Apply {
            name: self.plan.spec.name.clone(),
            version: self.plan.spec.version,
            last_sequence: position,
            category: failure.category,
            error: failure.text,
        }
    }

    /// The epoch of now, under which the stream runs. Nothing: there is no stream.
    pub(super) fn epoch(&self) -> Result<Option<u64>, ReadModelError> {
        let Fence::Stream(stream) = &self.fence else {
            return Ok(None);
        };
        match stream.cell() {
            Some(cell) => Ok(Some(cell.epoch)),
            None => Err(self.plan.lost()),
        }
    }
}

/// For how long something is tried, with growing pauses.
pub(super) struct Tries {
    begun: Instant,
    pause: Duration,
}

impl Tries {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            pause: PAUSE_MIN,
        }
    }

    pub(super) fn are_over(&self, limit: Duration) -> bool {
        self.begun.elapsed() + self.pause > limit
    }

    pub(super) async fn pause(&mut self) {
        sleep(self.pause).await;
        self.pause = (2 * self.pause).min(PAUSE_MAX);
    }
}

/// A build to be brought up, with nobody else at work on it: the one that is kept, or that of a rebuild.
pub(super) struct Writer<H> {
    pub(super) work: Arc<Work>,
    pub(super) hand: H,
}

impl<H: DerefMut<Target = Hand> + Send> Target for Writer<H> {
    fn position(&self) -> u64 {
        self.hand.position()
    }

    fn events_max(&self) -> usize {
        self.work.plan.limits.events_max
    }

    fn portion_events(&self) -> u64 {
        PORTION_EVENTS
    }

    async fn apply(mut self, batches: Vec<EventBatch>) -> (Self, Result<(), NotApplied>) {
        let applied = AssertUnwindSafe(self.work.apply(&mut self.hand, &batches));
        let applied = applied.catch_unwind().await;
        let applied = applied.unwrap_or_else(|panic| Err(NotApplied::Panicked(panic)));
        (self, applied)
    }

    async fn pass(mut self, position: u64) -> (Self, Result<(), ReadModelError>) {
        let passed = match self.work.persist(&mut self.hand, Order::Pass(position)).await {
            Ok(_) => Ok(()),
            Err(NotApplied::Model(error)) => Err(error),
            Err(error) => Err(self.work.failed_at(position, error)),
        };
        (self, passed)
    }
}

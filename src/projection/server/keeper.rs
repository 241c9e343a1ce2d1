//! The handler of the stream that keeps a read model on the log's server.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::error::{BoxError, ReadModelError};
use crate::event::batch::EventBatch;
use crate::projection::server::hand::Hand;
use crate::projection::server::projection::ServerProjection;
use crate::projection::server::step::{Plan, Stumble, step};
use crate::projection::spec::{Call, whole};
use crate::stream::registry::Registry;

/// The pauses between two tries to reach the server.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Has the projection apply what the stream gives. Cloning gives another handle of the same. It does not keep the store open.
pub(super) struct Keeper<P> {
    plan: Arc<Plan>,
    hand: Arc<Mutex<Hand<P>>>,
    registry: Weak<Registry>,
}

impl<P> Clone for Keeper<P> {
    fn clone(&self) -> Self {
        Self {
            plan: Arc::clone(&self.plan),
            hand: Arc::clone(&self.hand),
            registry: Weak::clone(&self.registry),
        }
    }
}

impl<P: ServerProjection> Keeper<P> {
    pub(super) fn new(plan: Plan, projection: P, registry: &Arc<Registry>) -> Self {
        Self {
            plan: Arc::new(plan),
            hand: Arc::new(Mutex::new(Hand::new(projection))),
            registry: Arc::downgrade(registry),
        }
    }

    /// Applies what a handler was given, in as few transactions as the limits allow.
    ///
    /// A call that is dropped meanwhile has its transaction rolled back, unless the server has it that it is committed: the position
    /// says which.
    pub(super) async fn handle(&self, batches: Vec<EventBatch>, call: Call) -> Result<(), BoxError> {
        let mut hand = self.hand.lock().await;
        let mut left = batches.as_slice();
        while !left.is_empty() {
            let applied = self.persist(&mut hand, left, call).await?;
            left = &left[applied..];
        }
        Ok(())
    }

    /// One transaction, tried for as long as the server is waited for, and, once it may have been committed, until the server says whether
    /// it was. An outage is no failure of the projection.
    async fn persist(
        &self,
        hand: &mut Hand<P>,
        batches: &[EventBatch],
        call: Call,
    ) -> Result<usize, BoxError> {
        let (begun, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            let epoch = self.epoch()?;
            let error = match step(&self.plan, hand, epoch, batches, call).await {
                Ok(applied) => return Ok(applied),
                Err(Stumble::Projection(error)) => return Err(whole(error)),
                Err(Stumble::Model(error)) => return Err(error.into()),
                Err(Stumble::Storage(error)) => error,
            };
            let is_over = !error.is_retryable() || begun.elapsed() + pause > self.plan.desk.limit();
            // What may be applied already must not be set aside: its letter would be applied again.
            if is_over && !hand.is_in_doubt() {
                return Err(ReadModelError::from(error).into());
            }
            tracing::debug!(stream = &*self.plan.stream, %error, "a read model's transaction is tried again");
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// The epoch of now, under which the stream runs.
    fn epoch(&self) -> Result<u64, ReadModelError> {
        let core = self
            .registry
            .upgrade()
            .and_then(|registry| registry.named(&self.plan.stream));
        let cell = core.and_then(|core| core.cursor());
        cell.map(|cell| cell.epoch)
            .ok_or_else(|| ReadModelError::OwnershipLost {
                name: self.plan.spec.name.clone(),
                version: self.plan.spec.version,
            })
    }
}

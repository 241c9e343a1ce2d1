//! The handler of a reactor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::{BoxError, InvalidReaction};
use crate::event::batch::EventBatch;
use crate::event::evolution::Evolution;
use crate::event::limits::Limits;
use crate::stream::failure::Failure;
use crate::stream::handler::HandleStream;
use crate::stream::policy::Retry;
use crate::stream::react::Reply;
use crate::stream::react::reaction::{Reaction, Rules};

type Called = BoxFuture<'static, Result<Reaction, BoxError>>;

/// The async closure that a [reactor](crate::Store::react) calls with every batch, and that answers with a [`Reaction`].
///
/// What it does outside the log happens at least once, as in every handler; what it returns is in the log exactly once.
///
/// ```
/// use std::time::Duration;
///
/// use millstream::{EventBatch, NewEvent, Reaction, Reactor};
///
/// let reactor = Reactor::new(|batch: EventBatch| async move {
///     let asked = batch.iter().map(|order| NewEvent::new("payment-asked", order.sequence()));
///     Ok::<_, std::io::Error>(Reaction::events(asked))
/// });
/// let reactor = reactor.timeout(Duration::from_secs(5)).depth_max(8);
/// # let _ = reactor;
/// ```
#[derive(Clone)]
pub struct Reactor {
    call: Arc<dyn Fn(EventBatch) -> Called + Send + Sync>,
    retry: Retry,
    timeout: Option<Duration>,
    depth_max: u32,
}

/// Longer chains are taken for reactors that answer each other for ever.
const DEPTH_MAX: u32 = 32;

impl Reactor {
    /// Wraps an async closure. State goes into it by cloning a handle of the state, such as the store, in the closure.
    pub fn new<F, Fut, E>(handler: F) -> Self
    where
        F: Fn(EventBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reaction, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self {
            call: Arc::new(move |batch| handler(batch).map(|done| done.map_err(Into::into)).boxed()),
            retry: Retry::default(),
            timeout: None,
            depth_max: DEPTH_MAX,
        }
    }

    /// How often, how long and with which pauses a call that failed, or whose [condition](Reaction::only_if) did not hold, is
    /// repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How long one call may take, as [`HandleStream::timeout`]. The append that follows is not counted. Default: for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long a chain of reactions may be: an event that no reactor appended has depth 0, a reaction to it depth 1, a reaction to
    /// that depth 2. At least 1. Default 32.
    ///
    /// A reaction that would be deeper is not appended, and the stream stops with
    /// [`StopCause::ChainTooDeep`](crate::StopCause::ChainTooDeep), whatever its failure policy says: reactors that answer each
    /// other for ever end there. The depth is that of the chain, whichever reactors it went through; each reactor compares it with a
    /// limit of its own.
    #[must_use]
    pub fn depth_max(mut self, depth: u32) -> Self {
        self.depth_max = depth.max(1);
        self
    }

    /// The same as a handler of streams, whose replies are checked as part of the call.
    pub(crate) fn into_handler(self, limits: Limits, evolution: Option<Arc<Evolution>>) -> HandleStream {
        let Self {
            call,
            retry,
            timeout,
            depth_max,
        } = self;
        let rules = Arc::new(Rules {
            limits,
            evolution,
            depth_max,
        });
        let handler = HandleStream::answering(move |batch: EventBatch| {
            let (answered, rules) = (call(batch.clone()), Arc::clone(&rules));
            async move { reply(answered.await, &batch, &rules) }
        });
        let handler = handler.retry(retry);
        match timeout {
            Some(timeout) => handler.timeout(timeout),
            None => handler,
        }
    }
}

/// What a call came to. An error has no reaction for the events before the one that it may name, so those are not handled, and
/// naming it makes no difference.
fn reply(answered: Result<Reaction, BoxError>, batch: &EventBatch, rules: &Rules) -> Result<Reply, Failure> {
    let refused = |error: InvalidReaction| Failure::of(&error);
    let failed = |error: BoxError| Failure {
        at: None,
        ..Failure::of(&*error)
    };
    answered.map_err(failed)?.check(batch, rules).map_err(refused)
}

impl fmt::Debug for Reactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reactor")
            .field("retry", &self.retry)
            .field("timeout", &self.timeout)
            .field("depth_max", &self.depth_max)
            .finish_non_exhaustive()
    }
}

//! The user's closure.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clock::TIME_MAX;
use crate::error::{BoxError, FailureCategory};
use crate::event::batch::EventBatch;
use crate::stream::failure::Failure;
use crate::stream::policy::Retry;

type Call = dyn Fn(EventBatch) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// The async closure that a stream calls with every batch it delivers, one call at a time; or several at a time, of different keys,
/// with [`partition_by`](crate::DurableStream::partition_by).
///
/// `Ok` says that the batch is handled: the cursor of a durable stream passes it. An error, a panic, or a call that takes longer
/// than its [`timeout`](HandleStream::timeout), is retried as [`retry`](HandleStream::retry) says; then the stream stops, and its
/// cursor stays, or a durable stream does what its [failure policy](crate::DurableStream::on_failure) says (D5).
///
/// A durable stream calls the handler **at least once** for each batch: after a crash, again for what was handled since
/// the cursor was stored last. Effects that must not happen twice use [`EventBatch::last_sequence`] as their key.
///
/// # Cancel safety
/// The handler's future is dropped at its next await when the store is closed and the drain limit is over, or when its timeout
/// is. The batch then counts as not handled.
///
/// ```
/// use millstream::{EventBatch, HandleStream};
///
/// let handle = HandleStream::new(|batch: EventBatch| async move {
///     for event in &batch {
///         println!("{} {}", event.sequence(), event.event_type());
///     }
///     Ok::<_, std::io::Error>(())
/// });
/// # let _ = handle;
/// ```
#[derive(Clone)]
pub struct HandleStream {
    call: Arc<Call>,
    /// Nothing: as by default. Most handlers say nothing, and there may be very many.
    retry: Option<Box<Retry>>,
    timeout: Option<Duration>,
}

/// A handler that is kept alive by its stream alone.
pub(crate) struct WeakHandle {
    call: Weak<Call>,
    timeout: Option<Duration>,
}

impl WeakHandle {
    /// The handler, as long as its stream has it.
    pub(crate) fn upgrade(&self) -> Option<HandleStream> {
        Some(HandleStream {
            call: self.call.upgrade()?,
            retry: None,
            timeout: self.timeout,
        })
    }
}

impl HandleStream {
    /// Wraps an async closure. State goes into it by cloning a handle of the state, such as an `Arc`, in the closure.
    pub fn new<F, Fut, E>(handler: F) -> Self
    where
        F: Fn(EventBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self {
            call: Arc::new(move |batch| handler(batch).map(|done| done.map_err(Into::into)).boxed()),
            retry: None,
            timeout: None,
        }
    }

    /// How often, how long and with which pauses a call that failed is repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(Box::new(retry));
        self
    }

    pub(crate) fn retry_policy(&self) -> Retry {
        self.retry.as_deref().copied().unwrap_or_default()
    }

    /// How long one call may take. A call that is late is dropped at the await where it stands, and has failed with the category
    /// [`Timeout`](FailureCategory::Timeout). From 1 ms to a day. Default: for ever.
    ///
    /// A handler that blocks its thread reaches no await, and cannot be dropped: use `spawn_blocking` for such work, which goes
    /// on in its own thread when the call is dropped. The time is measured by the runtime's time driver (`enable_time`).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout.clamp(Duration::from_millis(1), TIME_MAX));
        self
    }

    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle {
            call: Arc::downgrade(&self.call),
            timeout: self.timeout,
        }
    }

    /// Calls the closure. A panic in it, in its future, or when that future is dropped, becomes a failure.
    pub(crate) async fn call(&self, batch: EventBatch) -> Result<(), Failure> {
        match self.timeout {
            None => settle(
                AssertUnwindSafe(async { (self.call)(batch).await })
                    .catch_unwind()
                    .await,
            ),
            Some(limit) => Box::pin(self.call_within(batch, limit)).await,
        }
    }

    async fn call_within(&self, batch: EventBatch, limit: Duration) -> Result<(), Failure> {
        let mut call = match catch_unwind(AssertUnwindSafe(|| (self.call)(batch))) {
            Ok(call) => call,
            Err(panic) => return settle(Err(panic)),
        };
        let outcome = {
            let mut guarded = pin!(AssertUnwindSafe(&mut call).catch_unwind());
            tokio::time::timeout(limit, &mut guarded).await
        };
        // What the future holds is dropped here, whether it has come to its end or not, and that may panic.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(call)));
        match (outcome, dropped) {
            (Ok(Ok(Ok(()))), Err(panic)) => settle(Err(panic)),
            (Ok(outcome), _) => settle(outcome),
            (Err(_), dropped) => {
                let mut text = format!("the call took longer than {limit:?} and was dropped");
                if let Err(panic) = dropped {
                    text = format!("{text}, where it panicked: {}", panic_text(&*panic));
                }
                Err(Failure::new(FailureCategory::Timeout, text))
            }
        }
    }
}

/// What a call came to.
fn settle(outcome: Result<Result<(), BoxError>, Box<dyn Any + Send>>) -> Result<(), Failure> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&*error)),
        Err(panic) => {
            let text = format!("the handler panicked: {}", panic_text(&*panic));
            Err(Failure::new(FailureCategory::Panic, text))
        }
    }
}

impl fmt::Debug for HandleStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HandleStream")
            .field("retry", &self.retry_policy())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What somebody panicked with.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown kind")
}

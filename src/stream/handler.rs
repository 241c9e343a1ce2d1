//! The user's closure.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::stream::policy::Retry;

type Call = dyn Fn(EventBatch) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// The async closure that a stream calls with every batch it delivers, one call at a time.
///
/// `Ok` says that the batch is handled: the cursor of a durable stream passes it. An error, or a panic, is retried as
/// [`retry`](HandleStream::retry) says; then the stream stops, and its cursor stays (D5).
///
/// A durable stream calls the handler **at least once** for each batch: after a crash, again for what was handled since
/// the cursor was stored last. Effects that must not happen twice use [`EventBatch::last_sequence`] as their key.
///
/// # Cancel safety
/// The handler's future is dropped at its next await when the store is closed and the drain limit is over. The batch then
/// counts as not handled.
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
    retry: Retry,
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
            retry: Retry::default(),
        }
    }

    /// How often, how long and with which pauses a call that failed is repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    pub(crate) fn retry_policy(&self) -> &Retry {
        &self.retry
    }

    /// Calls the closure. A panic in it, in its future, or when that future is dropped, becomes an error.
    pub(crate) async fn call(&self, batch: EventBatch) -> Result<(), Arc<str>> {
        let call = AssertUnwindSafe(async { (self.call)(batch).await });
        match call.catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(describe(&*error)),
            Err(panic) => Err(panic_text(&*panic)),
        }
    }
}

impl fmt::Debug for HandleStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HandleStream")
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// The error with all its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text += ": ";
            text += &part;
        }
        cause = error.source();
    }
    text.into()
}

fn panic_text(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown kind");
    format!("the handler panicked: {text}").into()
}

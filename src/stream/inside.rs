//! A handler call, and whether code runs inside one: waiting there for the call's own stream would never end.

use tracing::Instrument;

use crate::error::WaitError;
use crate::stream::core::StreamCore;
use crate::stream::failure::Failure;
use crate::stream::trace::{self, Delivered};

tokio::task_local! {
    /// The stream whose handler call is being polled: the address of its core, which outlives the call.
    static INSIDE: usize;
    /// Whether what the handler was given is a dead letter.
    static LETTER: bool;
}

/// Calls the handler, marked and in a span of its own. The mark holds while the call is polled, whatever task polls it, and not
/// in tasks that it spawns.
pub(crate) async fn call<T>(
    core: &StreamCore,
    delivered: Delivered,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let span = trace::handler_call(core, delivered);
    let call = INSIDE.scope(address(core), call);
    match span {
        None => call.await,
        // A span that nobody wants takes no room in the loops' tasks, of which there may be very many.
        Some(span) => {
            let mut call = Box::pin(call.instrument(span));
            let outcome = call.as_mut().await;
            if let Err(failure) = &outcome {
                trace::handler_failed(call.span(), failure);
            }
            outcome
        }
    }
}

/// The same with a dead letter that is retried.
pub(crate) async fn call_with_letter<T>(
    core: &StreamCore,
    delivered: Delivered,
    handled: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    call(core, delivered, LETTER.scope(true, handled)).await
}

/// Whether the handler is being called with a dead letter.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn is_letter() -> bool {
    LETTER.try_with(|is_letter| *is_letter).unwrap_or(false)
}

/// Refuses to wait for a stream inside its own handler.
pub(crate) fn refuse(core: &StreamCore) -> Result<(), WaitError> {
    let is_inside = INSIDE.try_with(|inside| *inside == address(core));
    if is_inside.unwrap_or(false) {
        return Err(WaitError::InOwnHandler {
            name: core.name.as_deref().map(str::to_owned),
        });
    }
    Ok(())
}

fn address(core: &StreamCore) -> usize {
    std::ptr::from_ref(core).addr()
}

//! Whether code runs inside a stream's own handler, where waiting for that stream would never end.

use crate::error::WaitError;
use crate::stream::core::StreamCore;

tokio::task_local! {
    /// The stream whose handler call is being polled: the address of its core, which outlives the call.
    static INSIDE: usize;
}

/// Marks a handler call. The mark holds while the call is polled, whatever task polls it, and not in tasks that it spawns.
pub(crate) async fn call<F: Future>(core: &StreamCore, call: F) -> F::Output {
    INSIDE.scope(address(core), call).await
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

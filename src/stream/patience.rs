//! What loops wait for besides their handlers: a page of the log, a stored position, the end of a pause. Nobody waits longer than
//! until the gate has something to say, but for what is on its way into the log.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use crate::error::{ReadError, StopCause};
use crate::log::page::Range;
use crate::stream::checkpoint::Checkpointer;
use crate::stream::core::StreamCore;
use crate::stream::feed::{Feed, Selected};
use crate::stream::policy::{Failures, Retry, Verdict};

/// How reading a page is repeated when the log cannot be read.
const READ_ATTEMPTS_MAX: u32 = 8;

/// Reads a page. A log that cannot be read is tried again a few times; then the stream ends loudly. Nothing: the gate has
/// something to say first.
pub(crate) async fn read(
    core: &StreamCore,
    feed: &mut Feed,
    range: Range,
) -> Result<Option<Selected>, StopCause> {
    let mut failures = None;
    loop {
        let error = tokio::select! {
            biased;
            page = feed.read(range) => match page {
                Ok(page) => return Ok(Some(page)),
                Err(error) => error,
            },
            () = interrupted(core) => return Ok(None),
        };
        let policy = Retry::default().attempts_max(READ_ATTEMPTS_MAX);
        let failures = failures.get_or_insert_with(|| Failures::new(policy, Instant::now()));
        let verdict = match error {
            ReadError::Storage(_) => failures.record(Instant::now()),
            ReadError::Closed
            | ReadError::Pruned { .. }
            | ReadError::Damaged { .. }
            | ReadError::Undecodable(_) => Verdict::GiveUp,
        };
        let Verdict::RetryAfter(delay) = verdict else {
            return Err(error.into());
        };
        tracing::warn!(stream = core.name.as_deref(), %error, "the log could not be read, it is tried again");
        pause(core, delay).await;
        if core.gate.calls() {
            return Ok(None);
        }
    }
}

/// Waits until a position is stored.
pub(crate) async fn stored(checkpointer: &Checkpointer, position: u64) -> Result<(), StopCause> {
    let cell = checkpointer.cell();
    poll_fn(|context| cell.poll_stored(position, context)).await?;
    Ok(())
}

pub(crate) async fn pause(core: &StreamCore, delay: Duration) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = interrupted(core) => {}
    }
}

/// Waits until the gate is closed, or has something to say.
pub(crate) async fn interrupted(core: &StreamCore) {
    while !core.gate.calls() {
        core.interrupt.notified().await;
    }
}

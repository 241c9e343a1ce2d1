//! The handle of a registered stream, and what follows its status.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{StopCause, WaitError};
use crate::stream::core::StreamCore;
use crate::stream::status::{StreamState, StreamStatus};
use crate::stream::wait::Until;

/// A registered stream. Dropping it unsubscribes the stream; [`detach`](EventStream::detach) leaves it running.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use millstream::{HandleStream, NewEvent, Store};
/// let store = Store::in_memory()?;
/// let stream = store.stream_all(HandleStream::new(|_batch| async { Ok::<_, std::io::Error>(()) })).await?;
/// let appended = store.append([NewEvent::new("greeted", "hello")]).await?;
/// stream.wait_for(appended.last_sequence).await?;
/// assert_eq!(stream.status().handled_events, 1);
/// stream.unsubscribe();
/// stream.stopped().await;
/// # Ok(()) }
/// ```
#[must_use = "dropping the handle unsubscribes the stream; keep it, or detach it"]
pub struct EventStream {
    core: Arc<StreamCore>,
    is_detached: bool,
}

impl EventStream {
    pub(crate) fn new(core: Arc<StreamCore>) -> Self {
        Self {
            core,
            is_detached: false,
        }
    }

    /// The name of a durable stream.
    pub fn name(&self) -> Option<&str> {
        self.core.name.as_deref()
    }

    /// The position at which this run began: delivery starts strictly after it (D1).
    pub fn started_after(&self) -> u64 {
        self.core.started_after
    }

    /// The stream as it is now.
    pub fn status(&self) -> StreamStatus {
        self.core.status()
    }

    /// Follows the status as it changes.
    pub fn watch(&self) -> StatusWatch {
        StatusWatch::new(Arc::clone(&self.core))
    }

    /// Waits until everything that is committed now is settled.
    ///
    /// # Errors
    /// The stream stopped, was paused, or stands by, before it got there; called inside the stream's own handler.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn caught_up(&self) -> Result<(), WaitError> {
        self.core.wait_for(self.core.source.bus.head()).await
    }

    /// Waits until everything up to what was appended, or up to a sequence that may be yet to be appended, is settled, and
    /// stored when the stream is durable.
    ///
    /// What the query does not select counts as settled when the position has passed it.
    ///
    /// # Errors
    /// The stream stopped, was paused, or stands by, before it got there; called inside the stream's own handler.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, appended: impl Into<Until>) -> Result<(), WaitError> {
        let Until(sequence) = appended.into();
        self.core.wait_stored(sequence).await
    }

    /// Waits until everything up to what was appended is settled, stored or not.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn handled(&self, Until(sequence): Until) -> Result<(), WaitError> {
        self.core.wait_for(sequence).await
    }

    /// Waits until the stream is run by this store: at once, unless it was registered with
    /// [`Ownership::Standby`](crate::Ownership::Standby) and another store runs it.
    ///
    /// An owner may [give the stream away](crate::Ownership::Standby) later, and stands by again then.
    ///
    /// # Errors
    /// The stream stopped before.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn owned(&self) -> Result<(), WaitError> {
        self.core.owned().await
    }

    /// Ends the stream: no handler call starts after this returns (S7). A call that has started goes on to its end, and is
    /// settled if it succeeds; [`stopped`](EventStream::stopped) waits for it.
    pub fn unsubscribe(&self) {
        self.core.stop(StopCause::Unsubscribed);
    }

    /// Waits until the stream runs no more: no handler call is under way, and the cursor is stored.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn stopped(&self) -> StopCause {
        self.core.stopped().await
    }

    /// Leaves the stream running without a handle, until the store is closed.
    pub fn detach(mut self) {
        self.is_detached = true;
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if self.is_detached {
            return;
        }
        self.core.stop(StopCause::Unsubscribed);
        if self.core.stop_cause().is_some() {
            self.core.registry.forget(self.core.id);
        }
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("EventStream")
            .field(&self.core.status())
            .finish()
    }
}

/// Follows the status of a stream as it changes.
///
/// A stream at rest does not change: that the head moves on over events which its query does not select is seen by
/// asking again.
#[derive(Clone)]
pub struct StatusWatch {
    core: Arc<StreamCore>,
    changes: watch::Receiver<()>,
    /// Whether the status in which the stream is seen to have stopped was given out, or came before.
    has_seen_the_end: bool,
}

impl StatusWatch {
    pub(crate) fn new(core: Arc<StreamCore>) -> Self {
        let changes = core.board.follow();
        let has_seen_the_end = core.stop_cause().is_some();
        Self {
            core,
            changes,
            has_seen_the_end,
        }
    }

    /// The status now.
    pub fn current(&self) -> StreamStatus {
        self.core.status()
    }

    /// Waits for a change, and gives the newest status; changes in between are passed over. Nothing comes after the status
    /// in which the stream is seen to have stopped.
    ///
    /// # Cancel safety
    /// A change that was not received is received by the next call.
    pub async fn changed(&mut self) -> Option<StreamStatus> {
        if self.has_seen_the_end {
            return None;
        }
        self.changes.changed().await.ok()?;
        let status = self.core.status();
        self.has_seen_the_end = matches!(status.state, StreamState::Stopped(_));
        Some(status)
    }
}

impl fmt::Debug for StatusWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("StatusWatch")
            .field(&self.current())
            .finish()
    }
}

//! The store for whoever is on duty: all streams that the log knows, what is wrong with them, and the way to steer them.

use std::sync::Arc;

use crate::error::{ReadError, SteerError, WaitError};
use crate::store::Store;
use crate::stream::control::StreamControl;
use crate::stream::health::{self, Health, HealthLimits};
use crate::stream::status::StreamStatus;
use crate::stream::survey;
use crate::stream::wait::Until;

impl Store {
    /// The status of every durable stream that the log knows, by name: those of this store, those that other processes run,
    /// and those that nobody runs. What a stream was told from outside shows at once, also while its handler call under way
    /// comes to its end.
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn streams(&self) -> Result<Vec<StreamStatus>, ReadError> {
        survey::all(&self.inner.hub).await
    }

    /// The durable stream of this name, to be steered, wherever it runs.
    ///
    /// # Errors
    /// The log knows no such stream: [`SteerError::NoSuchStream`] names the one that may have been meant. The store is closed,
    /// or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn stream(&self, name: &str) -> Result<StreamControl, SteerError> {
        StreamControl::find(Arc::clone(&self.inner.hub), name).await
    }

    /// What is wrong with the log and its streams, by the default limits. As [`health_within`](Store::health_within).
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn health(&self) -> Result<Health, ReadError> {
        self.health_within(&HealthLimits::default()).await
    }

    /// What is wrong with the log, such as a disk that is nearly full, and with its streams: each durable stream that the log knows,
    /// and the others of this store. All of them are read at once, and no append waits for it.
    ///
    /// Of a stream that is not registered in this store its stored cursor is all that is known. That may be up to 20,000 events
    /// behind of a stream which is at rest, so less than that counts as no lag in time, and as no standing still.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{DurableStream, HandleStream, Problem, Store};
    /// # let store = Store::in_memory()?;
    /// # let handle = HandleStream::new(|_batch| async { Ok::<_, std::io::Error>(()) });
    /// # let _stream = store.stream_all_durable(&DurableStream::new("ledger"), handle).await?;
    /// assert!(store.health().await?.is_well());
    /// store.stream("ledger").await?.pause("anna").await?;
    /// let health = store.health().await?;
    /// assert!(matches!(health.of("ledger"), Some([Problem::Paused { by, .. }]) if by == "anna"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn health_within(&self, limits: &HealthLimits) -> Result<Health, ReadError> {
        health::look(&self.inner.hub, limits).await
    }

    /// Waits until every stream of this store has settled what was appended, and stored that when it is durable. Streams that run
    /// elsewhere are waited for with [`StreamControl::wait_for`].
    ///
    /// # Errors
    /// A stream has stopped with an error, or was paused, before it got there; called inside a handler of one of the streams.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, appended: impl Into<Until>) -> Result<(), WaitError> {
        let Until(sequence) = appended.into();
        self.inner.hub.wait_for(sequence).await
    }
}

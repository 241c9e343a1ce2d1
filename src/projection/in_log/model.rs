//! The handle of a read model in the log's file.

use std::fmt;
use std::sync::Arc;

use rusqlite::Connection;

use crate::error::{ReadModelError, StopCause};
use crate::projection::build::Spec;
use crate::projection::in_log::readers::Readers;
use crate::projection::status::ReadModelStatus;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::wait::Until;

/// A read model that is kept in the log's own file: got with [`InLogModels::project`](crate::InLogModels::project). Dropping it ends its
/// stream; [`detach`](Self::detach) leaves it running.
#[must_use = "dropping the handle ends the model's stream; keep it, or detach it"]
pub struct InLogModel {
    store: Store,
    readers: Arc<Readers>,
    spec: Spec,
    stream: EventStream,
}

impl InLogModel {
    pub(super) fn new(store: Store, readers: Arc<Readers>, spec: Spec, stream: EventStream) -> Self {
        Self {
            store,
            readers,
            spec,
            stream,
        }
    }

    /// The name of the read model.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The version that is kept here.
    pub fn version(&self) -> u32 {
        self.spec.version
    }

    /// The stream that keeps it, called `NAME@VERSION`.
    pub fn stream(&self) -> &EventStream {
        &self.stream
    }

    /// The read model as it is now. It serves from its first event on.
    pub fn status(&self) -> ReadModelStatus {
        let of = (&*self.spec.name, self.spec.version);
        ReadModelStatus::serving(of, 0, self.store.head(), Some(self.stream.status()))
    }

    /// Reads the log's file: one transaction, on a connection that cannot write, and on a thread that may block. At most four reads are
    /// under way at once through one [`InLogModels`](crate::InLogModels), others wait. No read blocks the writer, and the writer
    /// blocks none; but one that lasts keeps the write-ahead log from starting again, so it should be short.
    ///
    /// The tables of the log, which `docs/format.md` describes, can be read in the same transaction: what is seen of both belongs together.
    ///
    /// # Errors
    /// The closure's SQL fails; the storage fails.
    ///
    /// # Cancel safety
    /// A read that has begun goes on to its end, and its answer is lost.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadModelError> {
        self.readers.read(&self.spec.name, read).await
    }

    /// Waits until readers see what was appended: read your own write.
    ///
    /// # Errors
    /// The stream stopped, or was paused, before it got there.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, appended: impl Into<Until>) -> Result<(), ReadModelError> {
        Ok(self.stream.handled(appended.into()).await?)
    }

    /// Waits until everything that is committed now is applied, and readers see it.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    /// As [`wait_for`](Self::wait_for).
    pub async fn caught_up(&self) -> Result<(), ReadModelError> {
        self.wait_for(self.store.head()).await
    }

    /// Ends the model's stream: no handler call starts after this returns. [`stopped`](Self::stopped) waits for the one under way, which
    /// applies what it was given.
    pub fn unsubscribe(&self) {
        self.stream.unsubscribe();
    }

    /// Waits until the model's stream runs no more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn stopped(&self) -> StopCause {
        self.stream.stopped().await
    }

    /// Leaves the model's stream running without a handle, until the store is closed.
    pub fn detach(self) {
        self.stream.detach();
    }
}

impl fmt::Debug for InLogModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("InLogModel").field(&self.status()).finish()
    }
}

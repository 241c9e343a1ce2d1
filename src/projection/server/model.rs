//! The handle of a read model on the log's server.

use std::fmt;

use tokio_postgres::{Error, Transaction};

use crate::error::{ReadModelError, StopCause};
use crate::projection::server::readers::Readers;
use crate::projection::spec::Spec;
use crate::projection::status::ReadModelStatus;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::wait::Until;

/// A read model that is kept on the log's PostgreSQL server: got with [`ServerModels::project`](crate::ServerModels::project). Dropping it
/// ends its stream; [`detach`](Self::detach) leaves it running.
#[must_use = "dropping the handle ends the model's stream; keep it, or detach it"]
pub struct ServerModel {
    store: Store,
    readers: Readers,
    spec: Spec,
    stream: EventStream,
}

impl ServerModel {
    pub(super) fn new(store: Store, readers: Readers, spec: Spec, stream: EventStream) -> Self {
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

    /// The schema in the log's database that its tables are in, for whoever reads them with other programs:
    /// `SELECT * FROM "millstream_balances_1".balance`.
    pub fn schema(&self) -> &str {
        self.readers.namespace()
    }

    /// The stream that keeps it, called `NAME@VERSION`.
    pub fn stream(&self) -> &EventStream {
        &self.stream
    }

    /// The read model as it is now. It serves from its first event on.
    pub fn status(&self) -> ReadModelStatus {
        let stream = self.stream.status();
        let position = stream.position;
        let head = self.store.head().max(position);
        ReadModelStatus {
            name: self.spec.name.clone(),
            version: self.spec.version,
            is_serving: true,
            position,
            head,
            lag: head - position,
            is_rebuilding: false,
            stream: Some(stream),
        }
    }

    /// Reads the model: one transaction that cannot write and sees one moment. At most four reads of a handle are under way at once,
    /// others wait. No read blocks the writer, and the writer blocks none.
    ///
    /// Names without a schema are those of the model's tables, and then those of the log: what is seen of both belongs together.
    ///
    /// ```
    /// # async fn total(balances: &millstream::ServerModel) -> Result<i64, millstream::ReadModelError> {
    /// balances
    ///     .read(async |tx| tx.query_one("SELECT total FROM balance WHERE account = $1", &[&"anna"]).await?.try_get(0))
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// The closure's SQL fails; the server cannot be reached.
    ///
    /// # Cancel safety
    /// A read that is dropped is given up, with its connection.
    pub async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, ReadModelError> {
        self.readers.read(read).await
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

impl fmt::Debug for ServerModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ServerModel")
            .field(&self.status())
            .finish()
    }
}

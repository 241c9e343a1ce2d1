//! What the user writes: how events become rows on the server.

use tokio_postgres::Transaction;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;

/// A read model that is kept from events with SQL on the log's PostgreSQL server: its writes and its position commit in one transaction (R1).
///
/// Each build has a schema of its own there, in which [`schema`](Self::schema) makes its tables, so they may be called whatever
/// reads well, and a rebuild or a new version is built beside what serves (R2). See [`ServerModels`](crate::ServerModels) for an example.
///
/// **In-memory state.** A projection is cloned before each transaction, and the clone takes its place when that has committed: what a
/// failed attempt left in its fields is gone, and is not applied twice. It begins with the value that was registered, after a restart and
/// also after a commit of which nobody knows what became, so the fields are for what can be found again, such as caches. What clones share,
/// behind an `Arc` for instance, is reset in [`rolled_back`](Self::rolled_back), and is made anew in [`anew`](Self::anew).
pub trait ServerProjection: Clone + Send + 'static {
    /// The name of the read model: 1 to 200 bytes without control characters and without `@`, unique in the log.
    fn name(&self) -> &str;

    /// The version, from 1. It changes whenever `query`, `schema` or `apply` do: a higher one is built beside the one that serves.
    fn version(&self) -> u32;

    /// Which events it is kept from.
    fn query(&self) -> EventQuery;

    /// The SQL statements that make its tables and indexes, in a schema of its own that is empty.
    fn schema(&self) -> &str;

    /// Writes what a batch brings. The events come in the order of the log, each exactly once: what is written here is
    /// committed together with the position behind it, or not at all.
    ///
    /// Names without a schema are those of the model's own. `execute_typed` and `query_typed` ask the server once, `execute` and `query` with SQL
    /// text twice. It must neither commit nor roll back: the server refuses that, and it is an error.
    ///
    /// # Errors
    /// An error or a panic rolls back all batches of the transaction. They are tried anew one by one, and then the failure policy
    /// has its say. A batch is applied as a whole or not at all: a [`HandlerError`](crate::HandlerError) that names an event says
    /// which one it was, and does not spare the others. When the connection is lost it is made anew, and that is no failure of
    /// the projection.
    ///
    /// # Cancel safety
    /// The future is dropped when its time is over ([`batch_timeout`](crate::ServerModelOptions::batch_timeout)), and when the store
    /// is closed and its drain limit is over. All that it wrote is rolled back then.
    fn apply(
        &mut self,
        tx: &Transaction<'_>,
        batch: &EventBatch,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Writes what was gathered in memory over the batches of a transaction. Called once, after the last one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    fn before_commit(&mut self, tx: &Transaction<'_>) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = tx;
        std::future::ready(Ok(()))
    }

    /// The transaction was rolled back. Called on the projection as it was before it, to reset what it shares with the clone that
    /// failed.
    fn rolled_back(&mut self) {}

    /// The same projection as if nothing had been applied since it was registered, also for the build of a
    /// rebuild, which is kept while this one is. It shares nothing that changes with this one: a
    /// projection whose clones share something makes that anew here.
    #[must_use]
    fn anew(&self) -> Self {
        self.clone()
    }
}

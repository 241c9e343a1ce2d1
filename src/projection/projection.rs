//! What the user writes: how events become rows.

use rusqlite::Transaction;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;

/// A read model that is kept from events with SQL: its writes and its cursor commit in one transaction (R1).
///
/// Each version has a database file of its own, made with [`schema`](Self::schema), so the tables may be called whatever reads
/// well, and a new version is built beside the old one (R2). The file is thrown away whenever the version changes: there are
/// no migrations. [`ReadModels::in_log`](crate::ReadModels::in_log) keeps the same in the log's own file, where the tables need names of their own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::rusqlite::{self, Transaction};
/// use millstream::{BoxError, EventBatch, EventQuery, NewEvent, Projection, ReadModels, Store};
/// use serde_json::json;
///
/// #[derive(Clone)]
/// struct Balances;
///
/// impl Projection for Balances {
///     fn name(&self) -> &str {
///         "balances"
///     }
///     fn version(&self) -> u32 {
///         1
///     }
///     fn query(&self) -> EventQuery {
///         EventQuery::types(["deposited"])
///     }
///     fn schema(&self) -> &str {
///         "CREATE TABLE balance (account TEXT PRIMARY KEY, total INTEGER NOT NULL)"
///     }
///     fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
///         let mut add = tx.prepare_cached(
///             "INSERT INTO balance VALUES (?1, ?2) ON CONFLICT DO UPDATE SET total = total + excluded.total",
///         )?;
///         for event in batch {
///             let (account, amount): (String, i64) = event.payload().decode()?;
///             add.execute((account, amount))?;
///         }
///         Ok(())
///     }
/// }
///
/// # let folder = tempfile::tempdir()?;
/// let store = Store::open(folder.path().join("bank.db"))?;
/// let models = ReadModels::open(folder.path().join("views.db"))?;
/// let balances = models.project(&store, Balances).await?;
///
/// let appended = store.append([NewEvent::new("deposited", json!(["anna", 70]))]).await?;
/// balances.wait_for(appended).await?;
/// let total: i64 = balances
///     .read(|connection| connection.query_row("SELECT total FROM balance", [], |row| row.get(0)))
///     .await?;
/// assert_eq!(total, 70);
/// # Ok(()) }
/// ```
///
/// **In-memory state.** A projection is cloned before each transaction, and the clone takes its place when that has committed:
/// what a failed attempt left in its fields is gone, and is not applied twice. It begins with the value that was registered,
/// also after a restart, so the fields are for what can be found again, such as caches. What clones share, behind an `Arc` for
/// instance, is reset in [`rolled_back`](Self::rolled_back), and is not shared with another build: [`anew`](Self::anew).
pub trait Projection: Clone + Send + 'static {
    /// The name of the read model: 1 to 200 bytes without control characters and without `@`, unique in the file of read models.
    fn name(&self) -> &str;

    /// The version, from 1. It changes whenever `query`, `schema` or `apply` do: a higher one is built beside the one that serves.
    fn version(&self) -> u32;

    /// Which events it is kept from.
    fn query(&self) -> EventQuery;

    /// The SQL statements that make its tables and indexes, in an empty database, or in the log's own file. Names that begin with
    /// `millstream_` are taken.
    fn schema(&self) -> &str;

    /// Writes what a batch brings. The events come in the order of the log, each exactly once: what is written here is
    /// committed together with the position behind it, or not at all.
    ///
    /// It runs on a thread where it may block. It must neither commit nor roll back: that is an error.
    ///
    /// # Errors
    /// An error or a panic rolls back all batches of the transaction. They are tried anew one by one, and then the failure policy
    /// has its say. A batch is applied as a whole or not at all: a [`HandlerError`](crate::HandlerError) that names an event says
    /// which one it was, and does not spare the others.
    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError>;

    /// Writes what was gathered in memory over the batches of a transaction. Called once, after the last one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        let _ = tx;
        Ok(())
    }

    /// The transaction was rolled back. Called on the projection as it was before it, to reset what it shares with the clone that
    /// failed.
    fn rolled_back(&mut self) {}

    /// The same projection for another build, such as that of a rebuild, which is kept while this one is. It shares nothing that changes with
    /// this one: a projection whose clones share something makes that anew here.
    #[must_use]
    fn anew(&self) -> Self {
        self.clone()
    }
}

/// A projection of any type, with what its transactions make of it.
pub(crate) trait Kept: Send {
    /// Applies a batch to a clone, the same for all batches of a transaction.
    fn attempt(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError>;
    /// There is no further batch in the transaction.
    fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError>;
    /// The transaction has committed: the clone takes the place.
    fn keep(&mut self);
    /// The transaction was rolled back: the clone is gone.
    fn drop_attempt(&mut self);
    /// The same projection as it was registered.
    fn anew(&self) -> Box<dyn Kept>;
}

pub(crate) struct Keeper<P> {
    registered: P,
    kept: P,
    attempt: Option<P>,
}

impl<P: Projection> Keeper<P> {
    pub(crate) fn new(projection: P) -> Self {
        Self {
            kept: projection.anew(),
            registered: projection,
            attempt: None,
        }
    }
}

impl<P: Projection> Kept for Keeper<P> {
    fn attempt(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let attempt = self.attempt.get_or_insert_with(|| self.kept.clone());
        attempt.apply(tx, batch)
    }

    fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        match &mut self.attempt {
            Some(attempt) => attempt.before_commit(tx),
            None => Ok(()),
        }
    }

    fn keep(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.kept = attempt;
        }
    }

    fn drop_attempt(&mut self) {
        self.attempt = None;
        self.kept.rolled_back();
    }

    fn anew(&self) -> Box<dyn Kept> {
        Box::new(Self::new(self.registered.clone()))
    }
}

//! Projections without a log: events are given, more of them come, and then there are rows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Row;

use crate::clock::Timestamp;
use crate::error::{AppendError, BoxError};
use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::limits::Limits;
use crate::event::new_event::{NewEvent, check_batch};
use crate::event::query::EventQuery;
use crate::fault::Faults;
use crate::projection::build::{Build, Origin, Spec, TransactionLimits};
use crate::projection::projection::{Keeper, Projection};

/// A projection in a database of its own in memory, to which a test gives events.
///
/// It is given what its query selects, in transactions of one batch each, as a stream that is live would. Nothing is asynchronous, and
/// no file is made.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use millstream::testing::Given;
/// use millstream::{BoxError, EventBatch, EventQuery, NewEvent, Projection};
/// # use millstream::rusqlite::Transaction;
/// # #[derive(Clone)]
/// # struct Balances;
/// # impl Projection for Balances {
/// #     fn name(&self) -> &str { "balances" }
/// #     fn version(&self) -> u32 { 1 }
/// #     fn query(&self) -> EventQuery { EventQuery::types(["deposited", "withdrawn"]) }
/// #     fn schema(&self) -> &str { "CREATE TABLE balance (account TEXT PRIMARY KEY, total INTEGER NOT NULL)" }
/// #     fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
/// #         for event in batch {
/// #             let sign = if event.event_type() == "deposited" { 1 } else { -1 };
/// #             let (account, amount): (String, i64) = event.payload().decode()?;
/// #             tx.execute(
/// #                 "INSERT INTO balance VALUES (?1, ?2) ON CONFLICT DO UPDATE SET total = total + excluded.total",
/// #                 (account, sign * amount),
/// #             )?;
/// #         }
/// #         Ok(())
/// #     }
/// # }
///
/// let mut balances = Given::projection(Balances)?;
/// balances.given([NewEvent::new("deposited", ("anna", 70)), NewEvent::new("deposited", ("ben", 5))])?;
/// balances.when([NewEvent::new("withdrawn", ("anna", 20))])?;
/// let rows: Vec<(String, i64)> = balances.rows(
///     "SELECT account, total FROM balance ORDER BY account",
///     |row| Ok((row.get(0)?, row.get(1)?)),
/// )?;
/// assert_eq!(rows, [("anna".to_owned(), 50), ("ben".to_owned(), 5)]);
/// # Ok(()) }
/// ```
pub struct Given<P> {
    query: EventQuery,
    build: Build,
    keeper: Keeper<P>,
    head: u64,
}

impl<P: Projection> Given<P> {
    /// The projection with nothing to show yet.
    ///
    /// # Errors
    /// Its schema fails.
    pub fn projection(projection: P) -> Result<Self, BoxError> {
        let query = projection.query();
        let spec = Spec {
            name: projection.name().to_owned(),
            version: projection.version(),
            query: query.canonical_text(),
            schema: projection.schema().to_owned(),
        };
        let origin = Origin {
            log_id: "a test".to_owned(),
            head: 0,
            faults: Faults::default(),
        };
        Ok(Self {
            query,
            build: Build::open(Path::new(":memory:"), spec, origin)?,
            keeper: Keeper::new(projection),
            head: 0,
        })
    }

    /// What happened before: a batch of events, numbered from 1 on.
    ///
    /// # Errors
    /// The projection fails, with its own error; an event is one that no log would take.
    ///
    /// # Panics
    /// When the projection does.
    pub fn given(&mut self, events: impl IntoIterator<Item = NewEvent>) -> Result<&mut Self, BoxError> {
        self.when(events)?;
        Ok(self)
    }

    /// What happens now: the next batch. One that fails leaves everything as it was, and has taken no numbers.
    ///
    /// # Errors
    /// As [`given`](Self::given).
    ///
    /// # Panics
    /// When the projection does.
    pub fn when(&mut self, events: impl IntoIterator<Item = NewEvent>) -> Result<(), BoxError> {
        let (records, _) = match check_batch(events, &Limits::default()) {
            Ok(checked) => checked,
            Err(AppendError::Empty) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let batch = CommittedBatch::stamp(records, self.head + 1, Timestamp::now());
        let last_sequence = batch.last_sequence;
        if let Some(batch) = EventBatch::select(Arc::new(batch), &self.query, 0) {
            let limits = TransactionLimits {
                events_max: usize::MAX,
                within: Duration::MAX,
            };
            let applied = self.build.apply(&mut self.keeper, &[batch], limits);
            applied.map_err(|not_applied| not_applied.into_handler_error())?;
        }
        self.head = last_sequence;
        Ok(())
    }

    /// What there is then.
    ///
    /// # Errors
    /// The SQL fails.
    pub fn rows<T>(
        &self,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, BoxError> {
        let mut statement = self.build.connection().prepare(sql)?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

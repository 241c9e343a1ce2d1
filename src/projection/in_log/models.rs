//! The read models in a log's own file, and how they are registered.

use std::fmt;
use std::sync::Arc;

use crate::error::{ReadModelError, SteerError, StreamError};
use crate::log::sqlite::connection::storage;
use crate::meter::ModelMeter;
use crate::projection::build::Spec;
use crate::projection::in_log::keeper::Keeper;
use crate::projection::in_log::model::InLogModel;
use crate::projection::in_log::options::InLogOptions;
use crate::projection::in_log::readers::Readers;
use crate::projection::in_log::rows;
use crate::projection::in_log::step::Plan;
use crate::projection::in_log::task::ask;
use crate::projection::keeping::{KeepingStream, handler};
use crate::projection::models::{ReadModels, check, runtime, stream_name};
use crate::projection::own::own;
use crate::projection::projection::{self, Projection};
use crate::store::Store;

/// The read models in the log's own file, got with [`ReadModels::in_log`].
///
/// Cloning gives another handle of the same. It keeps the store open.
#[derive(Clone)]
pub struct InLogModels {
    store: Store,
    readers: Arc<Readers>,
}

impl ReadModels {
    /// Read models in the log's own file: one file to carry about, and rows that are never seen without the events that they were made
    /// from. What a [`Projection`] writes and the cursor of its stream commit in one transaction there (R1).
    ///
    /// The committer carries it out, between two groups of appends, which wait for it: see [`InLogOptions::budget`]. It never rolls back
    /// somebody's append. Where appends must not wait, where models are rebuilt without downtime, and for views, use files of
    /// their own: [`ReadModels::open`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::rusqlite::Transaction;
    /// use millstream::{BoxError, EventBatch, EventQuery, NewEvent, Projection, ReadModels, Store};
    ///
    /// #[derive(Clone)]
    /// struct Deposits;
    ///
    /// impl Projection for Deposits {
    ///     fn name(&self) -> &str {
    ///         "deposits"
    ///     }
    ///     fn version(&self) -> u32 {
    ///         1
    ///     }
    ///     fn query(&self) -> EventQuery {
    ///         EventQuery::types(["deposited"])
    ///     }
    ///     fn schema(&self) -> &str {
    ///         "CREATE TABLE deposit (sequence INTEGER PRIMARY KEY, amount INTEGER NOT NULL)"
    ///     }
    ///     fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
    ///         for event in batch {
    ///             let amount: i64 = event.payload().decode()?;
    ///             tx.execute("INSERT INTO deposit VALUES (?1, ?2)", (event.sequence() as i64, amount))?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let store = Store::open(folder.path().join("bank.db"))?;
    /// let deposits = ReadModels::in_log(&store)?.project(Deposits).await?;
    ///
    /// let appended = store.append([NewEvent::new("deposited", 70)]).await?;
    /// deposits.wait_for(appended).await?;
    /// let total: i64 = deposits
    ///     .read(|connection| connection.query_row("SELECT sum(amount) FROM deposit", [], |row| row.get(0)))
    ///     .await?;
    /// assert_eq!(total, 70);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ReadModelError::NoLogFile`]: the store is in memory.
    pub fn in_log(store: &Store) -> Result<InLogModels, ReadModelError> {
        let path = store.file().ok_or(ReadModelError::NoLogFile)?;
        Ok(InLogModels {
            readers: Arc::new(Readers::new(path.to_owned())),
            store: store.clone(),
        })
    }
}

impl InLogModels {
    /// Keeps a read model continuously: a durable stream of the store applies what is committed, until the handle is dropped.
    ///
    /// The stream is called `NAME@VERSION` and is seen and steered as any other. A version that is new is built from the first event
    /// on, and may be read meanwhile; [`InLogModel::caught_up`] says when it is complete. What it makes needs names of its own
    /// in the file, so that it stands beside older versions until those are [removed](Self::remove). A version that another store
    /// keeps is refused, waited for or taken over, as [`InLogOptions::ownership`] says.
    ///
    /// # Errors
    /// The name or version is refused; this version is registered already; its query or schema changed and its version did not; the schema
    /// fails, or does what the log's file does not take ([`InLogError`](crate::InLogError)); events that it needs were pruned;
    /// there is no runtime; the store is closed; the storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing is kept; the tables may have been made.
    pub async fn project<P: Projection>(&self, projection: P) -> Result<InLogModel, ReadModelError> {
        self.project_with(projection, &InLogOptions::default()).await
    }

    /// The same with other [options](InLogOptions).
    ///
    /// # Errors
    /// As [`project`](Self::project), and when the options do not fit together.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn project_with<P: Projection>(
        &self,
        projection: P,
        options: &InLogOptions,
    ) -> Result<InLogModel, ReadModelError> {
        runtime()?;
        check(projection.name(), projection.version())?;
        let query = projection.query();
        let spec = Spec {
            name: projection.name().to_owned(),
            version: projection.version(),
            query: query.canonical_text(),
            schema: projection.schema().to_owned(),
        };
        let limits = options.limits();
        let stream_name = stream_name(&spec.name, spec.version);
        self.check_fit(&spec, options).await?;
        // First, so that who is refused has not touched what another one keeps.
        let owned = own(&self.store, &spec, options.model().ownership_of_stream()).await?;
        let asked = spec.clone();
        let opened = ask(&self.store, move |desk| rows::open(desk, &asked, limits.budget)).await?;
        let position = self.first_position(&spec, opened.begins_at()).await?;
        let plan = Plan {
            spec: spec.clone(),
            own: opened.own,
            others: opened.others,
            limits,
            faults: self.store.faults().clone(),
            meter: ModelMeter::new(&stream_name),
        };
        let keeper = Keeper::new(
            plan,
            Box::new(projection::Keeper::new(projection)),
            KeepingStream::of(&self.store, &stream_name),
            &self.store.log().queue,
        );
        let durable = options.model().stream(&stream_name, position);
        let handler = handler(move |batches, call| {
            let keeper = keeper.clone();
            async move { keeper.handle(batches, call).await }
        });
        let handler = handler.retry(options.model().retry_policy());
        let stream = self.store.stream_to_durable(&durable, &query, handler).await;
        let stream = stream.map_err(|error| match error {
            StreamError::NameActive { .. } => ReadModelError::Active {
                name: spec.name.clone(),
                version: spec.version,
            },
            error => error.into(),
        })?;
        owned.keep();
        self.note_owner(spec.clone()).await?;
        Ok(InLogModel::new(
            self.store.clone(),
            Arc::clone(&self.readers),
            spec,
            stream,
        ))
    }

    /// Removes a version of a read model: its stream with its cursor and dead letters, and everything that its schema made, in that order.
    /// A version that is registered somewhere stops there. Registered again, it is built anew from the log (R2).
    ///
    /// Large tables take time to remove, and appends wait for that.
    ///
    /// # Errors
    /// There is no such version; the store is closed; the storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped the stream may be gone and the tables still there. Call it again.
    pub async fn remove(&self, name: &str, version: u32) -> Result<(), ReadModelError> {
        self.store.check_open()?;
        let known = Spec {
            name: name.to_owned(),
            version,
            query: String::new(),
            schema: String::new(),
        };
        if !self.has(known).await? {
            return Err(ReadModelError::NoSuchModel {
                name: stream_name(name, version),
            });
        }
        let ended = match self.store.stream(&stream_name(name, version)).await {
            Ok(stream) => stream.delete().await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) | Err(SteerError::NoSuchStream { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let removed = name.to_owned();
        ask(&self.store, move |desk| {
            let failed = storage("remove a read model from the log's file");
            rows::remove(desk.tx(), &removed, version).map_err(|error| failed(error).into())
        })
        .await?;
        Ok(())
    }

    /// Refuses what would be refused when the model is opened, and changes nothing: a take-over ends the earlier owner.
    async fn check_fit(&self, spec: &Spec, options: &InLogOptions) -> Result<(), ReadModelError> {
        let stream = stream_name(&spec.name, spec.version);
        options.model().stream(&stream, 0).validate()?;
        let asked = spec.clone();
        let begins_at = ask(&self.store, move |desk| rows::begins_at(desk, &asked)).await?;
        if let Some(position) = begins_at {
            self.first_position(spec, position).await?;
        }
        Ok(())
    }

    async fn has(&self, spec: Spec) -> Result<bool, ReadModelError> {
        ask(&self.store, move |desk| {
            let has_table = desk.names()?.contains("millstream_model");
            Ok(has_table && rows::find(desk.tx(), &spec)?.is_some())
        })
        .await
    }

    /// Where the stream begins, as far as pruning left it.
    async fn first_position(&self, spec: &Spec, position: u64) -> Result<u64, ReadModelError> {
        let pruned_through = self.store.log().extent().await?.pruned_through;
        // A model that has nothing yet begins with what is left, as a stream does.
        if position > 0 && position < pruned_through {
            return Err(ReadModelError::Pruned {
                name: spec.name.clone(),
                position,
                pruned_through,
            });
        }
        Ok(position.max(pruned_through))
    }

    /// Lets the model know that the stream's cursor of now goes along with its position.
    async fn note_owner(&self, spec: Spec) -> Result<(), ReadModelError> {
        let name = stream_name(&spec.name, spec.version);
        let core = self.store.registry().named(&name);
        let Some(cell) = core.and_then(|core| core.cursor()) else {
            return Ok(());
        };
        ask(&self.store, move |desk| {
            let row = desk.cursor(&cell.name)?.filter(|row| row.epoch == cell.epoch);
            // Who has lost the name meanwhile has nothing to say; its stream stops by itself.
            if let (Some(row), Some(stored)) = (row, rows::find(desk.tx(), &spec)?) {
                rows::move_to(desk.tx(), &spec, stored.position, row.owner)?;
            }
            Ok(())
        })
        .await
    }
}

impl fmt::Debug for InLogModels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("InLogModels").field(&self.store).finish()
    }
}

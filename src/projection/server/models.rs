//! The read models on a log's server, and how they are registered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{ReadModelError, SteerError};
use crate::log::Extent;
use crate::log::postgres::beside::{Purpose, ServerDesk};
use crate::projection::attend::Attendance;
use crate::projection::catch_up::CatchUp;
use crate::projection::keeping::KeepingStream;
use crate::projection::own::{oust, own};
use crate::projection::resume::behind_letters;
use crate::projection::server::hand::Hand;
use crate::projection::server::keeper::{Fence, Keeper, Work};
use crate::projection::server::list::{self, sweep};
use crate::projection::server::model::ServerModel;
use crate::projection::server::options::ServerModelOptions;
use crate::projection::server::projection::ServerProjection;
use crate::projection::server::requests::Requests;
use crate::projection::server::rows::{self, Opened, Origin, Wish};
use crate::projection::server::shared::{Parts, Shared};
use crate::projection::server::step::Plan;
use crate::projection::spec::{Spec, check, runtime, stream_name};
use crate::store::Store;

/// The pause between two tries to take a build over.
const PAUSE: Duration = Duration::from_millis(20);

/// The read models on a log's PostgreSQL server: rows in the database that the log lies in, kept by projections whose SQL is asynchronous.
///
/// What a [`ServerProjection`] writes and how far it is commit in one transaction of that database (R1), on a connection of the model's own:
/// no append waits for it. Two stores do not apply at once: a model is kept by the one that owns its stream.
///
/// Cloning gives another handle of the same. It keeps the store open.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::tokio_postgres::{Transaction, types::Type};
/// use millstream::{BoxError, EventBatch, EventQuery, NewEvent, ServerModels, ServerProjection, Store};
/// use serde_json::json;
///
/// #[derive(Clone)]
/// struct Balances;
///
/// impl ServerProjection for Balances {
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
///         "CREATE TABLE balance (account text PRIMARY KEY, total bigint NOT NULL)"
///     }
///     async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
///         for event in batch {
///             let (account, amount): (String, i64) = event.payload().decode()?;
///             let add = "INSERT INTO balance VALUES ($1, $2)
///                 ON CONFLICT (account) DO UPDATE SET total = balance.total + excluded.total";
///             tx.execute_typed(add, &[(&account, Type::TEXT), (&amount, Type::INT8)]).await?;
///         }
///         Ok(())
///     }
/// }
///
/// let store = Store::connect("postgres://bank:secret@localhost/bank").await?;
/// let balances = ServerModels::of(&store)?.project(Balances).await?;
///
/// let appended = store.append([NewEvent::new("deposited", json!(["anna", 70]))]).await?;
/// balances.wait_for(appended).await?;
/// let total: i64 = balances
///     .read(async |tx| tx.query_one("SELECT total FROM balance", &[]).await?.try_get(0))
///     .await?;
/// assert_eq!(total, 70);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ServerModels {
    store: Store,
    desk: ServerDesk,
    pub(super) requests: Arc<Requests>,
    attendance: Arc<Attendance<Shared>>,
}

impl ServerModels {
    /// The read models on the server of this store's log.
    ///
    /// # Errors
    /// [`ReadModelError::NoServer`]: the log is in a file or in memory.
    pub fn of(store: &Store) -> Result<Self, ReadModelError> {
        let desk = store.desk().ok_or(ReadModelError::NoServer)?;
        Ok(Self {
            desk: desk.clone(),
            store: store.clone(),
            requests: Requests::new(desk.clone()),
            attendance: Arc::new(Attendance::new()),
        })
    }

    /// Keeps a read model continuously: a durable stream of the store applies what is committed, until the handle is dropped.
    ///
    /// The stream is called `NAME@VERSION` and is seen and steered as any other. A version that is new is built from the first event
    /// on; while an older one serves it is built beside that, in a schema of its own, and takes its place when it has caught up. A version that
    /// another store keeps is refused, waited for or taken over, as [`ServerModelOptions::ownership`] says; whoever loses it writes nothing more.
    ///
    /// # Errors
    /// The name or version is refused; this version is registered already, kept by another store, or older than the one that serves; it was built
    /// from another log, is ahead of this one, or needs events that were pruned; its query or schema changed and its version did not; the schema
    /// fails; there is no runtime; the store is closed; the server cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing is kept; the tables may have been made.
    pub async fn project<P: ServerProjection>(&self, projection: P) -> Result<ServerModel, ReadModelError> {
        self.project_with(projection, &ServerModelOptions::default())
            .await
    }

    /// The same with other [options](ServerModelOptions).
    ///
    /// # Errors
    /// As [`project`](Self::project), and when the options do not fit together.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn project_with<P: ServerProjection>(
        &self,
        projection: P,
        options: &ServerModelOptions,
    ) -> Result<ServerModel, ReadModelError> {
        let spec = spec(&projection)?;
        self.check_fit(&spec, options).await?;
        // First, so that who is refused has not touched what another one keeps.
        let owned = own(&self.store, &spec, options.model().ownership_of_stream()).await?;
        let parts = self
            .open(projection, spec, options, Wish::WriteWithStream)
            .await?;
        ServerModel::continuous(parts, owned).await
    }

    /// Keeps a read model on demand: nothing runs, and [`catch_up`](ServerModel::catch_up) brings it to the head before it is read.
    ///
    /// It has no stream, and its own row says who may write it: whoever registered the version last, here or elsewhere. A stream of another store
    /// that keeps it ends with [`OwnershipLost`](crate::StopCause::OwnershipLost).
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn on_demand<P: ServerProjection>(&self, projection: P) -> Result<ServerModel, ReadModelError> {
        self.on_demand_with(projection, &ServerModelOptions::default())
            .await
    }

    /// The same with other [options](ServerModelOptions). A failure policy has no say here: the failure is given to whoever asked.
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn on_demand_with<P: ServerProjection>(
        &self,
        projection: P,
        options: &ServerModelOptions,
    ) -> Result<ServerModel, ReadModelError> {
        let spec = spec(&projection)?;
        self.check_fit(&spec, options).await?;
        let reserved = oust(&self.store, &spec).await?;
        let parts = self.open(projection, spec, options, Wish::WriteAlone).await?;
        ServerModel::on_demand(parts, reserved).await
    }

    /// Finds or makes the build of a version, to write it.
    async fn open<P: ServerProjection>(
        &self,
        projection: P,
        spec: Spec,
        options: &ServerModelOptions,
        wish: Wish,
    ) -> Result<Parts, ReadModelError> {
        let query = projection.query();
        let (opened, extent) = self.open_rows(&spec, wish).await?;
        sweep(&self.desk).await;
        // A model that has nothing yet begins with what is left, as a stream does.
        let position = opened.position.max(extent.pruned_through);
        let stream = stream_name(&spec.name, spec.version);
        let behind = behind_letters(&self.store, &stream, &query, position).await?;
        let position = behind.unwrap_or(position);
        let plan = Plan {
            stream: stream.as_str().into(),
            spec,
            desk: self.desk.clone(),
            limits: options.model().transaction(),
            batch_timeout: options.time_of_a_batch(),
            faults: self.store.faults().clone(),
        };
        let fence = match wish {
            Wish::WriteWithStream => Fence::Stream(KeepingStream::of(&self.store, &stream)),
            Wish::Look | Wish::WriteAlone => Fence::Row,
        };
        let (row, owner) = (opened.row.clone(), opened.owner);
        let hand = Hand::new(opened, projection, position);
        Ok(Parts {
            position: hand.shown(),
            keeper: Keeper::new(Work { plan, fence }, hand),
            catch_up: CatchUp {
                store: self.store.clone(),
                query,
                retry: options.model().retry_policy(),
            },
            options: options.model().clone(),
            row,
            owner,
            requests: Arc::clone(&self.requests),
            attendance: Arc::clone(&self.attendance),
        })
    }

    /// Gives the log as it was just before, too. Tried for as long as the server is waited for, while whoever wrote the build so far is in the middle
    /// of a transaction.
    async fn open_rows(&self, spec: &Spec, wish: Wish) -> Result<(Opened, Extent), ReadModelError> {
        let mut client = self.desk.connect(Purpose::Write).await?;
        let begun = Instant::now();
        loop {
            // Anew each time: meanwhile the build may have got beyond what was the head.
            let extent = self.store.log().extent().await?;
            let origin = Origin {
                log_id: self.store.log_id(),
                head: extent.head,
                pruned_through: extent.pruned_through,
            };
            match rows::open(&self.desk, &mut client, spec, origin, wish).await {
                Err(ReadModelError::Storage(error))
                    if error.is_busy() && begun.elapsed() < self.desk.limit() =>
                {
                    tracing::debug!(name = %spec.name, %error, "a read model is opened again");
                }
                outcome => return outcome.map(|opened| (opened, extent)),
            }
            // Short, because whoever writes the build begins its next transaction soon.
            sleep(PAUSE).await;
        }
    }

    /// Refuses what would be refused when the model is opened: a take-over ends the earlier owner.
    async fn check_fit(&self, spec: &Spec, options: &ServerModelOptions) -> Result<(), ReadModelError> {
        let stream = stream_name(&spec.name, spec.version);
        options.model().stream(&stream, 0).validate()?;
        // In this order: whoever keeps the model moves it on meanwhile. So whether it is ahead of the log is asked when nobody does any more.
        let extent = self.store.log().extent().await?;
        let origin = Origin {
            log_id: self.store.log_id(),
            head: u64::MAX,
            pruned_through: extent.pruned_through,
        };
        let mut client = self.desk.connect(Purpose::Write).await?;
        rows::open(&self.desk, &mut client, spec, origin, Wish::Look)
            .await
            .map(drop)
    }

    /// Removes a version of a read model: its stream with its cursor and dead letters, and its schema with everything in it, in that order.
    /// A version that is registered somewhere stops there. When it served, nothing does until another version is promoted.
    /// Registered again, it is built anew from the log (R2).
    ///
    /// # Errors
    /// There is no such version; the store is closed; somebody else has its tables locked; the server cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// When the future is dropped the stream may be gone and the tables still there. Call it again.
    pub async fn remove(&self, name: &str, version: u32) -> Result<(), ReadModelError> {
        self.store.check_open()?;
        let mut client = self.desk.connect(Purpose::Write).await?;
        if !list::has(&self.desk, &mut client, name, version).await? {
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
        Ok(list::remove(&self.desk, &mut client, name, version).await?)
    }
}

fn spec(projection: &impl ServerProjection) -> Result<Spec, ReadModelError> {
    runtime()?;
    check(projection.name(), projection.version())?;
    Ok(Spec {
        name: projection.name().to_owned(),
        version: projection.version(),
        query: projection.query().canonical_text(),
        schema: projection.schema().to_owned(),
    })
}

impl fmt::Debug for ServerModels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ServerModels").field(&self.store).finish()
    }
}

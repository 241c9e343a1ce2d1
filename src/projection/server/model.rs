//! The handle of a read model on the log's server.

use std::fmt;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio_postgres::{Error, Transaction};

use crate::error::{ReadModelError, StopCause, StreamError, WaitError};
use crate::projection::keeping::handler;
use crate::projection::options::Promotion;
use crate::projection::own::Owned;
use crate::projection::promotion::caught_up;
use crate::projection::rebuilding::Rebuild;
use crate::projection::server::readers::Serving;
use crate::projection::server::rebuild;
use crate::projection::server::shared::{Parts, Shared};
use crate::projection::standing::BuildState;
use crate::projection::status::ReadModelStatus;
use crate::stream::handle::EventStream;
use crate::stream::reservation::Reservation;
use crate::stream::wait::Until;

/// A read model that is kept on the log's PostgreSQL server: got with [`ServerModels::project`](crate::ServerModels::project) or
/// [`on_demand`](crate::ServerModels::on_demand). Dropping it ends its stream; [`detach`](Self::detach) leaves it running.
#[must_use = "dropping the handle ends the model's stream; keep it, or detach it"]
pub struct ServerModel {
    shared: Arc<Shared>,
    stream: Option<EventStream>,
    /// Lets the model serve when it has caught up.
    promoter: Option<AbortHandle>,
    is_detached: bool,
    /// Of a model on demand: nobody else in this store registers the version.
    _reserved: Option<Reservation>,
}

impl ServerModel {
    pub(super) async fn continuous(parts: Parts, owned: Owned) -> Result<Self, ReadModelError> {
        let shared = Shared::of(parts);
        shared.end_older_streams().await?;
        let position = shared.position();
        let durable = shared.options.stream(&shared.plan().stream, position);
        let keeper = shared.keeper.clone();
        let handler = handler(move |batches, call| {
            let keeper = keeper.clone();
            async move { keeper.handle(batches, call).await }
        });
        let handler = handler.retry(shared.catch_up.retry);
        let registered = shared
            .store()
            .stream_to_durable(&durable, &shared.catch_up.query, handler)
            .await;
        let stream = registered.map_err(|error| match error {
            StreamError::NameActive { .. } => ReadModelError::Active {
                name: shared.name().to_owned(),
                version: shared.version(),
            },
            error => error.into(),
        })?;
        owned.keep();
        shared.attend();
        let promoter = match shared.options.promotes() {
            Promotion::WhenCaughtUp if !shared.is_serving() => Some(promote_later(&shared, &stream)),
            _ => None,
        };
        Ok(Self {
            shared,
            stream: Some(stream),
            promoter,
            is_detached: false,
            _reserved: None,
        })
    }

    pub(super) async fn on_demand(parts: Parts, reserved: Reservation) -> Result<Self, ReadModelError> {
        let shared = Shared::of(parts);
        shared.end_older_streams().await?;
        shared.attend();
        Ok(Self {
            shared,
            stream: None,
            promoter: None,
            is_detached: false,
            _reserved: Some(reserved),
        })
    }

    /// The name of the read model.
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// The version that is kept here.
    pub fn version(&self) -> u32 {
        self.shared.version()
    }

    /// The schema in the log's database that the tables are in which serve now, for whoever reads them with other programs:
    /// `SELECT * FROM "millstream_balances_1_7".balance`. A rebuild and a new version have schemas of their own.
    ///
    /// # Errors
    /// Nothing serves, because it was removed; the server cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn schema(&self) -> Result<String, ReadModelError> {
        Ok(self.shared.readers.serving().await?.namespace)
    }

    /// The stream that keeps it, called `NAME@VERSION`; nothing, for a read model on demand.
    pub fn stream(&self) -> Option<&EventStream> {
        self.stream.as_ref()
    }

    /// The read model as it is now.
    pub fn status(&self) -> ReadModelStatus {
        let stream = self.stream.as_ref().map(EventStream::status);
        let of = (self.name(), self.version());
        let (applied, head) = (self.shared.position(), self.shared.store().head());
        ReadModelStatus {
            is_serving: self.shared.is_serving(),
            is_rebuilding: self.shared.is_rebuilding(),
            ..ReadModelStatus::serving(of, applied, head, stream)
        }
    }

    /// Reads what serves: one transaction that cannot write and sees one moment. At most four reads of a handle are under way at once,
    /// others wait. No read blocks the writer, and the writer blocks none.
    ///
    /// What serves is the newest version that was promoted, wherever it is kept: a handle of an older version follows. Names without a schema
    /// are those of the model's tables, and then those of the log: what is seen of both belongs together.
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
    /// The closure's SQL fails; nothing serves, because it was removed; the server cannot be reached.
    ///
    /// # Cancel safety
    /// A read that is dropped is given up, with its connection.
    pub async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, ReadModelError> {
        self.read_serving(async |tx, _| read(tx).await).await
    }

    /// The same for who wants to know what it is that serves.
    pub(super) async fn read_serving<T>(
        &self,
        read: impl AsyncFnOnce(&Transaction<'_>, &Serving) -> Result<T, Error>,
    ) -> Result<T, ReadModelError> {
        self.shared.readers.read(read).await
    }

    /// Waits until readers see what was appended: read your own write. On demand it catches up itself.
    ///
    /// A version that is built beside an older one is waited for until it serves.
    ///
    /// # Errors
    /// The stream stopped, or was paused, before it got there; this version is to be [promoted](Self::promote) by hand; as
    /// [`catch_up`](Self::catch_up) on demand.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, appended: impl Into<Until>) -> Result<(), ReadModelError> {
        let appended = appended.into();
        let Some(stream) = &self.stream else {
            return self.catch_up().await;
        };
        stream.handled(appended).await?;
        let mut row = self.shared.row.subscribe();
        if row.borrow_and_update().state == BuildState::Serving {
            return Ok(());
        }
        if self.promoter.is_none() {
            return self.shared.check_serving().await;
        }
        tokio::select! {
            _ = row.wait_for(|row| row.state == BuildState::Serving) => Ok(()),
            cause = stream.stopped() => Err(ReadModelError::Wait(WaitError::Stopped {
                name: Some(self.shared.plan().stream.to_string()),
                position: self.shared.position(),
                cause,
            })),
        }
    }

    /// Brings the model to the head of now. One that is kept continuously is waited for.
    ///
    /// # Errors
    /// The projection fails on a batch until its retries are used up: [`ReadModelError::Apply`], and what came before the batch is
    /// applied. The model was taken over; the log cannot be read, or the server reached. Kept continuously: its stream stopped, or was paused.
    ///
    /// # Cancel safety
    /// What was applied stays, and the next call goes on from there.
    pub async fn catch_up(&self) -> Result<(), ReadModelError> {
        match &self.stream {
            Some(stream) => Ok(stream.caught_up().await?),
            None => self.shared.catch_up().await,
        }
    }

    /// Waits until everything that is committed now is applied, and readers see it. On demand it catches up itself.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    /// As [`wait_for`](Self::wait_for).
    pub async fn caught_up(&self) -> Result<(), ReadModelError> {
        self.wait_for(self.shared.store().head()).await
    }

    /// Builds the model anew beside the one that serves, which goes on serving, and takes its place in one step. It goes as far as
    /// that one is; the stream, or the next [`catch_up`](Self::catch_up), goes on from there.
    ///
    /// Dead letters that can be applied now are applied, and are gone then; others stay. The new build has a schema of its own, and
    /// [`schema`](Self::schema) is another one afterwards. The model's stream waits for the last step, which is short. A connection that is lost, or
    /// a server that is restarted, is waited for as long as [`server_limit`](crate::StoreBuilder::server_limit) says.
    ///
    /// ```
    /// # use millstream::{ReadModelError, ServerModel};
    /// # async fn rebuild(balances: &ServerModel) -> Result<(), ReadModelError> {
    /// use futures::StreamExt;
    ///
    /// let rebuild = balances.rebuild().await?;
    /// let mut progress = rebuild.watch();
    /// tokio::spawn(async move {
    ///     while let Some(now) = progress.next().await {
    ///         println!("{} of {} events, {:?} left", now.done, now.total, now.remaining);
    ///     }
    /// });
    /// rebuild.finished().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A rebuild is under way already; another version serves; another owner took the model over; the log was pruned; the server cannot be
    /// reached, or refuses. What goes wrong later says [`finished`](Rebuild::finished).
    ///
    /// # Cancel safety
    /// When the future is dropped there is no rebuild. A schema may be left behind, which goes with the next rebuild or registration.
    pub async fn rebuild(&self) -> Result<Rebuild, ReadModelError> {
        rebuild::begin(&self.shared, None).await
    }

    /// Lets this version serve, as soon as it has caught up with the head of now, and retires older ones: readers follow, the
    /// streams of older versions end and are removed from the log with their dead letters, and their schemas when nobody reads them.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up); a newer version serves already.
    ///
    /// # Cancel safety
    /// The promotion may take place when the future is dropped.
    pub async fn promote(&self) -> Result<(), ReadModelError> {
        self.catch_up().await?;
        self.shared.promote().await
    }

    /// Ends the model's stream: no handler call starts after this returns. [`stopped`](Self::stopped) waits for the one under way, which
    /// applies what it was given.
    pub fn unsubscribe(&self) {
        if let Some(stream) = &self.stream {
            stream.unsubscribe();
        }
    }

    /// Waits until the model's stream runs no more. A model on demand has none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn stopped(&self) -> Option<StopCause> {
        match &self.stream {
            Some(stream) => Some(stream.stopped().await),
            None => None,
        }
    }

    /// Leaves the model's stream running without a handle, until the store is closed. A version that was to serve when it has caught
    /// up does so. What is asked of it from outside is not heard any more.
    pub fn detach(mut self) {
        if let Some(stream) = self.stream.take() {
            self.is_detached = true;
            stream.detach();
        }
    }
}

/// Lets the model serve as soon as it has caught up.
fn promote_later(shared: &Arc<Shared>, stream: &EventStream) -> AbortHandle {
    let (shared, mut watch) = (Arc::clone(shared), stream.watch());
    let task = tokio::spawn(async move {
        if !caught_up(&mut watch).await {
            return;
        }
        if let Err(error) = shared.promote().await {
            tracing::error!(name = shared.name(), version = shared.version(), %error, "a read model has caught up and does not serve; promote it by hand");
        }
    });
    task.abort_handle()
}

impl Drop for ServerModel {
    fn drop(&mut self) {
        if let Some(promoter) = self.promoter.take().filter(|_| !self.is_detached) {
            promoter.abort();
        }
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

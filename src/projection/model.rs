//! The handle of a read model.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::{ReadModelError, StopCause, WaitError};
use crate::fault::{FaultPoint, Faults};
use crate::projection::applier::{Applier, Writer, blocking};
use crate::projection::attend::{Attendance, Attended};
use crate::projection::build::{Build, Origin};
use crate::projection::catalog::Catalog;
use crate::projection::catch_up::{CatchUp, CaughtUp};
use crate::projection::keeping::handler;
use crate::projection::lacking::Lacking;
use crate::projection::models::{Active, stream_name};
use crate::projection::options::{ModelOptions, Promotion};
use crate::projection::own::Owned;
use crate::projection::pool::Pool;
use crate::projection::promotion::{caught_up, check_close, end_older_streams};
use crate::projection::rebuilding::Rebuild;
use crate::projection::standing::{BuildRow, BuildState, Promoted};
use crate::projection::status::ReadModelStatus;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::wait::Until;

/// A read model that is kept: got with [`ReadModels::project`](crate::ReadModels::project) or
/// [`on_demand`](crate::ReadModels::on_demand). Dropping it ends its stream; [`detach`](Self::detach) leaves it running.
#[must_use = "dropping the handle ends the model's stream; keep it, or detach it"]
pub struct ReadModel {
    shared: Arc<Shared>,
    stream: Option<EventStream>,
    /// Lets the model serve when it has caught up.
    promoter: Option<AbortHandle>,
    is_detached: bool,
}

/// The parts of a model.
pub(crate) struct Parts {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) row: BuildRow,
    pub(crate) applier: Applier,
    pub(crate) catch_up: CatchUp,
    pub(crate) options: ModelOptions,
    pub(crate) active: Active,
    pub(crate) attendance: Arc<Attendance<Shared>>,
    /// The claim to the stream, for a model that is kept continuously.
    pub(crate) owned: Option<Owned>,
}

/// What the handle, the promotion and a rebuild share.
pub(crate) struct Shared {
    name: String,
    version: u32,
    stream_name: String,
    catalog: Arc<Catalog>,
    pool: Arc<Pool>,
    applier: Applier,
    catch_up: CatchUp,
    options: ModelOptions,
    /// The build that is kept here.
    row: watch::Sender<BuildRow>,
    is_rebuilding: AtomicBool,
    active: Arc<Active>,
    attendance: Arc<Attendance<Shared>>,
}

/// At most one rebuild is under way. It ends when this is dropped.
pub(crate) struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.is_rebuilding.store(false, Ordering::Release);
    }
}

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub(crate) fn applier(&self) -> &Applier {
        &self.applier
    }

    pub(crate) fn catch_up(&self) -> &CatchUp {
        &self.catch_up
    }

    pub(crate) fn store(&self) -> &Store {
        &self.catch_up.store
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.row.borrow().state == BuildState::Serving
    }

    /// Refuses a version that is kept beside the one that serves.
    pub(crate) fn check_serving(&self) -> Result<(), ReadModelError> {
        if self.is_serving() {
            return Ok(());
        }
        let serving = self.catalog.serving(&self.name)?;
        Err(ReadModelError::NotServing {
            name: self.name.clone(),
            version: self.version,
            serving: serving.map_or(0, |serving| serving.version),
        })
    }

    pub(crate) fn begin_rebuild(self: &Arc<Self>) -> Result<UnderWay, ReadModelError> {
        // Acquire pairs with the release of the rebuild before.
        if self.is_rebuilding.swap(true, Ordering::Acquire) {
            return Err(ReadModelError::RebuildUnderWay {
                name: self.name.clone(),
            });
        }
        Ok(UnderWay(Arc::clone(self)))
    }

    /// Opens a new build of the same version.
    pub(crate) async fn writer_for(&self, row: &BuildRow) -> Result<Writer, ReadModelError> {
        let (spec, projection) = {
            let writer = self.applier.lock().await;
            (writer.build.spec().clone(), writer.projection.anew())
        };
        let extent = self.store().log().extent().await?;
        if extent.pruned_through > 0 {
            return Err(ReadModelError::Pruned {
                name: self.name.clone(),
                position: 0,
                pruned_through: extent.pruned_through,
            });
        }
        let path = self.catalog.file_of(row);
        let origin = Origin::of(self.store(), extent.head);
        let build = blocking(move || Build::open(&path, spec, origin)).await??;
        Ok(Writer::new(build, projection, self.options.transaction()))
    }

    /// This build serves from now on.
    pub(crate) fn serves(&self, row: BuildRow) {
        self.row.send_replace(BuildRow {
            state: BuildState::Serving,
            ..row
        });
    }

    /// Lets the build serve, and ends what kept older versions.
    async fn promote(self: &Arc<Self>) -> Result<(), ReadModelError> {
        let shared = Arc::clone(self);
        // The list and this process say the same, also when nobody waits for it any more.
        let promoted = blocking(move || {
            let row = shared.row.borrow().clone();
            let promoted = promote(&shared.catalog, &row, shared.store().faults())?;
            if promoted != Promoted::No {
                shared.serves(row);
            }
            Ok::<_, ReadModelError>(promoted)
        });
        match promoted.await?? {
            Promoted::No => {
                let serving = self.catalog.serving(&self.name)?;
                return Err(ReadModelError::OlderVersion {
                    name: self.name.clone(),
                    version: self.version,
                    serving: serving.map_or(0, |serving| serving.version),
                });
            }
            Promoted::Before => {}
            Promoted::Now => {
                tracing::info!(name = %self.name, version = self.version, "a read model serves, older versions are retired");
            }
        }
        end_older_streams(self.store(), &self.name, self.version).await?;
        let catalog = Arc::clone(&self.catalog);
        blocking(move || catalog.sweep()).await
    }

    /// The same, when it was asked for from outside and the stream is close enough to the head.
    pub(crate) async fn promote_if_caught_up(self: &Arc<Self>) -> Result<(), ReadModelError> {
        if self.is_serving() {
            return Ok(());
        }
        let head = self.store().log().head().await?;
        check_close(
            &self.name,
            self.version,
            head.saturating_sub(self.applier.position()),
        )?;
        self.promote().await
    }
}

impl Attended for Shared {
    type List = Catalog;

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn is_open(&self) -> bool {
        self.store().check_open().is_ok()
    }

    async fn rebuild(self: &Arc<Self>, request: u64) -> Result<Rebuild, ReadModelError> {
        Rebuild::begin_for(self, Some(request)).await
    }

    async fn promote_if_caught_up(self: &Arc<Self>) -> Result<(), ReadModelError> {
        Shared::promote_if_caught_up(self).await
    }
}

impl ReadModel {
    fn share(parts: Parts) -> Arc<Shared> {
        let version = parts.row.version;
        Arc::new(Shared {
            stream_name: stream_name(&parts.row.name, version),
            name: parts.row.name.clone(),
            version,
            catalog: parts.catalog,
            pool: parts.pool,
            applier: parts.applier,
            catch_up: parts.catch_up,
            options: parts.options,
            row: watch::Sender::new(parts.row),
            is_rebuilding: AtomicBool::new(false),
            active: Arc::new(parts.active),
            attendance: parts.attendance,
        })
    }

    pub(crate) async fn continuous(mut parts: Parts) -> Result<Self, ReadModelError> {
        let owned = parts.owned.take();
        let shared = Self::share(parts);
        if shared.is_serving() {
            end_older_streams(shared.store(), &shared.name, shared.version).await?;
        }
        let position = shared.applier.lock().await.build.position();
        let durable = shared.options.stream(&shared.stream_name, position);
        let handler = {
            // The registration lasts as long as a call may be under way.
            let (applier, active) = (shared.applier.clone(), Arc::clone(&shared.active));
            handler(move |batches, call| {
                let (applier, active) = (applier.clone(), Arc::clone(&active));
                async move {
                    let applied = applier.handle(batches, call).await;
                    drop(active);
                    applied
                }
            })
        };
        let handler = handler.retry(shared.catch_up.retry);
        let stream = shared
            .store()
            .stream_to_durable(&durable, &shared.catch_up.query, handler)
            .await?;
        owned.into_iter().for_each(Owned::keep);
        shared.attendance.add(&shared.catalog, &shared);
        let promoter = match shared.options.promotes() {
            Promotion::WhenCaughtUp if !shared.is_serving() => Some(promote_later(&shared, &stream)),
            _ => None,
        };
        Ok(Self {
            shared,
            stream: Some(stream),
            promoter,
            is_detached: false,
        })
    }

    pub(crate) async fn on_demand(parts: Parts) -> Result<Self, ReadModelError> {
        let shared = Self::share(parts);
        shared.attendance.add(&shared.catalog, &shared);
        Ok(Self {
            shared,
            stream: None,
            promoter: None,
            is_detached: false,
        })
    }

    /// The name of the read model.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The version that is kept here.
    pub fn version(&self) -> u32 {
        self.shared.version
    }

    /// The stream that keeps it, called `NAME@VERSION`; nothing, for a read model on demand.
    pub fn stream(&self) -> Option<&EventStream> {
        self.stream.as_ref()
    }

    /// The read model as it is now.
    pub fn status(&self) -> ReadModelStatus {
        let stream = self.stream.as_ref().map(EventStream::status);
        let of = (self.name(), self.version());
        let (applied, head) = (self.shared.applier.position(), self.shared.store().head());
        ReadModelStatus {
            is_serving: self.shared.is_serving(),
            is_rebuilding: self.shared.is_rebuilding.load(Ordering::Relaxed),
            ..ReadModelStatus::serving(of, applied, head, stream)
        }
    }

    /// Reads what serves: one transaction, on a connection that cannot write, and on a thread that may block. At most four reads of
    /// a model are under way at once, others wait. No read blocks the writer, and the writer blocks none.
    ///
    /// What serves is the newest version that was promoted, wherever it is kept: a handle of an older version follows.
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
        self.shared.pool.read(read).await
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
            return self.shared.check_serving();
        }
        tokio::select! {
            _ = row.wait_for(|row| row.state == BuildState::Serving) => Ok(()),
            cause = stream.stopped() => Err(self.stopped_with(cause)),
        }
    }

    /// Brings the model to the head of now. One that is kept continuously is waited for.
    ///
    /// # Errors
    /// The projection fails on a batch until its retries are used up: [`ReadModelError::Apply`], and what came before the batch is
    /// applied. The model was taken over; the log or the storage fails. Kept continuously: its stream stopped, or was paused.
    ///
    /// # Cancel safety
    /// What was applied stays, and the next call goes on from there.
    pub async fn catch_up(&self) -> Result<(), ReadModelError> {
        let shared = &self.shared;
        if let Some(stream) = &self.stream {
            return Ok(stream.caught_up().await?);
        }
        let writer = shared.applier.lock().await;
        let head = shared.store().log().head().await?;
        let nothing = Lacking::new(Vec::new());
        let CaughtUp { writer, outcome } = shared.catch_up.run(writer, head, &nothing, |_| {}).await;
        drop(writer);
        outcome.map_err(|stuck| stuck.into_error(&shared.name, shared.version))?;
        if !shared.is_serving() && shared.options.promotes() == Promotion::WhenCaughtUp {
            shared.promote().await?;
        }
        Ok(())
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
    /// Dead letters that can be applied now are applied, and are gone then; others stay. The new build is a database file of its own.
    /// The model's stream waits for the last step, which is short.
    ///
    /// ```
    /// # use millstream::{ReadModel, ReadModelError};
    /// # async fn rebuild(balances: &ReadModel) -> Result<(), ReadModelError> {
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
    /// A rebuild is under way already; another version serves; the storage fails. What goes wrong later says
    /// [`finished`](Rebuild::finished).
    ///
    /// # Cancel safety
    /// When the future is dropped there is no rebuild.
    pub async fn rebuild(&self) -> Result<Rebuild, ReadModelError> {
        Rebuild::begin(&self.shared).await
    }

    /// Lets this version serve, as soon as it has caught up with the head of now, and retires older ones: readers follow, the
    /// streams of older versions end and are removed from the log with their dead letters.
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

    /// Ends the model's stream: no transaction begins after this returns. [`stopped`](Self::stopped) waits for the one under way.
    pub fn unsubscribe(&self) {
        if let Some(stream) = &self.stream {
            stream.unsubscribe();
        }
        self.shared.active.ends();
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

    fn stopped_with(&self, cause: StopCause) -> ReadModelError {
        ReadModelError::Wait(WaitError::Stopped {
            name: Some(self.shared.stream_name.clone()),
            position: self.shared.applier.position(),
            cause,
        })
    }
}

/// One build takes the place of another.
pub(crate) fn promote(
    catalog: &Catalog,
    row: &BuildRow,
    faults: &Faults,
) -> Result<Promoted, ReadModelError> {
    faults.hit(FaultPoint::BeforeSwitch);
    let promoted = catalog.promote(row)?;
    faults.hit(FaultPoint::AfterSwitch);
    Ok(promoted)
}

/// Lets the model serve as soon as it has caught up.
fn promote_later(shared: &Arc<Shared>, stream: &EventStream) -> AbortHandle {
    let (shared, mut watch) = (Arc::clone(shared), stream.watch());
    let task = tokio::spawn(async move {
        if !caught_up(&mut watch).await {
            return;
        }
        if let Err(error) = shared.promote().await {
            tracing::error!(name = %shared.name, version = shared.version, %error, "a read model has caught up and does not serve; promote it by hand");
        }
    });
    task.abort_handle()
}

impl Drop for ReadModel {
    fn drop(&mut self) {
        if self.is_detached {
            return;
        }
        if let Some(promoter) = self.promoter.take() {
            promoter.abort();
        }
        self.shared.active.ends();
    }
}

impl fmt::Debug for ReadModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ReadModel").field(&self.status()).finish()
    }
}

//! What the handle of a read model on the server, its promotion and its rebuilds share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::error::{ReadModelError, StorageError};
use crate::fault::FaultPoint;
use crate::log::postgres::beside::{Purpose, ServerDesk};
use crate::projection::attend::{Attendance, Attended};
use crate::projection::catch_up::{CatchUp, CaughtUp};
use crate::projection::lacking::Lacking;
use crate::projection::options::{ModelOptions, Promotion};
use crate::projection::promotion::{check_close, end_older_streams};
use crate::projection::rebuilding::Rebuild;
use crate::projection::server::claim::Claim;
use crate::projection::server::keeper::{Keeper, Tries, Writer};
use crate::projection::server::list;
use crate::projection::server::readers::{Readers, Serving};
use crate::projection::server::rebuild;
use crate::projection::server::requests::Requests;
use crate::projection::server::step::Plan;
use crate::projection::standing::{BuildRow, BuildState, Promoted};
use crate::store::Store;

/// What is done, for whoever reads an error.
const PROMOTE: &str = "let a read model serve";

/// The parts of a model.
pub(super) struct Parts {
    pub(super) keeper: Keeper,
    pub(super) catch_up: CatchUp,
    pub(super) options: ModelOptions,
    pub(super) row: BuildRow,
    /// Whose the build is.
    pub(super) owner: i64,
    /// How far the build is that is kept here.
    pub(super) position: Arc<AtomicU64>,
    pub(super) requests: Arc<Requests>,
    pub(super) attendance: Arc<Attendance<Shared>>,
}

pub(super) struct Shared {
    pub(super) keeper: Keeper,
    pub(super) catch_up: CatchUp,
    pub(super) options: ModelOptions,
    pub(super) readers: Readers,
    /// The build that is kept here.
    pub(super) row: watch::Sender<BuildRow>,
    /// Whose it is, also when a rebuild has taken its place.
    owner: i64,
    is_rebuilding: AtomicBool,
    position: Arc<AtomicU64>,
    pub(super) requests: Arc<Requests>,
    attendance: Arc<Attendance<Shared>>,
}

/// At most one rebuild is under way. It ends when this is dropped.
pub(super) struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.is_rebuilding.store(false, Ordering::Release);
    }
}

impl Shared {
    pub(super) fn of(parts: Parts) -> Arc<Self> {
        let desk = parts.keeper.work().plan.desk.clone();
        // Whether it serves, the first read finds out.
        let kept = Serving {
            version: parts.row.version,
            namespace: parts.row.place.clone(),
        };
        Arc::new(Self {
            readers: Readers::new(desk, parts.row.name.clone(), kept),
            keeper: parts.keeper,
            catch_up: parts.catch_up,
            options: parts.options,
            row: watch::Sender::new(parts.row),
            owner: parts.owner,
            is_rebuilding: AtomicBool::new(false),
            position: parts.position,
            requests: parts.requests,
            attendance: parts.attendance,
        })
    }

    /// From now on requests from outside are heard.
    pub(super) fn attend(self: &Arc<Self>) {
        self.attendance.add(&self.requests, self);
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.keeper.work().plan
    }

    pub(super) fn desk(&self) -> &ServerDesk {
        &self.plan().desk
    }

    pub(super) fn name(&self) -> &str {
        &self.plan().spec.name
    }

    pub(super) fn version(&self) -> u32 {
        self.plan().spec.version
    }

    pub(super) fn store(&self) -> &Store {
        &self.catch_up.store
    }

    /// How far it is.
    pub(super) fn position(&self) -> u64 {
        // Relaxed: nothing else is said with it.
        self.position.load(Ordering::Relaxed)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.row.borrow().state == BuildState::Serving
    }

    pub(super) fn is_rebuilding(&self) -> bool {
        self.is_rebuilding.load(Ordering::Relaxed)
    }

    pub(super) fn begin_rebuild(self: &Arc<Self>) -> Result<UnderWay, ReadModelError> {
        // Acquire pairs with the release of the rebuild before.
        if self.is_rebuilding.swap(true, Ordering::Acquire) {
            return Err(ReadModelError::RebuildUnderWay {
                name: self.name().to_owned(),
            });
        }
        Ok(UnderWay(Arc::clone(self)))
    }

    /// Refuses a version that is kept beside the one that serves.
    pub(super) async fn check_serving(&self) -> Result<(), ReadModelError> {
        if self.is_serving() {
            return Ok(());
        }
        Err(ReadModelError::NotServing {
            name: self.name().to_owned(),
            version: self.version(),
            serving: list::serving(self.desk(), self.name()).await?.unwrap_or(0),
        })
    }

    /// What whoever rebuilds it has.
    pub(super) fn claim(&self) -> Result<Claim<'_>, ReadModelError> {
        Ok(Claim {
            build: self.row.borrow().build,
            owner: self.owner,
            stream: &self.plan().stream,
            epoch: self.keeper.work().epoch()?,
        })
    }

    /// This build serves from now on.
    pub(super) fn serves(&self, row: BuildRow) {
        self.row.send_replace(BuildRow {
            state: BuildState::Serving,
            ..row
        });
    }

    /// Brings the build to the head of now, without a stream.
    pub(super) async fn catch_up(&self) -> Result<(), ReadModelError> {
        let writer = Writer {
            work: Arc::clone(self.keeper.work()),
            hand: self.keeper.lock().await,
        };
        let head = self.store().log().head().await?;
        let nothing = Lacking::new(Vec::new());
        let CaughtUp { writer, outcome } = self.catch_up.run(writer, head, &nothing, |_| {}).await;
        drop(writer);
        outcome.map_err(|stuck| stuck.into_error(self.name(), self.version()))?;
        if !self.is_serving() && self.options.promotes() == Promotion::WhenCaughtUp {
            self.promote().await?;
        }
        Ok(())
    }

    /// Ends what kept older versions, when this one serves: whoever promoted it may have ended before that.
    pub(super) async fn end_older_streams(&self) -> Result<(), ReadModelError> {
        match self.is_serving() {
            true => end_older_streams(self.store(), self.name(), self.version()).await,
            false => Ok(()),
        }
    }

    /// Lets the build serve, and ends what kept older versions.
    pub(super) async fn promote(&self) -> Result<(), ReadModelError> {
        let row = self.row.borrow().clone();
        self.plan().faults.hit(FaultPoint::BeforeSwitch);
        match self.promote_row(&row).await? {
            Promoted::No => {
                return Err(ReadModelError::OlderVersion {
                    name: self.name().to_owned(),
                    version: self.version(),
                    serving: list::serving(self.desk(), self.name()).await?.unwrap_or(0),
                });
            }
            Promoted::Before => {}
            Promoted::Now => {
                tracing::info!(
                    name = self.name(),
                    version = self.version(),
                    "a read model serves, older versions are retired"
                );
            }
        }
        self.plan().faults.hit(FaultPoint::AfterSwitch);
        self.serves(row);
        self.end_older_streams().await?;
        list::sweep(self.desk()).await;
        Ok(())
    }

    /// One transaction, tried for as long as the server is waited for. It may be repeated.
    async fn promote_row(&self, row: &BuildRow) -> Result<Promoted, StorageError> {
        let mut tries = Tries::begin();
        loop {
            let tried = self.desk().answer(PROMOTE, self.try_promote(row)).await;
            match tried.flatten() {
                Err(error) if error.is_retryable() && !tries.are_over(self.desk().limit()) => {
                    tracing::debug!(name = self.name(), %error, "the promotion of a read model is tried again");
                }
                outcome => return outcome,
            }
            tries.pause().await;
        }
    }

    async fn try_promote(&self, row: &BuildRow) -> Result<Promoted, StorageError> {
        let failed = self.desk().failed(PROMOTE);
        let mut client = self.desk().connect(Purpose::Write).await?;
        let tx = list::begin(self.desk(), &mut client).await?;
        let promoted = list::promote(&tx, row).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(promoted)
    }
}

impl Attended for Shared {
    type List = Requests;

    fn name(&self) -> &str {
        Shared::name(self)
    }

    fn version(&self) -> u32 {
        Shared::version(self)
    }

    fn is_open(&self) -> bool {
        // What another one has taken over is asked of that one.
        self.store().check_open().is_ok() && self.keeper.work().epoch().is_ok()
    }

    async fn rebuild(self: &Arc<Self>, request: u64) -> Result<Rebuild, ReadModelError> {
        rebuild::begin(self, Some(request)).await
    }

    async fn promote_if_caught_up(self: &Arc<Self>) -> Result<(), ReadModelError> {
        if self.is_serving() {
            return Ok(());
        }
        let head = self.store().log().head().await?;
        let lag = head.saturating_sub(self.position());
        check_close(Shared::name(self), Shared::version(self), lag)?;
        self.promote().await
    }
}

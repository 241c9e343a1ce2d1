//! A file of read models, and how they are registered.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::error::ReadModelError;
use crate::projection::applier::{Applier, Writer, blocking};
use crate::projection::attend::Attendance;
use crate::projection::build::{Build, Origin, Spec};
use crate::projection::catalog::Catalog;
use crate::projection::catch_up::CatchUp;
use crate::projection::fit;
use crate::projection::model::{Parts, ReadModel, Shared};
use crate::projection::options::ModelOptions;
use crate::projection::own::{oust, own};
use crate::projection::pool::Pool;
use crate::projection::projection::{Keeper, Projection};
use crate::projection::resume::{behind_letters, refuse_pruned};
pub(crate) use crate::projection::spec::{check, runtime, stream_name};
use crate::store::Store;
use crate::sync::Mutex;

/// A file that lists read models, with the database file of each beside it.
///
/// It contends with no append: it is a file of its own. It can be deleted, with the files beside it, and what it held is built
/// anew from the log. Each model knows the log that it was built from, and refuses another one.
///
/// Cloning gives another handle of the same. See [`Projection`] for an example.
///
/// | what | where | until |
/// | --- | --- | --- |
/// | `views.db` | the list: names, versions, which build serves | deleted by hand |
/// | `views.balances-1.7.db` | version 1 of `balances`: the tables and how far they are, readable with `sqlite3` | a newer build took its place |
#[derive(Clone)]
pub struct ReadModels {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) catalog: Arc<Catalog>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    readers_max: usize,
    active: Arc<Actives>,
    attendance: Arc<Attendance<Shared>>,
}

/// How many connections read one model at once.
const READERS_MAX: usize = 4;
/// Which versions of which models are registered here.
struct Actives {
    ends: Mutex<HashMap<(String, u32), End>>,
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    /// Its handle is gone, and what was under way comes to its end.
    Near,
}

/// A registration. It ends when this is dropped.
pub(crate) struct Active {
    actives: Arc<Actives>,
    key: (String, u32),
}

impl Active {
    /// Whoever registers the same again waits from now on, and is not refused.
    pub(crate) fn ends(&self) {
        if let Some(end) = self.actives.ends.lock().get_mut(&self.key) {
            *end = End::Near;
        }
        self.actives.changed.notify_waiters();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.actives.ends.lock().remove(&self.key);
        self.actives.changed.notify_waiters();
    }
}

impl Actives {
    async fn claim(self: &Arc<Self>, name: &str, version: u32) -> Result<Active, ReadModelError> {
        let key = (name.to_owned(), version);
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // What changes from here on is not missed.
            changed.as_mut().enable();
            let earlier = {
                let mut ends = self.ends.lock();
                let earlier = ends.get(&key).copied();
                if earlier.is_none() {
                    ends.insert(key.clone(), End::No);
                }
                earlier
            };
            match earlier {
                None => {
                    return Ok(Active {
                        actives: Arc::clone(self),
                        key,
                    });
                }
                Some(End::Near) => changed.await,
                Some(End::No) => {
                    return Err(ReadModelError::Active { name: key.0, version });
                }
            }
        }
    }
}

/// How a read model is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Continuously,
    OnDemand,
}

impl ReadModels {
    /// Opens a file of read models, or makes it.
    ///
    /// # Errors
    /// The file is something else, or of a newer format; the storage fails.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadModelError> {
        let catalog = Arc::new(Catalog::open(path.as_ref())?);
        catalog.sweep();
        Ok(Self {
            inner: Arc::new(Inner {
                catalog,
                pools: Mutex::new(HashMap::new()),
                readers_max: READERS_MAX,
                active: Arc::new(Actives {
                    ends: Mutex::new(HashMap::new()),
                    changed: Notify::new(),
                }),
                attendance: Arc::new(Attendance::new()),
            }),
        })
    }

    /// Keeps a read model continuously: a durable stream of the store applies what is committed, until the handle is dropped.
    ///
    /// The stream is called `NAME@VERSION` and is seen and steered as any other. A version that is new is built from the first event
    /// on; while an older one serves it is built beside that, and takes its place when it has caught up. Of a version that another
    /// process keeps, [`ModelOptions::ownership`] says what becomes; whoever loses it writes nothing more.
    ///
    /// # Errors
    /// The name or version is refused; this version is registered already, kept by another process, or older than the one that serves; it was built from
    /// another log, is ahead of this one, or needs events that were pruned; its query or schema changed and its version did not;
    /// the schema fails; there is no runtime; the store is closed; the storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing is kept; the new build may be in the list.
    pub async fn project<P: Projection>(
        &self,
        store: &Store,
        projection: P,
    ) -> Result<ReadModel, ReadModelError> {
        self.project_with(store, projection, &ModelOptions::default())
            .await
    }

    /// The same with other [options](ModelOptions).
    ///
    /// # Errors
    /// As [`project`](Self::project), and when the options do not fit together.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn project_with<P: Projection>(
        &self,
        store: &Store,
        projection: P,
        options: &ModelOptions,
    ) -> Result<ReadModel, ReadModelError> {
        let kept = Kept::Continuously;
        let parts = self.open_build(store, projection, options, kept).await?;
        ReadModel::continuous(parts).await
    }

    /// Keeps a read model on demand: nothing runs, and [`catch_up`](ReadModel::catch_up) brings it to the head before it is read.
    ///
    /// Whoever registered the version last writes it. A stream of another store that keeps it ends with
    /// [`OwnershipLost`](crate::StopCause::OwnershipLost).
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn on_demand<P: Projection>(
        &self,
        store: &Store,
        projection: P,
    ) -> Result<ReadModel, ReadModelError> {
        self.on_demand_with(store, projection, &ModelOptions::default())
            .await
    }

    /// The same with other [options](ModelOptions). A failure policy has no say here: the failure is given to whoever asked.
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn on_demand_with<P: Projection>(
        &self,
        store: &Store,
        projection: P,
        options: &ModelOptions,
    ) -> Result<ReadModel, ReadModelError> {
        let kept = Kept::OnDemand;
        let parts = self.open_build(store, projection, options, kept).await?;
        ReadModel::on_demand(parts).await
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.inner.catalog
    }

    /// The readers of a read model.
    fn pool(&self, name: &str) -> Arc<Pool> {
        let mut pools = self.inner.pools.lock();
        let made = || {
            let catalog = Arc::clone(&self.inner.catalog);
            Arc::new(Pool::new(name, catalog, self.inner.readers_max))
        };
        Arc::clone(pools.entry(name.to_owned()).or_insert_with(made))
    }

    /// Finds or makes the build of a version, and opens it for writing.
    async fn open_build<P: Projection>(
        &self,
        store: &Store,
        projection: P,
        options: &ModelOptions,
        kept: Kept,
    ) -> Result<Parts, ReadModelError> {
        runtime()?;
        let (name, version) = (projection.name().to_owned(), projection.version());
        check(&name, version)?;
        let query = projection.query();
        let spec = Spec {
            name: name.clone(),
            version,
            query: query.canonical_text(),
            schema: projection.schema().to_owned(),
        };
        let active = self.inner.active.claim(&name, version).await?;
        let stream = stream_name(&name, version);
        // First, so that who is refused has ended nobody.
        fit::check(store, &self.inner.catalog, &spec, options).await?;
        let (owned, _reserved) = match kept {
            Kept::Continuously => (
                Some(own(store, &spec, options.ownership_of_stream()).await?),
                None,
            ),
            Kept::OnDemand => (None, Some(oust(store, &spec).await?)),
        };
        let extent = store.log().extent().await?;
        let catalog = Arc::clone(&self.inner.catalog);
        let origin = Origin::of(store, extent.head);
        let (row, mut build) = blocking(move || {
            loop {
                let row = catalog.claim(&spec.name, spec.version)?;
                let build = Build::open(&catalog.file_of(&row), spec.clone(), origin.clone())?;
                // Whoever kept it may have rebuilt it just before it was taken.
                if !catalog.is_retired(row.build)? {
                    return Ok::<_, ReadModelError>((row, build));
                }
            }
        })
        .await??;
        if build.position() < extent.pruned_through {
            refuse_pruned(&row, build.position(), extent.pruned_through)?;
            build = passed(build, extent.pruned_through).await?;
        }
        if let Some(position) = behind_letters(store, &stream, &query, build.position()).await? {
            build = passed(build, position).await?;
        }
        Ok(Parts {
            catalog: Arc::clone(&self.inner.catalog),
            pool: self.pool(&name),
            row,
            applier: Applier::new(Writer::new(
                build,
                Box::new(Keeper::new(projection)),
                options.transaction(),
            )),
            catch_up: CatchUp {
                store: store.clone(),
                query,
                retry: options.retry_policy(),
            },
            options: options.clone(),
            active,
            owned,
            attendance: Arc::clone(&self.inner.attendance),
        })
    }
}

/// The build, with nothing left to apply up to a position.
async fn passed(mut build: Build, position: u64) -> Result<Build, ReadModelError> {
    blocking(move || build.pass(position).map(|()| build)).await?
}

impl fmt::Debug for ReadModels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ReadModels")
            .field(&self.inner.catalog.path())
            .finish()
    }
}

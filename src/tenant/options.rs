//! How tenants are opened.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::builder::StoreBuilder;
use crate::clock::TIME_MAX;
use crate::error::{BoxError, TenantError};
use crate::log::crew::Crew;
use crate::store::Store;
use crate::tenant::Tenants;
use crate::tenant::folder::Folder;
use crate::tenant::host::Host;
use crate::tenant::parts::{Attached, OpenedTenant};

pub(crate) type OnOpen = dyn Fn(OpenedTenant) -> BoxFuture<'static, Result<Attached, BoxError>> + Send + Sync;

/// Options that have been checked.
pub(crate) struct Options {
    pub(crate) store: StoreBuilder,
    /// The threads of all stores.
    pub(crate) crew: Arc<Crew>,
    pub(crate) on_open: Option<Arc<OnOpen>>,
    pub(crate) open_max: usize,
    /// Nothing: only to make room for others.
    pub(crate) idle_after: Option<Duration>,
    pub(crate) wait_max: Duration,
    pub(crate) must_exist: bool,
}

/// How many logs can commit at once. A thread that waits for the disk needs no processor, and syncs under way together share their work.
const COMMITTER_THREADS_MAX: usize = 16;
/// More than this are not open at once: each has open files.
const OPEN_MAX: usize = 10_000;

/// The options of [`Tenants`]. Each has a default.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// use std::time::Duration;
///
/// use millstream::{Durability, DurableStream, EventStream, HandleStream, NewEvent, Tenants};
///
/// let tenants = Tenants::builder()
///     .open_max(200)
///     .idle_after(Duration::from_secs(60))
///     .store(|store| store.durability(Durability::Relaxed))
///     .on_open(|tenant| async move {
///         let name = tenant.name().to_owned();
///         let handle = HandleStream::new(move |batch| {
///             let name = name.clone();
///             async move {
///                 println!("{name}: {} events", batch.len());
///                 Ok::<_, std::io::Error>(())
///             }
///         });
///         tenant.stream_all_durable(&DurableStream::new("ledger"), handle).await
///     })
///     .open(folder.path())?;
///
/// let acme = tenants.tenant("acme").await?;
/// acme.append([NewEvent::new("order-placed", 7)]).await?;
/// acme.settled().await?;
/// let ledger = acme.attached::<EventStream>().ok_or("it is what the closure returned")?;
/// assert_eq!(ledger.status().position, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder opens nothing before `open`"]
pub struct TenantsBuilder {
    store: StoreBuilder,
    on_open: Option<Arc<OnOpen>>,
    open_max: usize,
    idle_after: Option<Duration>,
    wait_max: Duration,
    must_exist: bool,
}

impl Default for TenantsBuilder {
    fn default() -> Self {
        Self {
            store: store_defaults(),
            on_open: None,
            open_max: 64,
            idle_after: Some(Duration::from_secs(300)),
            wait_max: Duration::from_secs(10),
            must_exist: false,
        }
    }
}

/// What a store costs counts as often as tenants are open: at the most 9 open files, one of them for its durable streams, and 2 MiB for batches and pages.
fn store_defaults() -> StoreBuilder {
    Store::builder()
        .window_bytes(1 << 20)
        .page_bytes(256 << 10)
        .queue_requests(1024)
        .readers(2)
        .poll_interval(Duration::from_millis(250))
}

impl TenantsBuilder {
    /// Sets options of the stores of all tenants. May be called several times.
    ///
    /// The stores of tenants have other defaults than [`Store::builder`], because there are many of them: a window of 1 MiB, pages of
    /// 256 KiB, queues of 1,024 appends, 2 readers, and a poll interval of 250 ms.
    pub fn store(mut self, configure: impl FnOnce(StoreBuilder) -> StoreBuilder) -> Self {
        self.store = configure(self.store);
        self
    }

    /// Calls a closure with each tenant that is opened, before anybody gets it: here its streams are registered, and its read models
    /// opened.
    ///
    /// What it returns is kept until the tenant is closed, and found with [`Tenant::attached`](crate::Tenant::attached). Return the
    /// handles of the streams, or [`detach`](crate::EventStream::detach) them: a handle that is dropped ends its stream. When the
    /// tenant is closed its store is closed first, and then this is dropped.
    ///
    /// When it fails or panics the tenant is closed again, everybody who waits for it gets the error, and whoever asks next calls it
    /// anew. A tenant that was made for this stays, with an empty log. One that hangs is waited for as [`wait_max`](Self::wait_max)
    /// says, and keeps its place among the open ones. It must not ask for its own tenant, which is not there before it returns.
    ///
    /// A handler may own a clone of the [store](OpenedTenant::store); it does not keep the tenant open.
    pub fn on_open<F, Fut, T, E>(mut self, closure: F) -> Self
    where
        F: Fn(OpenedTenant) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Any + Send + Sync,
        E: Into<BoxError>,
    {
        let call = move |opened| {
            let done = closure(opened);
            async move {
                let attached: Attached = Box::new(done.await.map_err(Into::into)?);
                Ok(attached)
            }
            .boxed()
        };
        self.on_open = Some(Arc::new(call));
        self
    }

    /// How many tenants may be open at once, 1 to 10,000. Default 64, which are fewer than the 1,024 open files that a process is
    /// usually allowed.
    ///
    /// When one more is asked for, the one is closed that was used longest ago, of those that nobody holds and that have no
    /// [work](Self::idle_after). When there is none, whoever asks waits, in turn.
    pub fn open_max(mut self, tenants: usize) -> Self {
        self.open_max = tenants;
        self
    }

    /// How long a tenant that nobody holds stays open, up to a day. Default 5 minutes.
    ///
    /// A tenant whose streams have work is not idle: one is behind the head, has a handler call under way, or is about to
    /// retry. Streams that are paused or have stopped do not count. So a handler that fails for ever keeps its tenant open until its
    /// retries are used up.
    ///
    /// Streams run while their tenant is open. What another process appends to a tenant that is closed here is handled when it is
    /// opened next; hold a tenant for which that is too late.
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.idle_after = Some(time);
        self
    }

    /// Closes no tenant for having been idle for long, only to make room for others.
    pub fn never_idle(mut self) -> Self {
        self.idle_after = None;
        self
    }

    /// How long whoever asks for a tenant, or deletes one, waits for room and for what is under way, up to a day. Default 10 s.
    pub fn wait_max(mut self, time: Duration) -> Self {
        self.wait_max = time;
        self
    }

    /// Hands out tenants that are there, and makes none: [`tenant`](Tenants::tenant) then refuses others with
    /// [`TenantError::Missing`], and [`create`](Tenants::create) makes them. For names that come from outside.
    pub fn must_exist(mut self) -> Self {
        self.must_exist = true;
        self
    }

    /// Opens the folder, or makes it. No tenant is opened. Blocks until that is done.
    ///
    /// # Errors
    /// An option makes no sense, or the file system refuses. Options of the [store](Self::store) are looked at when a tenant is
    /// opened.
    pub fn open(self, folder: impl AsRef<Path>) -> Result<Tenants, TenantError> {
        self.validate()?;
        let folder = Folder::open(folder.as_ref())?;
        let crew = Arc::new(Crew::new(COMMITTER_THREADS_MAX));
        let options = Options {
            store: self.store.crew(Arc::clone(&crew)),
            crew,
            on_open: self.on_open,
            open_max: self.open_max,
            idle_after: self.idle_after,
            wait_max: self.wait_max,
            must_exist: self.must_exist,
        };
        Ok(Tenants {
            host: Arc::new(Host::new(folder, options)),
        })
    }

    fn validate(&self) -> Result<(), TenantError> {
        if !(1..=OPEN_MAX).contains(&self.open_max) {
            let problem = "out of range; from 1 to 10,000 is possible";
            return Err(invalid("open_max", self.open_max, problem));
        }
        let times = [("idle_after", self.idle_after), ("wait_max", Some(self.wait_max))];
        for (option, time) in times {
            if let Some(time) = time.filter(|time| *time > TIME_MAX) {
                let problem = "too long; at most a day is possible";
                return Err(invalid(option, format!("{time:?}"), problem));
            }
        }
        Ok(())
    }
}

fn invalid(option: &'static str, value: impl fmt::Display, problem: &'static str) -> TenantError {
    TenantError::InvalidOption {
        option,
        value: value.to_string(),
        problem,
    }
}

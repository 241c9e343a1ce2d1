//! Does what the table decides: takes, opens, closes and deletes tenants.
//!
//! What is begun for a tenant is a task of its own, so that whoever asked may be dropped at any await. Each task holds a ticket, which
//! gives the tenant's seat back however the task ends.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{CloseError, TenantError};
use crate::sync::Mutex;
use crate::tenant::folder::{Folder, Want};
use crate::tenant::handle::Tenant;
use crate::tenant::name;
use crate::tenant::opening::{Opening, Outcome};
use crate::tenant::options::Options;
use crate::tenant::parts::{Parts, has_work};
use crate::tenant::table::{Answer, Removal, Room, Seen, Stage, Table, Unused};

/// How often somebody who waits for room looks whether a tenant has become idle, which nobody reports.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// All tenants of a folder.
pub(crate) struct Host {
    pub(crate) folder: Folder,
    pub(crate) options: Options,
    table: Mutex<Table<Arc<Parts>, Outcome>>,
    changes: watch::Sender<()>,
    /// A permit for each tenant that may be open. Who waits for one gets it in turn.
    places: Arc<Semaphore>,
}

impl Host {
    pub(crate) fn new(folder: Folder, options: Options) -> Self {
        Self {
            places: Arc::new(Semaphore::new(options.open_max)),
            folder,
            options,
            table: Mutex::new(Table::new()),
            changes: watch::Sender::new(()),
        }
    }

    fn changed(&self) {
        self.changes.send_replace(());
    }

    pub(crate) fn check(name: &str) -> Result<Arc<str>, TenantError> {
        match name::check(name) {
            Ok(()) => Ok(name.into()),
            Err(problem) => Err(TenantError::InvalidName {
                name: name::shown(name),
                problem,
            }),
        }
    }

    /// Hands out a tenant, opened if it was not open.
    pub(crate) async fn tenant(self: &Arc<Self>, name: &str, want: Want) -> Result<Tenant, TenantError> {
        let name = Self::check(name)?;
        let runtime = Handle::try_current().map_err(|_| TenantError::NoRuntime)?;
        let deadline = Instant::now() + self.options.wait_max;
        match timeout_at(deadline, self.take(&runtime, &name, want)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.not_in_time(&name)),
        }
    }

    async fn take(
        self: &Arc<Self>,
        runtime: &Handle,
        name: &Arc<str>,
        want: Want,
    ) -> Result<Tenant, TenantError> {
        let mut changes = self.changes.subscribe();
        let mut place = pin!(Arc::clone(&self.places).acquire_owned());
        let mut wanted = None;
        loop {
            changes.mark_unchanged();
            let answer = self.table.lock().take(name, Instant::now());
            match answer {
                Answer::Taken(parts) => match self.hand_out(runtime, parts, want)? {
                    Some(tenant) => return Ok(tenant),
                    None => continue,
                },
                Answer::Opening(outcome) => {
                    outcome.joined(want).await?;
                    continue;
                }
                Answer::Ending => {
                    next(&mut changes).await;
                    continue;
                }
                Answer::Absent => {}
                Answer::Shut => return Err(TenantError::Closed),
            }
            wanted.get_or_insert_with(|| RoomWanted::new(self));
            self.make_room(runtime);
            let place_found = tokio::select! {
                biased;
                place = &mut place => place.map_err(|_| TenantError::Closed)?,
                () = next(&mut changes) => continue,
                () = sleep(LOOK_INTERVAL) => continue,
            };
            wanted = None;
            if let Some(first) = self.begin_open(runtime, name, want, place_found) {
                return first.await.unwrap_or(Err(TenantError::Closed));
            }
            place.set(Arc::clone(&self.places).acquire_owned());
        }
    }

    /// Gives a tenant that was taken to whoever asked. Nothing: its store was closed by somebody, and it is to be opened anew.
    fn hand_out(
        self: &Arc<Self>,
        runtime: &Handle,
        parts: Arc<Parts>,
        want: Want,
    ) -> Result<Option<Tenant>, TenantError> {
        let name = Arc::clone(&parts.name);
        let is_closed = parts.store.check_open().is_err();
        let tenant = Tenant::new(parts, self);
        if is_closed {
            drop(tenant);
            let unused = self.table.lock().unused(None, |_| ());
            let unused = unused.into_iter().find(|unused| unused.name == name);
            return match unused.and_then(|unused| self.begin_close(runtime, &unused)) {
                Some(_) => Ok(None),
                None => Err(TenantError::StoreClosed {
                    name: name.to_string(),
                }),
            };
        }
        match want {
            Want::New => Err(TenantError::Exists {
                name: name.to_string(),
            }),
            Want::Any | Want::Existing => Ok(Some(tenant)),
        }
    }

    /// Begins to open a tenant. Nothing: somebody else was first.
    fn begin_open(
        self: &Arc<Self>,
        runtime: &Handle,
        name: &Arc<str>,
        want: Want,
        place: OwnedSemaphorePermit,
    ) -> Option<oneshot::Receiver<Result<Tenant, TenantError>>> {
        let (opening, outcome) = Opening::new(self, name, want);
        if !self.table.lock().begin_open(name, outcome) {
            opening.leave_seat();
            return None;
        }
        let (give, first) = oneshot::channel();
        runtime.spawn(async move {
            let opened = opening.run(place).await;
            // Who asked may have gone; a tenant that nobody takes is given back here.
            let _ = give.send(opened);
        });
        Some(first)
    }

    /// Notes that a tenant is open, and taken. Nothing: all were shut meanwhile.
    pub(crate) fn opened(self: &Arc<Self>, parts: &Arc<Parts>) -> Option<Tenant> {
        let now = Instant::now();
        if !self.table.lock().opened(&parts.name, Arc::clone(parts), now) {
            return None;
        }
        self.begin_reaping();
        Some(Tenant::new(Arc::clone(parts), self))
    }

    /// Gives a seat back: what was under way with the tenant is over.
    pub(crate) fn gone(&self, name: &str) {
        self.table.lock().gone(name);
        self.changed();
    }

    /// Gives a tenant back.
    pub(crate) fn release(&self, name: &str) {
        self.table.lock().release(name, Instant::now());
        self.changed();
    }

    /// Closes the tenant that was used longest ago, when somebody waits for room and it has no work.
    fn make_room(self: &Arc<Self>, runtime: &Handle) {
        if self.places.available_permits() > 0 || !self.table.lock().wants_room() {
            return;
        }
        let unused = self.unused(None);
        // Not under the lock of the table: to ask a stream how far it is takes locks of its own.
        for unused in unused.iter().filter(|unused| !has_work(&unused.tenant)) {
            if self.begin_close(runtime, unused).is_some() {
                return;
            }
        }
    }

    fn unused(&self, before: Option<Instant>) -> Vec<Unused<crate::store::Store>> {
        self.table.lock().unused(before, |parts| parts.store.clone())
    }

    /// Closes a tenant, if nobody used it since it was looked at.
    fn begin_close<T>(self: &Arc<Self>, runtime: &Handle, looked_at: &Unused<T>) -> Option<JoinHandle<()>> {
        let parts = self.table.lock().begin_close(looked_at)?;
        let ending = Ending::new(self, &looked_at.name);
        Some(runtime.spawn(async move {
            // It says itself who was late.
            let _ = parts.close().await;
            drop(parts);
            drop(ending);
        }))
    }

    /// Closes the tenants that nobody used since then and that have no work, and waits for that.
    pub(crate) async fn close_unused(self: &Arc<Self>, before: Option<Instant>) -> usize {
        let Ok(runtime) = Handle::try_current() else {
            return 0;
        };
        let unused = self.unused(before);
        let idle = unused.iter().filter(|unused| !has_work(&unused.tenant));
        let closing: Vec<_> = idle
            .filter_map(|unused| self.begin_close(&runtime, unused))
            .collect();
        drop(unused);
        let count = closing.len();
        join_all(closing).await;
        count
    }

    pub(crate) async fn delete(self: &Arc<Self>, name: &str) -> Result<(), TenantError> {
        let name = Self::check(name)?;
        let runtime = Handle::try_current().map_err(|_| TenantError::NoRuntime)?;
        let deadline = Instant::now() + self.options.wait_max;
        match timeout_at(deadline, self.remove(&runtime, &name)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.not_in_time(&name)),
        }
    }

    async fn remove(self: &Arc<Self>, runtime: &Handle, name: &Arc<str>) -> Result<(), TenantError> {
        let mut changes = self.changes.subscribe();
        let open = loop {
            changes.mark_unchanged();
            let removal = self.table.lock().begin_delete(name);
            match removal {
                Removal::Begun(open) => break open,
                Removal::Held(handles) => {
                    return Err(TenantError::InUse {
                        name: name.to_string(),
                        handles,
                    });
                }
                Removal::Later => next(&mut changes).await,
                Removal::Shut => return Err(TenantError::Closed),
            }
        };
        let ending = Ending::new(self, name);
        let (host, name) = (Arc::clone(self), Arc::clone(name));
        let task = runtime.spawn(async move {
            if let Some(parts) = open {
                // It says itself who was late.
                let _ = parts.close().await;
            }
            let removed = Handle::current()
                .spawn_blocking(move || host.folder.remove(&name))
                .await;
            drop(ending);
            removed.unwrap_or(Err(TenantError::Closed))
        });
        task.await.unwrap_or(Err(TenantError::Closed))
    }

    pub(crate) async fn names(self: &Arc<Self>) -> Result<Vec<String>, TenantError> {
        let runtime = Handle::try_current().map_err(|_| TenantError::NoRuntime)?;
        let host = Arc::clone(self);
        let names = runtime.spawn_blocking(move || host.folder.names()).await;
        names.unwrap_or(Err(TenantError::Closed))
    }

    /// Closes all tenants, whoever holds them, and hands out none any more.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<(), CloseError> {
        let mut changes = self.changes.subscribe();
        let open = self.table.lock().shut();
        self.changed();
        let closing = open.into_iter().map(|(name, parts)| {
            let ending = Ending::new(self, &name);
            async move {
                let outcome = parts.close().await;
                drop(parts);
                drop(ending);
                outcome
            }
        });
        let outcomes = join_all(closing).await;
        let deadline = Instant::now() + self.options.wait_max;
        // What is just being opened closes itself, unless the program's closure hangs.
        while !self.table.lock().is_empty() {
            if timeout_at(deadline, next(&mut changes)).await.is_err() {
                break;
            }
        }
        self.options.crew.close();
        let mut late = None;
        for CloseError::DrainLimit { limit, streams } in outcomes.into_iter().filter_map(Result::err) {
            late.get_or_insert((limit, Vec::new())).1.extend(streams);
        }
        late.map_or(Ok(()), |(limit, streams)| {
            Err(CloseError::DrainLimit { limit, streams })
        })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.table.lock().seen()
    }

    fn not_in_time(&self, name: &Arc<str>) -> TenantError {
        let waited = self.options.wait_max;
        let stage = self.table.lock().stage(name);
        let state = match stage {
            Some(Stage::Opening | Stage::Open) => "being opened",
            Some(Stage::Closing) => "being closed",
            Some(Stage::Deleting) => "being deleted",
            None => return self.all_in_use(name, waited),
        };
        TenantError::NotInTime {
            name: name.to_string(),
            state,
            waited,
        }
    }

    fn all_in_use(&self, name: &Arc<str>, waited: Duration) -> TenantError {
        let held = self.seen().iter().filter(|seen| seen.handles > 0).count();
        let unused = self.unused(None);
        TenantError::AllInUse {
            name: name.to_string(),
            open_max: self.options.open_max,
            held,
            working: unused.iter().filter(|unused| has_work(&unused.tenant)).count(),
            waited,
        }
    }

    /// Looks for idle tenants, as long as any is open.
    fn begin_reaping(self: &Arc<Self>) {
        let Some(idle_after) = self.options.idle_after else {
            return;
        };
        if self.table.lock().begin_reaping() {
            let reaping = Reaping {
                host: Arc::downgrade(self),
                is_over: false,
            };
            Handle::current().spawn(reap(reaping, idle_after));
        }
    }
}

/// Closes what was idle for so long. It ends with the last open tenant, and with the host.
async fn reap(mut reaping: Reaping, idle_after: Duration) {
    let interval = (idle_after / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        sleep(interval).await;
        let Some(host) = reaping.host.upgrade() else {
            return;
        };
        if let Some(before) = Instant::now().checked_sub(idle_after) {
            host.close_unused(Some(before)).await;
        }
        let mut table = host.table.lock();
        if table.is_empty() {
            // Under one lock: what is opened from now on begins it anew.
            table.end_reaping();
            reaping.is_over = true;
            return;
        }
    }
}

/// The duty to look for idle tenants. When its runtime is shut down, another opening takes it over.
struct Reaping {
    host: Weak<Host>,
    is_over: bool,
}

impl Drop for Reaping {
    fn drop(&mut self) {
        if let Some(host) = self.host.upgrade().filter(|_| !self.is_over) {
            host.table.lock().end_reaping();
        }
    }
}

/// Gives a tenant's seat back when what ends it is over.
struct Ending {
    host: Arc<Host>,
    name: Arc<str>,
}

impl Ending {
    fn new(host: &Arc<Host>, name: &Arc<str>) -> Self {
        host.changed();
        Self {
            host: Arc::clone(host),
            name: Arc::clone(name),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.host.gone(&self.name);
    }
}

/// Says that somebody waits for room.
struct RoomWanted<'a>(&'a Host);

impl<'a> RoomWanted<'a> {
    fn new(host: &'a Host) -> Self {
        host.table.lock().room_wanted(Room::Wanted);
        Self(host)
    }
}

impl Drop for RoomWanted<'_> {
    fn drop(&mut self) {
        self.0.table.lock().room_wanted(Room::NotWanted);
    }
}

/// Waits for the next change.
async fn next(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        unreachable!("the host has the sender, and is held by whoever waits");
    }
}

//! Many logs in one folder: one per tenant, opened when it is needed and closed when it is not.
//!
//! In reading order: `name` (what is a name, pure), `folder` (the files), `table` (who gets what, pure), `parts` (an open tenant),
//! `host` and `opening` (what is done), `handle` (what a program holds), `options` and `status`.
//!
//! A tenant's store is a store like any other. Nothing below this folder knows of tenants.

mod folder;
mod handle;
mod host;
mod name;
mod opening;
mod options;
#[cfg(doctest)]
#[doc = include_str!("../../docs/tenants.md")]
mod page {}
mod parts;
#[cfg(test)]
mod proofs;
mod status;
mod table;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{CloseError, TenantError};
use crate::tenant::folder::Want;
use crate::tenant::host::Host;

pub use crate::tenant::handle::Tenant;
pub use crate::tenant::options::TenantsBuilder;
pub use crate::tenant::parts::OpenedTenant;
pub use crate::tenant::status::{TenantState, TenantStatus, TenantsStatus};

/// A folder of logs, one per tenant.
///
/// A tenant is opened when somebody asks for it, and closed when nobody has held it for a while and its streams have nothing to do.
/// Streams are registered once for all tenants, with [`TenantsBuilder::on_open`]. However many tenants there are, a bounded number is
/// open at once: [`TenantsBuilder::open_max`].
///
/// Use one tokio runtime, with its time driver (`enable_time`): the streams of a tenant run on the one on which it was opened.
///
/// # Names
/// A name is the name of the tenant's folder as it stands: 1 to 64 of `a` to `z`, `0` to `9`, `-`, `_` and `.`, with a letter or a digit
/// at the beginning, no dot at the end, and none of the devices of Windows (`con`, `prn`, `aux`, `nul`, `com0` to `com9`, `lpt0` to
/// `lpt9`) before the first dot. Everything else is refused with [`TenantError::InvalidName`] before the disk is touched, upper case
/// too: so no name leads out of the folder, and no two names share a file on any file system. Encode what has other characters,
/// as hexadecimal digits for instance.
///
/// # Several processes
/// Several processes may have the folder open, and the same tenant, as with any log. A durable stream of one name is then active in
/// the one that registered it last. A tenant that another process has open is not deleted.
///
/// Cloning gives another handle of the same tenants. When the last handle is dropped, and the last [`Tenant`], all stores close as if
/// they were dropped; [`close`](Tenants::close) waits for what is at work.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// use millstream::{EventQuery, NewEvent, TenantError, Tenants};
///
/// let tenants = Tenants::open(folder.path())?;
/// let acme = tenants.tenant("acme").await?;
/// acme.append([NewEvent::new("order-placed", 7)]).await?;
///
/// let globex = tenants.tenant("globex").await?;
/// assert!(globex.query(&EventQuery::all()).await?.events.is_empty());
/// assert_eq!(tenants.list().await?, ["acme", "globex"]);
///
/// let refused = tenants.tenant("../acme").await;
/// assert!(matches!(refused, Err(TenantError::InvalidName { .. })));
///
/// drop(globex);
/// tenants.delete("globex").await?;
/// assert_eq!(tenants.list().await?, ["acme"]);
/// tenants.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tenants {
    host: Arc<Host>,
}

impl Tenants {
    /// Opens a folder of tenants with default options, or makes it. No tenant is opened. Blocks until that is done.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, TenantError> {
        Self::builder().open(folder)
    }

    /// The options of tenants.
    pub fn builder() -> TenantsBuilder {
        TenantsBuilder::default()
    }

    /// The folder, as an absolute path.
    pub fn path(&self) -> &Path {
        self.host.folder.root()
    }

    /// The tenant of this name, opened if it is not open, and made if it is not there, unless
    /// [`must_exist`](TenantsBuilder::must_exist) says otherwise. However many ask at once, it is opened once.
    ///
    /// # Errors
    /// The name is refused; there is no such tenant, where it must exist; it cannot be opened, or the closure of
    /// [`on_open`](TenantsBuilder::on_open) failed; as many tenants as may be open are in use for longer than
    /// [`wait_max`](TenantsBuilder::wait_max); the tenants are closed; there is no runtime.
    ///
    /// # Cancel safety
    /// When the future is dropped, an opening that has begun goes on, and the tenant is idle then.
    pub async fn tenant(&self, name: &str) -> Result<Tenant, TenantError> {
        let want = match self.host.options.must_exist {
            true => Want::Existing,
            false => Want::Any,
        };
        self.host.tenant(name, want).await
    }

    /// Makes a tenant that is not there. Of several who make one at once, in whatever process, exactly one does.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// use millstream::{TenantError, Tenants};
    ///
    /// let tenants = Tenants::builder().must_exist().open(folder.path())?;
    /// assert!(matches!(tenants.tenant("acme").await, Err(TenantError::Missing { .. })));
    /// tenants.create("acme").await?;
    /// assert!(matches!(tenants.create("acme").await, Err(TenantError::Exists { .. })));
    /// tenants.tenant("acme").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// There is one already: [`TenantError::Exists`]. Otherwise as [`tenant`](Self::tenant).
    ///
    /// # Cancel safety
    /// When the future is dropped, the tenant may have been made.
    pub async fn create(&self, name: &str) -> Result<Tenant, TenantError> {
        self.host.tenant(name, Want::New).await
    }

    /// The names of all tenants that are there, open or not, sorted. Files and folders that are no tenants are left out.
    ///
    /// # Errors
    /// The file system refuses, or there is no runtime.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn list(&self) -> Result<Vec<String>, TenantError> {
        self.host.names().await
    }

    /// Which tenants are open here, how many hold them, and how long ago each was used. What is wrong with one of them says
    /// its [`health`](crate::Store::health).
    pub fn status(&self) -> TenantsStatus {
        TenantsStatus {
            open_max: self.host.options.open_max,
            tenants: self.host.seen().into_iter().map(Into::into).collect(),
        }
    }

    /// Deletes a tenant: its log with SQLite's files beside it, and everything else in its folder. It is closed first, whatever its
    /// streams have to do. Its name is free at once; a removal that is cut off is finished when the folder is opened next.
    ///
    /// # Errors
    /// Somebody here holds it: [`TenantError::InUse`]. Another process, or a store that was opened by its path, has its log
    /// open: [`TenantError::InUseElsewhere`]. There is no such tenant; the name is refused; the file system refuses; the tenants are
    /// closed; there is no runtime.
    ///
    /// # Cancel safety
    /// When the future is dropped, a deletion that has begun goes on.
    pub async fn delete(&self, name: &str) -> Result<(), TenantError> {
        self.host.delete(name).await
    }

    /// Closes now all tenants that nobody holds and whose streams have no work, as if they had been idle for long, waits for that, and
    /// says how many they were.
    ///
    /// # Cancel safety
    /// When the future is dropped, what is being closed goes on to be closed.
    pub async fn close_idle(&self) -> usize {
        self.host.close_unused(None).await
    }

    /// Closes all tenants as [`Store::close`](crate::Store::close) does, held or not, and hands out none any more. Closing twice does
    /// nothing.
    ///
    /// # Errors
    /// Some handlers were not done within the [drain limit](crate::StoreBuilder::drain_limit), and were cancelled. They are named
    /// as `tenant/stream`. The tenants are closed all the same.
    ///
    /// # Cancel safety
    /// When the future is dropped, some tenants may be left half closed; they close as if they were dropped.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.host.close().await
    }
}

impl fmt::Debug for Tenants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tenants")
            .field("folder", &self.path())
            .finish_non_exhaustive()
    }
}

/// Where the log of a tenant would be, if this is a name; for the proofs.
#[cfg(feature = "internals")]
pub(crate) fn log_path(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    let name = Host::check(name).ok()?;
    Some(folder::log_of(&folder.join(&*name)))
}

//! What a program holds of a tenant.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::TenantError;
use crate::store::Store;
use crate::tenant::folder;
use crate::tenant::host::Host;
use crate::tenant::parts::Parts;

/// An open tenant. It stays open as long as this, or a clone of it, is held, and gives its [`Store`] by `Deref`.
///
/// Hold it for as long as a request takes, or longer for a tenant that has to stay open. A clone of the [`Store`] alone does not
/// keep the tenant open: its appends fail with [`AppendError::Closed`](crate::AppendError::Closed) when the tenant is closed.
///
/// Nothing of another tenant can be reached through it: it has one log, and one folder.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// use millstream::{NewEvent, Tenants};
///
/// let tenants = Tenants::open(folder.path())?;
/// let acme = tenants.tenant("acme").await?;
/// acme.append([NewEvent::new("order-placed", 7)]).await?;
/// assert_eq!(acme.head(), 1);
/// assert_eq!(tenants.tenant("globex").await?.head(), 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a tenant may be closed as soon as nobody holds it"]
pub struct Tenant {
    hold: Arc<Hold>,
}

struct Hold {
    /// Goes before the hold is given back: who closes the tenant then has all of it.
    parts: Arc<Parts>,
    _release: Release,
}

struct Release {
    host: Arc<Host>,
    name: Arc<str>,
}

impl Drop for Release {
    fn drop(&mut self) {
        self.host.release(&self.name);
    }
}

impl Tenant {
    pub(crate) fn new(parts: Arc<Parts>, host: &Arc<Host>) -> Self {
        let release = Release {
            host: Arc::clone(host),
            name: Arc::clone(&parts.name),
        };
        Self {
            hold: Arc::new(Hold {
                parts,
                _release: release,
            }),
        }
    }

    /// The tenant's name.
    pub fn name(&self) -> &str {
        &self.hold.parts.name
    }

    /// The tenant's store.
    pub fn store(&self) -> &Store {
        &self.hold.parts.store
    }

    /// The tenant's folder, in which its log is. It is deleted with the tenant, and so is what else is in it.
    pub fn path(&self) -> &Path {
        &self.hold.parts.folder
    }

    /// The path of a file beside the tenant's log, such as `views.db`. The file is the program's to make, and is deleted with the
    /// tenant.
    ///
    /// # Errors
    /// The name is not one that a tenant may have, see [`Tenants`](crate::Tenants), or is that of a file in which millstream keeps the
    /// tenant: [`TenantError::InvalidName`].
    pub fn file(&self, name: &str) -> Result<PathBuf, TenantError> {
        folder::file(self.path(), name)
    }

    /// What the closure of [`on_open`](crate::TenantsBuilder::on_open) returned for this tenant, if it is a `T`.
    pub fn attached<T: Any>(&self) -> Option<&T> {
        self.hold.parts.attached.downcast_ref()
    }
}

impl Deref for Tenant {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store()
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tenant")
            .field("name", &self.name())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

//! An open tenant: its store, what the program attached to it, and what says that it is open.

use std::any::Any;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::error::CloseError;
use crate::store::Store;
use crate::stream::status::StreamState;
use crate::sync::Mutex;

/// What the closure of `on_open` returned.
pub(crate) type Attached = Box<dyn Any + Send + Sync>;

pub(crate) struct Parts {
    pub(crate) name: Arc<str>,
    pub(crate) folder: PathBuf,
    /// Dropped before the store, as streams are that it was given.
    pub(crate) attached: Attached,
    pub(crate) store: Store,
    pub(crate) claim: Mutex<Option<Claim>>,
}

/// The right to have the tenant open: its lock, and one of the places that there are.
pub(crate) struct Claim {
    pub(crate) _lock: File,
    pub(crate) _place: OwnedSemaphorePermit,
}

impl Parts {
    /// Closes the store and gives the place back. The closed files are free for whoever opens the tenant next.
    pub(crate) async fn close(&self) -> Result<(), CloseError> {
        let outcome = self.store.close().await;
        if let Err(error) = &outcome {
            tracing::warn!(tenant = %self.name, %error, "a tenant was closed while handlers were at work");
        }
        drop(self.claim.lock().take());
        outcome.map_err(
            |CloseError::DrainLimit { limit, streams }| CloseError::DrainLimit {
                limit,
                streams: streams
                    .iter()
                    .map(|stream| format!("{}/{stream}", self.name))
                    .collect(),
            },
        )
    }
}

/// Whether some stream of a store has something to do that closing the store would put off.
pub(crate) fn has_work(store: &Store) -> bool {
    store.streams_here().iter().any(|status| match status.state {
        StreamState::Retrying { .. } => true,
        StreamState::CatchingUp | StreamState::Live => status.lag > 0 || status.calls_under_way > 0,
        StreamState::Paused { .. }
        | StreamState::Standby
        | StreamState::Stopped(_)
        | StreamState::NotHere => status.calls_under_way > 0,
    })
}

/// A tenant that is being opened, for the closure of [`TenantsBuilder::on_open`](crate::TenantsBuilder::on_open).
///
/// It gives the tenant's [`Store`] by `Deref`, and does not keep the tenant open.
#[derive(Clone, Debug)]
pub struct OpenedTenant {
    pub(crate) name: Arc<str>,
    pub(crate) folder: PathBuf,
    pub(crate) store: Store,
}

impl OpenedTenant {
    /// The tenant's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tenant's folder, in which its log is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The path of a file beside the tenant's log, as [`Tenant::file`](crate::Tenant::file).
    ///
    /// # Errors
    /// As [`Tenant::file`](crate::Tenant::file).
    pub fn file(&self, name: &str) -> Result<PathBuf, crate::error::TenantError> {
        crate::tenant::folder::file(&self.folder, name)
    }

    /// The tenant's store, for handlers that append to it. A clone does not keep the tenant open: it is closed with the tenant.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl std::ops::Deref for OpenedTenant {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

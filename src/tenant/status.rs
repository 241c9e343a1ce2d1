//! Which tenants are open, and since when.

use std::time::Duration;

use tokio::time::Instant;

use crate::tenant::table::{Seen, Stage};

/// The tenants that are not closed, as [`Tenants::status`](crate::Tenants::status) found them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TenantsStatus {
    /// How many may be open at once.
    pub open_max: usize,
    /// Those that are open, being opened, closed or deleted, by name.
    pub tenants: Vec<TenantStatus>,
}

/// One tenant that is not closed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TenantStatus {
    /// Its name.
    pub name: String,
    /// What is under way with it.
    pub state: TenantState,
    /// How many handles there are. Clones of a handle count as one.
    pub handles: usize,
    /// For how long it has been open. Nothing: it is not.
    pub open_for: Option<Duration>,
    /// How long ago it was last taken or given back. Nothing: it is not open.
    pub used_ago: Option<Duration>,
}

/// What is under way with a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TenantState {
    /// Its log is being opened, or the closure of [`on_open`](crate::TenantsBuilder::on_open) is called.
    Opening,
    /// It is open.
    Open,
    /// Its store is being closed.
    Closing,
    /// It is being deleted.
    Deleting,
}

impl From<Seen> for TenantStatus {
    fn from(seen: Seen) -> Self {
        let now = Instant::now();
        let ago = |at: Instant| now.saturating_duration_since(at);
        Self {
            name: seen.name.to_string(),
            state: match seen.stage {
                Stage::Opening => TenantState::Opening,
                Stage::Open => TenantState::Open,
                Stage::Closing => TenantState::Closing,
                Stage::Deleting => TenantState::Deleting,
            },
            handles: seen.handles,
            open_for: seen.since.map(|(opened_at, _)| ago(opened_at)),
            used_ago: seen.since.map(|(_, used_at)| ago(used_at)),
        }
    }
}

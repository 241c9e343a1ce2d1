//! What read models beside the log, in its own file or on its server, need of a store.

#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "postgres")]
use crate::log::postgres::beside::ServerDesk;
use crate::store::Store;
use crate::stream::registry::Registry;

impl Store {
    /// The server of the log. Nothing: it is on none.
    #[cfg(feature = "postgres")]
    pub(crate) fn desk(&self) -> Option<&ServerDesk> {
        self.log().desk.as_ref()
    }

    /// The SQLite file of the log. Nothing: it has none.
    #[cfg(feature = "sqlite")]
    pub(crate) fn file(&self) -> Option<&Path> {
        self.log().reader.file()
    }

    /// All streams of the store.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.inner.hub.registry
    }
}

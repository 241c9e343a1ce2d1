//! What read models in the log's own file need of a store.

use std::path::Path;
use std::sync::Arc;

use crate::store::Store;
use crate::stream::registry::Registry;

impl Store {
    /// The SQLite file of the log. Nothing: it has none.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.log().reader.file()
    }

    /// All streams of the store.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.inner.hub.registry
    }
}

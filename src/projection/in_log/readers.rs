//! Connections on which read models in the log's file are read. They cannot write, and never block who does.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::error::ReadModelError;
use crate::log::sqlite::connection::storage;
use crate::projection::applier::blocking;
use crate::projection::pool;
use crate::sync::Mutex;

/// How many connections read at once, of all models together.
const READERS_MAX: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            slots: Semaphore::new(READERS_MAX),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Reads in one transaction, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        model: &str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadModelError> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| ReadModelError::NoRuntime)?;
        let (readers, model) = (Arc::clone(self), model.to_owned());
        blocking(move || readers.read_blocking(&model, read)).await?
    }

    fn read_blocking<T>(
        &self,
        model: &str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadModelError> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => pool::open(&self.path).map_err(storage("open the log's file for reading"))?,
        };
        let failed = |error| ReadModelError::Query {
            name: model.to_owned(),
            source: Arc::new(error),
        };
        connection.execute_batch("BEGIN").map_err(failed)?;
        let outcome = read(&connection);
        // A connection on which the transaction cannot be ended is not used again.
        if connection.execute_batch("ROLLBACK").is_ok() {
            self.idle.lock().push(connection);
        }
        outcome.map_err(failed)
    }
}

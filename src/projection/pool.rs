//! Connections on which read models are read: a few for each model, of the build that serves now.
//!
//! Readers never block the writer, and the writer never blocks them: each read is one transaction on the write-ahead log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::error::ReadModelError;
use crate::projection::applier::blocking;
use crate::projection::catalog::{Catalog, storage};
use crate::sync::Mutex;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS_MAX: usize = 64;

/// The readers of one read model, whatever build serves.
pub(crate) struct Pool {
    name: String,
    catalog: Arc<Catalog>,
    slots: Semaphore,
    idle: Mutex<Idle>,
}

/// Connections that nobody uses, and the build that they are to.
#[derive(Default)]
struct Idle {
    build: i64,
    connections: Vec<Connection>,
}

impl Pool {
    pub(crate) fn new(name: &str, catalog: Arc<Catalog>, readers_max: usize) -> Self {
        Self {
            name: name.to_owned(),
            catalog,
            slots: Semaphore::new(readers_max),
            idle: Mutex::new(Idle::default()),
        }
    }

    /// Reads in one transaction, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadModelError> {
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|_| ReadModelError::NoRuntime)?;
        let pool = Arc::clone(self);
        blocking(move || pool.read_blocking(read)).await?
    }

    fn read_blocking<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadModelError> {
        let (build, connection) = self.take()?;
        let failed = |error| ReadModelError::Query {
            name: self.name.clone(),
            source: Arc::new(error),
        };
        connection.execute_batch("BEGIN").map_err(failed)?;
        let outcome = read(&connection);
        // A connection on which the transaction cannot be ended is not used again.
        let is_sound = connection.execute_batch("ROLLBACK").is_ok();
        if is_sound {
            self.give_back(build, connection);
        }
        outcome.map_err(failed)
    }

    /// A connection to the build that serves now.
    fn take(&self) -> Result<(i64, Connection), ReadModelError> {
        loop {
            let serving = self.catalog.serving(&self.name)?;
            let serving = serving.ok_or_else(|| ReadModelError::NoSuchModel {
                name: self.name.clone(),
            })?;
            let mut idle = self.idle.lock();
            if idle.build != serving.build {
                idle.build = serving.build;
                let earlier = std::mem::take(&mut idle.connections);
                drop(idle);
                drop(earlier);
                // What they were to may have waited for that.
                self.catalog.sweep();
            } else if let Some(connection) = idle.connections.pop() {
                return Ok((serving.build, connection));
            }
            match open(&self.catalog.file_of(&serving)) {
                Ok(connection) => return Ok((serving.build, connection)),
                // It was retired and removed in between.
                Err(_) if self.catalog.is_retired(serving.build)? => {}
                Err(error) => return Err(storage("open the file of a read model for reading")(error).into()),
            }
        }
    }

    fn give_back(&self, build: i64, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.build == build {
            idle.connections.push(connection);
        }
    }
}

pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    // It is never made here: the writer makes it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.execute_batch("PRAGMA query_only=1")?;
    Ok(connection)
}

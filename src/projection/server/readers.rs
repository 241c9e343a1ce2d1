//! Connections on which read models on the server are read: what serves, whichever version and build that is. They cannot write, and never
//! block who does.
//!
//! A read holds a lock by which the schema of its tables is known to be read, from before its transaction sees what serves. So what it has
//! found to serve stays there as long as it is read, and a build that was retired is removed when its last reader has gone.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, IsolationLevel, Transaction};

use crate::error::{ReadModelError, StorageError};
use crate::log::postgres::beside::{Purpose, ServerDesk, quoted};
use crate::projection::server::list::{READ_LOCK, sweep};
use crate::sync::Mutex;

/// How many connections read a model at once.
const READERS_MAX: usize = 4;
/// What is done, for whoever reads an error.
const READ: &str = "read a read model";

pub(super) struct Readers {
    desk: ServerDesk,
    model: String,
    slots: Semaphore,
    idle: Mutex<Vec<Client>>,
    /// What was seen to serve last.
    newest: Mutex<Serving>,
}

/// A version that serves, and where its tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) version: u32,
    pub(super) namespace: String,
}

/// Whether a read goes on with what it has locked.
enum Begun<'a> {
    Yes(Transaction<'a>),
    /// Something else serves now.
    Else(Serving),
}

impl Readers {
    /// Readers of a model, with what is thought to serve.
    pub(super) fn new(desk: ServerDesk, model: String, serving: Serving) -> Self {
        Self {
            desk,
            model,
            slots: Semaphore::new(READERS_MAX),
            idle: Mutex::new(Vec::new()),
            newest: Mutex::new(serving),
        }
    }

    /// Reads what serves in one transaction, which sees one moment. A call that is dropped closes its connection.
    pub(super) async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&Transaction<'_>, &Serving) -> Result<T, Error>,
    ) -> Result<T, ReadModelError> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| ReadModelError::NoRuntime)?;
        let first = self.newest.lock().clone();
        let (mut serving, mut client) = (first.clone(), self.locked_client(&first).await?);
        let outcome = loop {
            match self.begin(&mut client, &serving).await? {
                Begun::Yes(tx) => break self.ask(tx, &serving, read).await,
                Begun::Else(newer) => serving = newer,
            }
            self.unlock(&client).await?;
            self.lock(&client, &serving).await?;
        };
        if !client.is_closed() && self.unlock(&client).await.is_ok() {
            self.idle.lock().push(client);
        }
        let is_newest = *self.newest.lock() == serving;
        if serving != first || !is_newest {
            // What was read before may have waited for its readers.
            self.sweep_later();
        }
        outcome.map_err(|error| self.failed(error))
    }

    /// What serves now.
    pub(super) async fn serving(&self) -> Result<Serving, ReadModelError> {
        self.read(async |_, serving| Ok(serving.clone())).await
    }

    /// A connection that answers, with the lock. One that was used before may have been lost meanwhile.
    async fn locked_client(&self, serving: &Serving) -> Result<Client, ReadModelError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(client) = idle else { break };
            match self.lock(&client, serving).await {
                Ok(()) => return Ok(client),
                Err(error) if client.is_closed() || error.is_retryable() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let client = self.desk.connect(Purpose::Read).await?;
        self.lock(&client, serving).await?;
        Ok(client)
    }

    async fn lock(&self, client: &Client, serving: &Serving) -> Result<(), StorageError> {
        let sql = format!("SELECT pg_advisory_lock_shared({READ_LOCK})");
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&serving.namespace, Type::TEXT)];
        let locked = self
            .desk
            .answer(READ, client.query_typed(&sql, &parameters))
            .await?;
        locked.map(drop).map_err(self.desk.failed(READ))
    }

    async fn unlock(&self, client: &Client) -> Result<(), StorageError> {
        let unlocking = client.batch_execute("SELECT pg_advisory_unlock_all()");
        let unlocked = self.desk.answer(READ, unlocking).await?;
        unlocked.map_err(self.desk.failed(READ))
    }

    /// Begins to read, if what is locked serves.
    async fn begin<'a>(&self, client: &'a mut Client, locked: &Serving) -> Result<Begun<'a>, ReadModelError> {
        let begun = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start();
        let tx = self.desk.answer(READ, begun).await?;
        let tx = tx.map_err(|error| self.failed(error))?;
        // By the index `model_build_serving`. Names without a schema are those of what serves from here on, and then those of the log.
        let sql =
            "SELECT version, namespace, set_config('search_path', quote_ident(namespace) || ', ' || $2, true)
            FROM millstream_model_build WHERE name = $1 AND state = 'serving'";
        let log = quoted(self.desk.schema());
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&self.model, Type::TEXT), (&log, Type::TEXT)];
        let found = self.desk.answer(READ, tx.query_typed(sql, &parameters)).await?;
        let found = found.map_err(|error| self.failed(error))?;
        let row = found.first().ok_or_else(|| ReadModelError::NoSuchModel {
            name: self.model.clone(),
        })?;
        let serving = || {
            Ok(Serving {
                version: row.try_get::<_, i64>(0)? as u32,
                namespace: row.try_get(1)?,
            })
        };
        let serving = serving().map_err(|error| self.failed(error))?;
        *self.newest.lock() = serving.clone();
        if serving == *locked {
            return Ok(Begun::Yes(tx));
        }
        let ended = self.desk.answer("end a read", tx.rollback()).await?;
        ended.map_err(|error| self.failed(error))?;
        Ok(Begun::Else(serving))
    }

    async fn ask<T>(
        &self,
        tx: Transaction<'_>,
        serving: &Serving,
        read: impl AsyncFnOnce(&Transaction<'_>, &Serving) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = read(&tx, serving).await;
        // It wrote nothing. A connection on which that cannot be said is not used again.
        let ended = self.desk.answer("end a read", tx.rollback()).await;
        outcome.and_then(|read| ended.unwrap_or(Ok(())).map(|()| read))
    }

    fn sweep_later(&self) {
        if let Ok(runtime) = Handle::try_current() {
            let desk = self.desk.clone();
            runtime.spawn(async move { sweep(&desk).await });
        }
    }

    fn failed(&self, error: Error) -> ReadModelError {
        ReadModelError::ServerQuery {
            name: self.model.clone(),
            server: Arc::clone(self.desk.name()),
            source: Arc::new(error),
        }
    }
}

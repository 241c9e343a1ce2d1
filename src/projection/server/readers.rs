//! Connections on which read models on the server are read. They cannot write, and never block who does.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_postgres::{Client, Error, IsolationLevel, Transaction};

use crate::error::ReadModelError;
use crate::log::postgres::beside::{Purpose, ServerDesk, quoted};
use crate::sync::Mutex;

/// How many connections read a model at once.
const READERS_MAX: usize = 4;

pub(super) struct Readers {
    desk: ServerDesk,
    /// The schema of the model's tables.
    namespace: String,
    model: String,
    slots: Semaphore,
    idle: Mutex<Vec<Client>>,
}

impl Readers {
    pub(super) fn new(desk: ServerDesk, namespace: String, model: String) -> Self {
        Self {
            desk,
            namespace,
            model,
            slots: Semaphore::new(READERS_MAX),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// The schema of the model's tables.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Reads in one transaction, which sees one moment. A call that is dropped closes its connection.
    pub(super) async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, ReadModelError> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| ReadModelError::NoRuntime)?;
        let mut client = self.client().await?;
        let outcome = {
            let tx = self.begin(&mut client).await?;
            let outcome = read(&tx).await;
            // It wrote nothing. A connection on which that cannot be said is not used again.
            let ended = self.desk.answer("end a read", tx.rollback()).await;
            outcome.and_then(|read| ended.unwrap_or(Ok(())).map(|()| read))
        };
        if !client.is_closed() {
            self.idle.lock().push(client);
        }
        outcome.map_err(|error| self.failed(error))
    }

    /// A connection that answers: one that was used before may have been lost meanwhile.
    async fn client(&self) -> Result<Client, ReadModelError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(client) = idle else { break };
            let asked = self
                .desk
                .answer("read a read model", client.batch_execute(""))
                .await?;
            if asked.is_ok() {
                return Ok(client);
            }
        }
        let client = self.desk.connect(Purpose::Read).await?;
        let path = format!(
            "SET search_path TO {}, {}",
            quoted(&self.namespace),
            quoted(self.desk.schema())
        );
        let set = self
            .desk
            .answer("read a read model", client.batch_execute(&path))
            .await?;
        set.map_err(self.desk.failed("read a read model"))?;
        Ok(client)
    }

    async fn begin<'a>(&self, client: &'a mut Client) -> Result<Transaction<'a>, ReadModelError> {
        let begun = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start();
        let begun = self.desk.answer("read a read model", begun).await?;
        begun.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> ReadModelError {
        ReadModelError::ServerQuery {
            name: self.model.clone(),
            server: Arc::clone(self.desk.name()),
            source: Arc::new(error),
        }
    }
}

//! What read models on the log's server need of it: connections beside those of the log, and its words for what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_postgres::{Client, Error};

use crate::error::StorageError;
use crate::log::postgres::driver::Driver;
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::trouble::Trouble;

/// The log's server. Cloning gives another handle of the same.
#[derive(Clone)]
pub(crate) struct ServerDesk {
    server: Arc<Server>,
    driver: Arc<Driver>,
}

/// What a connection beside those of the log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Write,
    Read,
}

impl ServerDesk {
    pub(super) fn new(server: Arc<Server>, driver: Arc<Driver>) -> Self {
        Self { server, driver }
    }

    /// `host:port/database`.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.server.name
    }

    /// The schema that the log lies in.
    pub(crate) fn schema(&self) -> &str {
        &self.server.schema
    }

    /// For how long the server is waited for.
    pub(crate) fn limit(&self) -> Duration {
        self.server.limit
    }

    /// Makes a connection, on the thread of the log's connections.
    pub(crate) async fn connect(&self, purpose: Purpose) -> Result<Client, StorageError> {
        let role = match purpose {
            Purpose::Write => Role::Model,
            Purpose::Read => Role::Reader,
        };
        let (give, made) = oneshot::channel();
        let server = Arc::clone(&self.server);
        self.driver.spawn(async move {
            let connecting = tokio::time::timeout(server.patience(), server.connect(role, None));
            // Who has gone does not need the connection.
            let _ = give.send(connecting.await);
        });
        let limit = self.server.patience();
        let session = match made.await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err(Trouble::NoAnswer { limit }),
        };
        let session = session.map_err(|trouble| self.trouble(trouble, "connect for a read model"))?;
        Ok(session.into_client())
    }

    /// Waits for an answer of the server, as long as the log does.
    pub(crate) async fn answer<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = T>,
    ) -> Result<T, StorageError> {
        let limit = self.server.patience();
        let answer = tokio::time::timeout(limit, answer).await;
        answer.map_err(|_| self.trouble(Trouble::NoAnswer { limit }, operation))
    }

    /// What a failure means to the rest of the crate.
    pub(crate) fn failed(&self, operation: &'static str) -> impl Fn(Error) -> StorageError + Clone {
        let name = Arc::clone(&self.server.name);
        move |error| Trouble::from(error).into_storage(&name, operation)
    }

    /// Whether a connection on which this went wrong is of no use any more, and another one may be.
    pub(crate) fn is_lost(error: &Error) -> bool {
        // The sessions of read models are read-only outside of a transaction: that says nothing of the server.
        let is_ours = error.code() == Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION);
        !is_ours && Trouble::is_lost_with(error)
    }

    fn trouble(&self, trouble: Trouble, operation: &'static str) -> StorageError {
        trouble.into_storage(&self.server.name, operation)
    }
}

/// A name, as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

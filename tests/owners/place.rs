//! Where the processes have their log: in a file, or on a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::{Durability, Store, StoreBuilder};
use tempfile::TempDir;

use crate::child::SILENCE_MAX;
use crate::common::in_time;
use crate::common::postgres::{Database, database};

/// How long a store waits for another session that holds the log: as long as a process may be stopped in the middle of a transaction.
const SERVER_LIMIT: Duration = Duration::from_secs(3);

/// A log, and a folder for what the processes write down beside it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    /// Its address and its schema; nothing: it is a file in the folder.
    server: Option<(String, String)>,
}

/// The place of one test, which is removed with this.
pub(crate) struct Home {
    pub(crate) place: Place,
    pub(crate) database: Option<Database>,
    _folder: TempDir,
}

impl Home {
    pub(crate) fn file() -> Self {
        Self::with(None)
    }

    /// Nothing, when there is no server.
    pub(crate) fn server() -> Option<Self> {
        database().map(|database| Self::with(Some(database)))
    }

    fn with(database: Option<Database>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = database.as_ref();
        Self {
            place: Place {
                folder: folder.path().to_owned(),
                server: server.map(|server| (server.address.clone(), server.schema.clone())),
            },
            database,
            _folder: folder,
        }
    }
}

impl Place {
    /// As it is told to another process.
    pub(crate) fn words(&self) -> [String; 3] {
        let folder = self.folder.to_str().expect("a plain path").to_owned();
        let (address, schema) = self.server.clone().unwrap_or_default();
        [folder, address, schema]
    }

    pub(crate) fn of_words([folder, address, schema]: [String; 3]) -> Self {
        Self {
            folder: folder.into(),
            server: (!address.is_empty()).then_some((address, schema)),
        }
    }

    /// Where the log is, if it is in a file.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.beside("log.db")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// With which these tests open it, mostly.
    pub(crate) async fn open(&self) -> Store {
        let builder = Store::builder().poll_interval(Duration::from_millis(20));
        self.open_with(builder.owner_silence_max(SILENCE_MAX)).await
    }

    pub(crate) async fn open_with(&self, builder: StoreBuilder) -> Store {
        let builder = builder.durability(Durability::Relaxed);
        match &self.server {
            None => builder.open(self.log_file()).expect("the file opens"),
            Some((address, schema)) => {
                let builder = builder.schema(schema).server_limit(SERVER_LIMIT);
                let connecting = builder.connect(address);
                in_time("it is connected", connecting)
                    .await
                    .expect("the server has the log")
            }
        }
    }

    /// Whether nothing is left of a process that was killed, not even for a moment. A server finds first that its connections are gone.
    pub(crate) fn notices_at_once(&self) -> bool {
        self.server.is_none()
    }
}

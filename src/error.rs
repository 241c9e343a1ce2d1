//! One error type per operation.
//!
//! Messages are lower case and without a full stop, name the value and the limit, and say what to do next. Causes are
//! kept as the source. An error that several waiters receive is shared, so all of them are cheap to clone.

mod append;
#[cfg(feature = "sqlite")]
mod copy;
mod evolution;
mod failure;
#[cfg(feature = "sqlite")]
mod in_log;
mod instance;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod model;
mod react;
#[cfg(feature = "postgres")]
mod server_model;
mod steer;
mod stream;
#[cfg(feature = "sqlite")]
mod tenant;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod view;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use crate::error::append::{AppendError, InvalidEvent, InvalidKey};
#[cfg(feature = "sqlite")]
pub use crate::error::copy::CopyError;
#[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
pub(crate) use crate::error::evolution::StoredAs;
pub use crate::error::evolution::{EvolutionError, UndecodableEvent, UpcastError};
pub(crate) use crate::error::failure::causes;
pub use crate::error::failure::{DeadLetterError, DecodeError, FailureCategory};
#[cfg(feature = "sqlite")]
pub use crate::error::in_log::InLogError;
pub use crate::error::instance::Instance;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::error::model::ReadModelError;
pub(crate) use crate::error::react::InvalidReaction;
#[cfg(feature = "postgres")]
pub use crate::error::server_model::ServerModelError;
pub use crate::error::steer::SteerError;
pub use crate::error::stream::{StopCause, StreamError, WaitError};
#[cfg(feature = "sqlite")]
pub use crate::error::tenant::{NameProblem, TenantError};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::error::view::ViewError;

/// What a handler returns when it fails.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A store could not be opened.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option of the builder does not make sense.
    #[error("the option `{option}` is {value}, which is {problem}")]
    InvalidOption {
        /// The name of the builder's method.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it, and what is accepted.
        problem: &'static str,
    },
    /// There is no such file, and none is to be made: the builder was told [`must_exist`](crate::StoreBuilder::must_exist).
    #[error("{path} does not exist; check the path, or append to it to make a new log")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is an SQLite database of something else, or no database at all.
    #[error("{path} is not a millstream log: {found}; choose another file, or a new one")]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// The file was written by a newer version of this crate.
    #[error("{path} has format {found}, this version reads formats up to {supported}; upgrade the program")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The newest format that this version reads.
        supported: i64,
    },
    /// SQLite cannot keep a write-ahead log here, for instance because this is no file.
    #[error(
        "{path} cannot have a write-ahead log, its journal mode is {mode}; choose a file on a local disk, or `Store::in_memory`"
    )]
    NoWriteAheadLog {
        /// What was to be opened.
        path: PathBuf,
        /// The journal mode that SQLite offers instead.
        mode: String,
    },
    /// The file is a copy in the making: the process that made it has not ended it. It is no log before it is whole.
    #[error(
        "{path} is a copy of the log {log_id} that has not ended; make the same copy again, which goes on where it was, or remove the file"
    )]
    PartialCopy {
        /// The file.
        path: PathBuf,
        /// The log that it is a copy of.
        log_id: String,
    },
    /// The location is the address of a server, and the program was built without what it takes.
    #[error(
        "{location} cannot be opened: this program was built without the feature `{feature}`; build it with that, or name a file"
    )]
    NotBuiltIn {
        /// The location, without a password.
        location: String,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// The location is an address of a kind that is not known.
    #[error("{location} cannot be opened: no log has an address with {scheme:?}; name a file")]
    UnknownScheme {
        /// The location, without a password.
        location: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// The text does not say which server is meant. It is not repeated here: there may be a password in it.
    #[cfg(feature = "postgres")]
    #[error(
        "this is not the address of a server: {problem}; give it as postgres://user:password@host:5432/database, with special characters percent-encoded"
    )]
    InvalidAddress {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The server showed a certificate that is not to be trusted, and nothing was said to it.
    #[cfg(feature = "postgres")]
    #[error(
        "the server {server} is not trusted: {problem}; name the file with the certificate of the authority that signed it with sslrootcert=, and the host as its certificate does"
    )]
    UntrustedServer {
        /// The server, as `host:port/database`.
        server: String,
        /// What is wrong with its certificate.
        problem: String,
    },
    /// The file that is named with `sslrootcert=` cannot be used.
    #[cfg(feature = "postgres")]
    #[error(
        "the certificates in {path} cannot be used: {problem}; name a PEM file with the certificate of the authority that signed the server's"
    )]
    RootCertificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no log in this schema, and none is to be made: the builder was told
    /// [`must_exist`](crate::StoreBuilder::must_exist).
    #[cfg(feature = "postgres")]
    #[error(
        "there is no log in the schema {schema} at {server}; check both, or leave `must_exist` out to make one"
    )]
    MissingLog {
        /// The server, as `host:port/database`.
        server: String,
        /// The schema.
        schema: String,
    },
    /// The schema belongs to something else.
    #[cfg(feature = "postgres")]
    #[error(
        "the schema {schema} at {server} is not a millstream log: there are {found} in it; choose another one with `StoreBuilder::schema`"
    )]
    ForeignSchema {
        /// The server, as `host:port/database`.
        server: String,
        /// The schema.
        schema: String,
        /// What was found in it.
        found: String,
    },
    /// The log was written by a newer version of this crate.
    #[cfg(feature = "postgres")]
    #[error(
        "the log in the schema {schema} at {server} has format {found}, this version reads formats up to {supported}; upgrade the program"
    )]
    NewerSchema {
        /// The server, as `host:port/database`.
        server: String,
        /// The schema.
        schema: String,
        /// The format of the log.
        found: i64,
        /// The newest format that this version reads.
        supported: i64,
    },
    /// The upcasters and renames do not fit together.
    #[error("the upcasters do not fit together: {0}")]
    Evolution(#[from] EvolutionError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The storage of a log failed, or that of read models.
#[derive(Clone, Debug, Error)]
#[error("{subject} could not {operation}: {}", told.message)]
pub struct StorageError {
    subject: &'static str,
    operation: &'static str,
    told: Arc<Told>,
    #[source]
    source: Arc<dyn Error + Send + Sync>,
    kind: StorageFault,
}

/// What is told of a failure of the storage.
#[derive(Clone, Debug)]
struct Told {
    message: String,
    server: Option<Arc<str>>,
}

/// What is known of a failure of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StorageFault {
    Unknown,
    Busy,
    Damage,
    #[cfg(feature = "postgres")]
    Unreachable,
    #[cfg(feature = "postgres")]
    OutcomeUnknown,
}

impl StorageError {
    pub(crate) fn new(operation: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            subject: "the log",
            operation,
            told: Arc::new(Told {
                message: source.to_string(),
                server: None,
            }),
            source: Arc::new(source),
            kind: StorageFault::Unknown,
        }
    }

    /// Whose storage it is, when it is not the log's.
    #[cfg(feature = "sqlite")]
    pub(crate) fn of(mut self, subject: &'static str) -> Self {
        self.subject = subject;
        self
    }

    pub(crate) fn busy(mut self) -> Self {
        self.kind = StorageFault::Busy;
        self
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn damage(mut self) -> Self {
        self.kind = StorageFault::Damage;
        self
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn at_server(mut self, server: &Arc<str>) -> Self {
        Arc::make_mut(&mut self.told).server = Some(Arc::clone(server));
        self
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn unreachable(mut self) -> Self {
        self.kind = StorageFault::Unreachable;
        self
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn outcome_unknown(mut self) -> Self {
        self.kind = StorageFault::OutcomeUnknown;
        self
    }

    /// The server that it happened at, as `host:port/database`; nothing, when the log is no server's.
    pub fn server(&self) -> Option<&str> {
        self.told.server.as_deref()
    }

    /// Whether the same may succeed when it is tried again, and has not happened yet: somebody else was in the way, or the server
    /// could not be reached.
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            StorageFault::Busy => true,
            #[cfg(feature = "postgres")]
            StorageFault::Unreachable => true,
            _ => false,
        }
    }

    /// Whether it is not known if it happened: the connection to the server was lost during the commit, and the server could not
    /// be asked in time what became of it. What was committed all the same is in the log, and is delivered.
    pub fn is_outcome_unknown(&self) -> bool {
        match self.kind {
            #[cfg(feature = "postgres")]
            StorageFault::OutcomeUnknown => true,
            _ => false,
        }
    }

    /// Whether another process held the log for longer than the wait for it, so that a retry may succeed.
    pub fn is_busy(&self) -> bool {
        self.kind == StorageFault::Busy
    }

    /// Whether the file itself is damaged, so that a backup is to be restored.
    pub fn is_damage(&self) -> bool {
        self.kind == StorageFault::Damage
    }
}

/// A query, read or follow failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The log was pruned beyond where the read was to go on.
    #[error(
        "events after {after} were asked for, the log was pruned through {pruned_through}; begin after that, or without a position for all that is left"
    )]
    Pruned {
        /// Where the read was to go on.
        after: u64,
        /// Everything up to here is gone.
        pruned_through: u64,
    },
    /// A single append in the log is larger than what a reader may hold, or its rows are damaged.
    #[error("event {sequence} of the log is damaged: {problem}")]
    Damaged {
        /// The event's sequence.
        sequence: u64,
        /// What is wrong with its row.
        problem: String,
    },
    /// The query selects an event that the store's upcasters cannot bring to the newest version of its type.
    #[error(transparent)]
    Undecodable(UndecodableEvent),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A prune failed. The steps before are done, and what they removed is gone.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A backup was refused or failed. There is nothing at the target.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log is in memory alone.
    #[error("a log in memory has no file to copy; open the log in a file")]
    NotAFile,
    /// The log is on a server, whose own tools make backups.
    #[cfg(feature = "postgres")]
    #[error("the log is on the server {server}; back it up with `pg_dump --schema={schema}`")]
    OnServer {
        /// The server, as `host:port/database`.
        server: String,
        /// The schema of the log.
        schema: String,
    },
    /// There is a file already, which is not overwritten.
    #[error("{target} exists already; choose another target, or remove it first")]
    TargetExists {
        /// The file.
        target: PathBuf,
    },
    /// The target could not be written.
    #[error("{target} could not be written: {source}")]
    Target {
        /// The file.
        target: PathBuf,
        /// What the file system says.
        source: Arc<std::io::Error>,
    },
    /// The store is closed, or the backup was given up.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A verification could not be made. What it finds is no error, but a [`Verification`](crate::Verification).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The log is in memory alone.
    #[error("a log in memory has no file to verify; open the log in a file")]
    NotAFile,
    /// The log is on a server, which checks its own files.
    #[cfg(feature = "postgres")]
    #[error("the log is on the server {server}; check its tables with `pg_amcheck`")]
    OnServer {
        /// The server, as `host:port/database`.
        server: String,
    },
    /// The store is closed, or the verification was given up.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The store is closed, and not everything came to a good end. Cursors are where the handled batches left them, so
/// durable streams repeat or go on at the next start.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Some streams did not get done within the limit; their handler calls were cancelled.
    #[error("{} streams were not done within {limit:?}: {}", streams.len(), streams.join(", "))]
    DrainLimit {
        /// The limit.
        limit: Duration,
        /// What was running, by name.
        streams: Vec<String>,
    },
}

//! Why a read model could not be registered, kept, rebuilt or read.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

#[cfg(feature = "sqlite")]
use crate::error::InLogError;
use crate::error::{FailureCategory, ReadError, SteerError, StorageError, StreamError, WaitError};

/// Something with a read model failed. What it held before it still holds.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReadModelError {
    /// A name, version or option is not accepted.
    #[error("the read model {name:?} is refused: {problem}")]
    Refused {
        /// The name given.
        name: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// The file is an SQLite database of something else, or no database at all.
    #[error("{path} is not a file of read models: {found}; choose another file, or a new one")]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// There is no such file.
    #[error(
        "{path} does not exist; check the path, it is the file that the program gives to `ReadModels::open`"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of this crate.
    #[error(
        "{path} has format {found}, this version reads formats up to {supported}; upgrade the program, or remove the file and rebuild"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The newest format that this version reads.
        supported: i64,
    },
    /// The read model was built from another log.
    #[error(
        "the read model {name:?} was built from the log {built_from}, this is the log {log}; open the right file, or remove it and rebuild"
    )]
    ForeignLog {
        /// The read model.
        name: String,
        /// The id of the log that it was built from.
        built_from: String,
        /// The id of the log given.
        log: String,
    },
    /// The read model knows events that the log does not have: the log was restored from a backup.
    #[error(
        "the read model {name:?} is at {position}, the log ends at {head}: the log is older than the model; remove the model's file and rebuild"
    )]
    AheadOfLog {
        /// The read model.
        name: String,
        /// How far it is.
        position: u64,
        /// The last sequence of the log.
        head: u64,
    },
    /// The projection changed and its version did not.
    #[error(
        "the {what} of the read model {name:?} changed and its version is {version} still; give it version {}, or rebuild it", .version + 1
    )]
    Changed {
        /// The read model.
        name: String,
        /// The version of both.
        version: u32,
        /// What changed: its query or its schema.
        what: &'static str,
    },
    /// A newer version serves already.
    #[error(
        "version {serving} of the read model {name:?} serves, version {version} is older; run the newer program, or remove the file of read models"
    )]
    OlderVersion {
        /// The read model.
        name: String,
        /// The version given.
        version: u32,
        /// The version that serves.
        serving: u32,
    },
    /// What the read model needs next was pruned from the log.
    #[error(
        "the read model {name:?} needs the events after {position}, the log was pruned through {pruned_through}; restore a backup of the log, or give the read model a new name to begin with what is left"
    )]
    Pruned {
        /// The read model.
        name: String,
        /// How far it is.
        position: u64,
        /// Everything up to here is gone.
        pruned_through: u64,
    },
    /// This version of the read model is registered here already.
    #[error(
        "version {version} of the read model {name:?} is registered already; use its handle, or drop it first"
    )]
    Active {
        /// The read model.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The schema's statements failed.
    #[error("the schema of the read model {name:?}, version {version}, failed: {error}; mend its SQL")]
    Schema {
        /// The read model.
        name: String,
        /// Its version.
        version: u32,
        /// What the database says.
        error: Arc<str>,
    },
    /// The projection failed on a batch while it was brought to the head, or rebuilt.
    #[error(
        "the read model {name:?}, version {version}, failed on the batch up to {last_sequence} ({category}): {error}; mend the cause, and try again"
    )]
    Apply {
        /// The read model.
        name: String,
        /// Its version.
        version: u32,
        /// The last sequence of the batch.
        last_sequence: u64,
        /// In which way it failed.
        category: FailureCategory,
        /// What it failed with.
        error: Arc<str>,
    },
    /// The log has no file that a read model could be kept in.
    #[error(
        "the log is not in an SQLite file, so it keeps no read models; open the store with a path, or keep them in a file of their own (`ReadModels::open`)"
    )]
    NoLogFile,
    /// The log is not on a PostgreSQL server.
    #[cfg(feature = "postgres")]
    #[error(
        "the log is not on a PostgreSQL server, so no read models can be kept there; open the store with `Store::connect`, or keep them in a file (`ReadModels::open`)"
    )]
    NoServer,
    /// The log's own file does not take what the schema does.
    #[cfg(feature = "sqlite")]
    #[error("the schema of the read model {name:?}, version {version}, is refused: {source}")]
    InLog {
        /// The read model.
        name: String,
        /// Its version.
        version: u32,
        /// What it did.
        source: InLogError,
    },
    /// The read model is being rebuilt already.
    #[error("the read model {name:?} is being rebuilt already; wait for that, or cancel it")]
    RebuildUnderWay {
        /// The read model.
        name: String,
    },
    /// The rebuild was cancelled, or a newer version took its place. The model serves as before.
    #[error("the rebuild of the read model {name:?} was cancelled; what served before serves still")]
    Cancelled {
        /// The read model.
        name: String,
    },
    /// A dead letter that the rebuild could not apply, and had left out, was retried or discarded before its end. What served before serves still,
    /// with the letter as it was settled.
    #[error(
        "the rebuild of the read model {name:?} had left out the dead letter at {first_sequence}, which was settled meanwhile; rebuild it again"
    )]
    LetterSettled {
        /// The read model.
        name: String,
        /// The sequence of the letter's first event.
        first_sequence: u64,
    },
    /// The version is kept beside the one that serves, and waits to be promoted.
    #[error(
        "version {version} of the read model {name:?} has caught up, and version {serving} serves; promote it, or read what serves"
    )]
    NotServing {
        /// The read model.
        name: String,
        /// The version that is kept here.
        version: u32,
        /// The version that serves.
        serving: u32,
    },
    /// Nothing serves under this name.
    #[error("there is no read model named {name:?}; register it, and read then")]
    NoSuchModel {
        /// The name given.
        name: String,
    },
    /// Somebody else registered this version of the read model: the one here writes no more.
    #[error("another owner took over the read model {name:?}, version {version}")]
    OwnershipLost {
        /// The read model.
        name: String,
        /// Its version.
        version: u32,
    },
    /// What was asked of the model's tables on the server failed.
    #[cfg(feature = "postgres")]
    #[error("the read model {name:?} could not be read at {server}: {source}")]
    ServerQuery {
        /// The read model.
        name: String,
        /// The server, as `host:port/database`.
        server: Arc<str>,
        /// What the server or the driver says.
        source: Arc<tokio_postgres::Error>,
    },
    /// What was asked of the model's tables failed.
    #[cfg(feature = "sqlite")]
    #[error("the read model {name:?} could not be read: {source}")]
    Query {
        /// The read model.
        name: String,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// There is no tokio runtime here.
    #[error("there is no tokio runtime here; call it from inside one")]
    NoRuntime,
    /// The model's stream could not be registered.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The model's stream could not be steered.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// What was waited for will not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

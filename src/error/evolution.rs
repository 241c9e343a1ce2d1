//! What is wrong with upcasters, and with events that they cannot bring up to date.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The upcasters and renames given to the builder do not fit together. The store is not opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EvolutionError {
    /// There is no such schema version, or none after it.
    #[error(
        "schema version {version} of {event_type:?} is out of range; versions count from 1, and the last one has no upcaster"
    )]
    VersionOutOfRange {
        /// The type.
        event_type: String,
        /// The version given.
        version: u32,
    },
    /// Two upcasters begin at the same version.
    #[error("{event_type:?} has two upcasters from version {version}; register one of them")]
    DuplicateUpcaster {
        /// The type.
        event_type: String,
        /// The version that both begin at.
        version: u32,
    },
    /// A type is renamed twice.
    #[error("{event_type:?} is renamed to {first:?} and to {second:?}; register one of them")]
    DuplicateRename {
        /// The type.
        event_type: String,
        /// Its new name.
        first: String,
        /// Its other new name.
        second: String,
    },
    /// An upcaster is missing between two others.
    #[error(
        "{event_type:?} has no upcaster from version {missing}, and has one from {next}; register `upcast({event_type:?}, {missing}, ..)`"
    )]
    Gap {
        /// The type.
        event_type: String,
        /// The version that nothing leads on from.
        missing: u32,
        /// The next version that an upcaster begins at.
        next: u32,
    },
    /// The newest version of a type is said to be another one than its upcasters lead to, or is said twice.
    #[error(
        "the newest version of {event_type:?} is said to be {said}, and is {found} elsewhere; make them agree"
    )]
    NewestVersion {
        /// The type.
        event_type: String,
        /// What `newest_version` says.
        said: u32,
        /// Where the upcasters lead to, or what it says elsewhere.
        found: u32,
    },
    /// Renames lead back to where they began.
    #[error("renames lead in a circle: {}; leave one of them out", types.join(" -> "))]
    RenameCycle {
        /// The types, from one of them to itself.
        types: Vec<String>,
    },
    /// A renamed type arrives at a version that the upcasters of its new name do not know.
    #[error(
        "{event_type:?} is renamed in version {version} to {renamed:?}, whose upcasters know versions {oldest} to {newest}; bring it to one of these before"
    )]
    RenameOutOfRange {
        /// The type.
        event_type: String,
        /// The version in which it is renamed.
        version: u32,
        /// Its new name.
        renamed: String,
        /// The oldest version that the new name has an upcaster for.
        oldest: u32,
        /// The newest version of the new name.
        newest: u32,
    },
}

/// Why an event cannot be brought to the newest version of its type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpcastError {
    /// There is no upcaster from its version.
    #[error(
        "{event_type:?} has no upcaster from version {version}, the oldest is from {oldest}; register `upcast({event_type:?}, {version}, ..)`"
    )]
    Missing {
        /// The type, after renames.
        event_type: String,
        /// The version from which nothing leads on.
        version: u32,
        /// The oldest version that can be brought up; the newest of the type, when it has no upcaster.
        oldest: u32,
    },
    /// A newer program wrote it.
    #[error(
        "version {version} of {event_type:?} is newer than this program knows, which is {newest}; upgrade the program"
    )]
    Newer {
        /// The type, after renames.
        event_type: String,
        /// The event's version.
        version: u32,
        /// The newest version known.
        newest: u32,
    },
    /// The upcaster returned an error, or the payload does not have the shape that it takes.
    #[error(
        "the upcaster of {event_type:?} from version {version} failed: {error}; mend it, and open the store again"
    )]
    Failed {
        /// The type, after renames.
        event_type: String,
        /// The version that it begins at.
        version: u32,
        /// What it failed with.
        error: Arc<str>,
    },
    /// The upcaster panicked.
    #[error(
        "the upcaster of {event_type:?} from version {version} panicked: {error}; mend it, and open the store again"
    )]
    Panicked {
        /// The type, after renames.
        event_type: String,
        /// The version that it begins at.
        version: u32,
        /// What it panicked with.
        error: Arc<str>,
    },
    /// What the upcaster made is larger, or nested deeper, than an event's payload may be.
    #[error(
        "the upcasters of {event_type:?} made a payload that is not possible: {problem}; make it smaller"
    )]
    Oversized {
        /// The type, after renames.
        event_type: String,
        /// What is wrong with it, with the limit.
        problem: Arc<str>,
    },
}

/// An event in the log that the store's upcasters cannot bring to the newest version of its type.
///
/// It stays in the log as it is. Whoever reads it meets this error; a program with other upcasters may read it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.db");
/// use millstream::{EventQuery, NewEvent, ReadError, Store};
///
/// let newer = Store::open(&path)?;
/// newer.append([NewEvent::new("order-placed", 1250).schema_version(2)]).await?;
/// newer.close().await?;
///
/// let older = Store::builder().newest_version("order-placed", 1).open(&path)?;
/// let refused = older.query(&EventQuery::all()).await;
/// let Err(ReadError::Undecodable(event)) = refused else { panic!("it is newer") };
/// assert_eq!((event.sequence(), event.event_type(), event.schema_version()), (1, "order-placed", 2));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct UndecodableEvent(Arc<Undecodable>);

#[derive(Debug)]
struct Undecodable {
    sequence: u64,
    event_type: Arc<str>,
    schema_version: u32,
    shown_type: Arc<str>,
    cause: UpcastError,
}

/// What is known of an event that cannot be decoded.
#[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
pub(crate) struct StoredAs {
    pub(crate) sequence: u64,
    pub(crate) event_type: Arc<str>,
    pub(crate) schema_version: u32,
}

impl UndecodableEvent {
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn new(stored: StoredAs, shown_type: Arc<str>, cause: UpcastError) -> Self {
        Self(Arc::new(Undecodable {
            sequence: stored.sequence,
            event_type: stored.event_type,
            schema_version: stored.schema_version,
            shown_type,
            cause,
        }))
    }

    /// The event's place in the log. A reader that is to leave it behind begins [after](crate::EventReader::after) it.
    pub fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// The type, as it is stored.
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// The schema version, as it is stored.
    pub fn schema_version(&self) -> u32 {
        self.0.schema_version
    }

    /// Why it cannot be decoded.
    pub fn cause(&self) -> &UpcastError {
        &self.0.cause
    }

    /// The type that renames lead to: what it would be called if it could be decoded.
    pub(crate) fn shown_type(&self) -> &str {
        &self.0.shown_type
    }
}

impl fmt::Display for UndecodableEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Undecodable {
            sequence,
            event_type,
            schema_version,
            cause,
            ..
        } = &*self.0;
        write!(
            formatter,
            "event {sequence}, {event_type:?} in schema version {schema_version}, cannot be decoded: {cause}"
        )
    }
}

impl Error for UndecodableEvent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.cause)
    }
}

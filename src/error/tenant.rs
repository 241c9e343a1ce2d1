//! Why a tenant is not handed out, made or deleted.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::error::{OpenError, StorageError};

/// What is wrong with the name of a tenant, or of a file of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameProblem {
    /// There is nothing.
    #[error("it is empty; at least one character is needed")]
    Empty,
    /// It is too long for a name.
    #[error("it has {bytes} bytes; at most {bytes_max} are accepted")]
    TooLong {
        /// The length found.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A character that names do not have: upper case, a separator, a control character, anything beyond ASCII.
    #[error(
        "it has {character:?} at byte {at}; only a to z, 0 to 9, '-', '_' and '.' are accepted, so encode what has others"
    )]
    Character {
        /// The character.
        character: char,
        /// Where it is.
        at: usize,
    },
    /// It begins with a punctuation mark, as `..` and hidden files do.
    #[error("it begins with {found:?}; a letter or a digit is needed there")]
    Beginning {
        /// What it begins with.
        found: char,
    },
    /// It ends with a dot, which some file systems drop.
    #[error("it ends with '.'; some file systems drop that")]
    EndingDot,
    /// Windows has a device of this name, whatever stands after a dot.
    #[error("{device:?} is a device on Windows; add something before the first dot")]
    Device {
        /// The name up to its first dot.
        device: String,
    },
    /// The file is one of those in which millstream keeps the tenant itself.
    #[error("millstream keeps the tenant itself in this file; choose another name")]
    Taken,
}

/// A tenant was not handed out, made or deleted.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum TenantError {
    /// The name is not accepted. Nothing was looked for in the folder.
    #[error("the name {name:?} is refused: {problem}")]
    InvalidName {
        /// The name, of a long one the beginning.
        name: String,
        /// What is wrong with it.
        problem: NameProblem,
    },
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
    /// There is no such tenant.
    #[error("there is no tenant {name:?} in {folder}; make it with `Tenants::create`")]
    Missing {
        /// The tenant's name.
        name: String,
        /// The folder of all tenants.
        folder: PathBuf,
    },
    /// There is such a tenant already.
    #[error("there is a tenant {name:?} already; choose another name, or take it with `Tenants::tenant`")]
    Exists {
        /// The tenant's name.
        name: String,
    },
    /// In the place of the tenant's folder or log is something else, which two names could share.
    #[error("{path} is {found}; a tenant is a folder with a file `log.db`, move what is there away")]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Somebody in this process holds the tenant that was to be deleted. Whoever has just given up asking for it may do so for a moment.
    #[error("the tenant {name:?} is held by {handles} handles; drop them, and delete it again")]
    InUse {
        /// The tenant's name.
        name: String,
        /// How many handles there are; clones of a handle count as one.
        handles: usize,
    },
    /// Another process, or another store of this one, has the tenant's log open.
    #[error("the tenant {name:?} is open in another process or store; close it there, and delete it again")]
    InUseElsewhere {
        /// The tenant's name.
        name: String,
    },
    /// As many tenants are open as may be, and none of them became idle in time.
    #[error(
        "the tenant {name:?} found no room for {waited:?}: {held} tenants are held and {working} have streams at work, of {open_max} that may be open; hold handles for a shorter time, or raise `open_max`"
    )]
    AllInUse {
        /// The tenant's name.
        name: String,
        /// How many may be open.
        open_max: usize,
        /// How many of them somebody holds.
        held: usize,
        /// How many of the others have streams that are behind or retry.
        working: usize,
        /// How long it was waited for.
        waited: Duration,
    },
    /// What was under way with this tenant took too long. It goes on.
    #[error("the tenant {name:?} is still {state} after {waited:?}; ask again later, or raise `wait_max`")]
    NotInTime {
        /// The tenant's name.
        name: String,
        /// What is under way.
        state: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The tenant's log could not be opened.
    #[error("the tenant {name:?} could not be opened: {source}")]
    Open {
        /// The tenant's name.
        name: String,
        /// Why.
        source: OpenError,
    },
    /// The closure that is called with each tenant that is opened failed. The tenant is closed again.
    #[error("the closure of `TenantsBuilder::on_open` failed for the tenant {name:?}: {source}")]
    Setup {
        /// The tenant's name.
        name: String,
        /// What it returned.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The closure that is called with each tenant that is opened panicked. The tenant is closed again.
    #[error("the closure of `TenantsBuilder::on_open` panicked for the tenant {name:?}: {panic}")]
    SetupPanicked {
        /// The tenant's name.
        name: String,
        /// What it panicked with.
        panic: Arc<str>,
    },
    /// Somebody closed the tenant's store with [`Store::close`](crate::Store::close), and others still hold the tenant.
    #[error(
        "the store of the tenant {name:?} was closed while it is held; drop its handles instead of closing its store"
    )]
    StoreClosed {
        /// The tenant's name.
        name: String,
    },
    /// The file system refuses.
    #[error("could not {operation} {path}: {source}")]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the file system says.
        source: Arc<io::Error>,
    },
    /// Whether somebody has the tenant's log open could not be found out.
    #[error("the tenant {name:?} was not deleted: {source}")]
    Storage {
        /// The tenant's name.
        name: String,
        /// What SQLite says.
        source: StorageError,
    },
    /// There is no tokio runtime to open the tenant on.
    #[error("there is no tokio runtime here; take tenants in a task or inside `Runtime::block_on`")]
    NoRuntime,
    /// The tenants were closed, or the runtime was shut down.
    #[error("the tenants are closed")]
    Closed,
}

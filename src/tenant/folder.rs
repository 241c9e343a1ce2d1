//! Where tenants are on the disk. Blocks.
//!
//! ```text
//! FOLDER/
//!   .tenants.lock     held by whoever makes or removes a tenant, for as long as that takes
//!   acme/
//!     log.db          the log, with SQLite's files beside it
//!     tenant.lock     held shared by all that have the tenant open, alone by whoever removes it
//!     views.db        what the program keeps there
//!   .removed-acme-1/  a tenant that is being removed; what a crash left of one is removed at the next start
//! ```
//!
//! A tenant is there when its log is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::builder::StoreBuilder;
use crate::error::TenantError;
use crate::log::sqlite::alone::is_alone;
use crate::store::Store;
use crate::tenant::name;

const LOG: &str = "log.db";
const LOCK: &str = "tenant.lock";
const LOCK_OF_ALL: &str = ".tenants.lock";
const REMOVED: &str = ".removed-";

/// Whether a tenant has to be there, or has to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Existing,
    Any,
    New,
}

/// The folder of all tenants.
pub(crate) struct Folder {
    root: PathBuf,
}

/// An open log, and the lock that says so.
pub(crate) struct Admitted {
    pub(crate) store: Store,
    pub(crate) lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and removes what an interrupted removal left.
    pub(crate) fn open(root: &Path) -> Result<Self, TenantError> {
        fs::create_dir_all(root).map_err(failed("make the folder", root))?;
        let root = fs::canonicalize(root).map_err(failed("find the folder", root))?;
        let folder = Self { root };
        let turn = folder.turn()?;
        for entry in folder.entries()? {
            if entry.starts_with(REMOVED) {
                // What cannot be removed is in nobody's way.
                let _ = fs::remove_dir_all(folder.root.join(entry));
            }
        }
        drop(turn);
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one tenant, whose name was checked.
    pub(crate) fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The names of all tenants, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, TenantError> {
        let mut names = self.entries()?;
        names.retain(|entry| name::check(entry).is_ok() && matches!(self.is_there(entry), Ok(true)));
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a tenant's log, and makes it when that is wanted.
    pub(crate) fn admit(
        &self,
        name: &str,
        want: Want,
        builder: StoreBuilder,
    ) -> Result<Admitted, TenantError> {
        let turn = self.turn()?;
        let is_there = self.is_there(name)?;
        match (want, is_there) {
            (Want::New, true) => {
                return Err(TenantError::Exists {
                    name: name.to_owned(),
                });
            }
            (Want::Existing, false) => return Err(self.missing(name)),
            _ => {}
        }
        let folder = self.of(name);
        if !is_there {
            make_folder(&folder)?;
            // The name has to survive a power cut as long as the first append does.
            sync(&self.root)?;
        }
        let path = folder.join(LOCK);
        let lock = open_lock(&path)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TenantError::InUseElsewhere {
                    name: name.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        // A log is made under the lock of all, so that of two who want a new one exactly one makes it.
        let turn = Some(turn).filter(|_| !is_there);
        let outcome = builder.open(log_of(&folder));
        if outcome.is_err() && !is_there {
            // What is left of a tenant that did not come to be; with something else in it the folder stays.
            let _ = fs::remove_file(&path).and_then(|()| fs::remove_dir(&folder));
        }
        drop(turn);
        let store = outcome.map_err(|source| TenantError::Open {
            name: name.to_owned(),
            source,
        })?;
        Ok(Admitted { store, lock })
    }

    /// Removes a tenant with all its files. First it loses its name, so that of a removal that is cut off no half is seen.
    pub(crate) fn remove(&self, name: &str) -> Result<(), TenantError> {
        let turn = self.turn()?;
        if !self.is_there(name)? {
            return Err(self.missing(name));
        }
        let folder = self.of(name);
        self.refuse_in_use(name, &folder)?;
        let removed = (1_u64..)
            .map(|number| self.root.join(format!("{REMOVED}{name}-{number}")))
            .find(|path| path.symlink_metadata().is_err())
            .expect("there are more numbers than folders");
        fs::rename(&folder, &removed).map_err(failed("remove", &folder))?;
        sync(&self.root)?;
        drop(turn);
        fs::remove_dir_all(&removed).map_err(failed("remove", &removed))
    }

    fn refuse_in_use(&self, name: &str, folder: &Path) -> Result<(), TenantError> {
        let in_use = || TenantError::InUseElsewhere {
            name: name.to_owned(),
        };
        let path = folder.join(LOCK);
        match open_lock(&path)?.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        // Whoever opened the log by itself does not hold that lock.
        match is_alone(&log_of(folder)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(in_use()),
            Err(source) => Err(TenantError::Storage {
                name: name.to_owned(),
                source,
            }),
        }
    }

    /// Whether there is a log of this name. A link in its place would let two names share one.
    fn is_there(&self, name: &str) -> Result<bool, TenantError> {
        let folder = self.of(name);
        let log = log_of(&folder);
        for (path, is_right) in [
            (&folder, fs::Metadata::is_dir as fn(&_) -> _),
            (&log, fs::Metadata::is_file),
        ] {
            match path.symlink_metadata() {
                Ok(metadata) if is_right(&metadata) => {}
                Ok(metadata) => return Err(foreign(path, &metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(failed("look at", path)(error)),
            }
        }
        Ok(true)
    }

    fn missing(&self, name: &str) -> TenantError {
        TenantError::Missing {
            name: name.to_owned(),
            folder: self.root.clone(),
        }
    }

    /// The lock of all, as long as this is held.
    fn turn(&self) -> Result<File, TenantError> {
        let path = self.root.join(LOCK_OF_ALL);
        let lock = open_lock(&path)?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(lock)
    }

    /// What is in the folder, as far as it is text.
    fn entries(&self) -> Result<Vec<String>, TenantError> {
        let read = || -> io::Result<Vec<String>> {
            let mut entries = Vec::new();
            for entry in fs::read_dir(&self.root)? {
                entries.extend(entry?.file_name().into_string());
            }
            Ok(entries)
        };
        read().map_err(failed("read", &self.root))
    }
}

/// The path of the log in a tenant's folder.
pub(crate) fn log_of(folder: &Path) -> PathBuf {
    folder.join(LOG)
}

/// The path of a file beside a tenant's log.
pub(crate) fn file(folder: &Path, name: &str) -> Result<PathBuf, TenantError> {
    let is_taken = name == LOCK || name.starts_with(LOG);
    let problem = match name::check(name) {
        Ok(()) if is_taken => crate::error::NameProblem::Taken,
        Ok(()) => return Ok(folder.join(name)),
        Err(problem) => problem,
    };
    Err(TenantError::InvalidName {
        name: name::shown(name),
        problem,
    })
}

fn make_folder(folder: &Path) -> Result<(), TenantError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make the folder", folder)(error))
        }
        _ => Ok(()),
    }
}

fn open_lock(path: &Path) -> Result<File, TenantError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(failed("open", path))
}

/// Makes new names in a folder survive a power cut, where the system can.
fn sync(folder: &Path) -> Result<(), TenantError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        return synced.map_err(failed("sync", folder));
    }
    Ok(())
}

fn foreign(path: &Path, metadata: &fs::Metadata) -> TenantError {
    let kind = metadata.file_type();
    let found = match () {
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a folder",
        () if kind.is_file() => "a file",
        () => "something else",
    };
    TenantError::Foreign {
        path: path.to_owned(),
        found,
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> TenantError {
    let path = path.to_owned();
    move |source| TenantError::Folder {
        operation,
        path: path.clone(),
        source: Arc::new(source),
    }
}

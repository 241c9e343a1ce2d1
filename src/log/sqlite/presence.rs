//! By what others see that an opening of the log lives: a locked file in a folder beside the log.
//!
//! ```text
//! shop.db
//! shop.db-owners/
//!   6f1c...0a         locked by the store of this id for as long as its process lives; touched as a sign of life
//! ```
//!
//! The system frees the lock when the process ends, however it ends. A file whose lock is free is removed by whoever finds it. Ids
//! are random and never given again, so a file that is not there belongs to nobody who lives. The database's own file is
//! never opened here: closing it would drop SQLite's locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::StorageError;
use crate::log::owner::{InstanceId, Sign};
use crate::log::sqlite::connection::side_path;

/// How often a file is made anew that somebody who tidied up took away before it was locked.
const ATTEMPTS_MAX: usize = 16;

pub(super) struct Presence {
    folder: PathBuf,
    /// The own file, and the lock on it.
    held: Option<Held>,
}

struct Held {
    id: InstanceId,
    path: PathBuf,
    file: File,
}

impl Presence {
    pub(super) fn beside(log: &Path) -> Self {
        Self {
            folder: side_path(log, "-owners"),
            held: None,
        }
    }

    /// The own id, whose file is locked from now on. `make_id` gives random ids.
    pub(super) fn enter(
        &mut self,
        mut make_id: impl FnMut() -> Result<String, StorageError>,
    ) -> Result<InstanceId, StorageError> {
        if let Some(held) = &self.held {
            return Ok(Arc::clone(&held.id));
        }
        self.tidy();
        for _ in 0..ATTEMPTS_MAX {
            let id = make_id()?;
            if let Some(held) = self.hold(&id).map_err(failed("make the file of an owner"))? {
                return Ok(Arc::clone(&self.held.insert(held).id));
            }
        }
        let error = io::Error::other("it is removed again and again");
        Err(failed("make the file of an owner")(error))
    }

    /// Makes a file and locks it. Nothing: somebody who tidied up was faster.
    fn hold(&self, id: &str) -> io::Result<Option<Held>> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = self.folder.join(id);
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            // The last one to leave removes the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let id = id.into();
        Ok(fs::exists(&path)?.then_some(Held { id, path, file }))
    }

    /// Removes the files of those who have gone, and were not found by anybody since.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            // What cannot be removed is in nobody's way.
            let _ = remove_if_free(&entry.path());
        }
    }

    pub(super) fn beat(&mut self) -> Result<(), StorageError> {
        match &self.held {
            Some(held) => held
                .file
                .set_modified(SystemTime::now())
                .map_err(failed("touch the file of an owner")),
            None => Ok(()),
        }
    }

    pub(super) fn sign(&self, instance: &str) -> Result<Sign, StorageError> {
        remove_if_free(&self.folder.join(instance)).map_err(failed("look for the file of an owner"))
    }

    pub(super) fn leave(&mut self) {
        if let Some(Held { path, file, .. }) = self.held.take() {
            // Whoever finds it later removes it, and the folder with the last one.
            let _ = fs::remove_file(path);
            drop(file);
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Looks whether a file is locked, and removes it if it is not.
fn remove_if_free(path: &Path) -> io::Result<Sign> {
    // Reading is all that whoever only looks may be allowed to.
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sign::Gone),
        file => file?,
    };
    // Shared, so that those who look at the same time do not take each other for the owner.
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = fs::remove_file(path);
            Ok(Sign::Gone)
        }
        Err(TryLockError::WouldBlock) => {
            let touched = file.metadata()?.modified()?;
            Ok(Sign::Beat(match touched.duration_since(UNIX_EPOCH) {
                Ok(after) => after.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            }))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> StorageError {
    move |error| StorageError::new(operation, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &'static str) -> impl FnMut() -> Result<String, StorageError> {
        move || Ok(name.to_owned())
    }

    #[test]
    fn who_holds_its_file_lives_and_who_left_or_was_dropped_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let owners = folder.path().join("log.db-owners");
        let (mut one, mut two) = (Presence::beside(&log), Presence::beside(&log));
        assert_eq!(&*one.enter(ids("one")).unwrap(), "one");
        assert_eq!(&*one.enter(ids("other")).unwrap(), "one", "it has its id");
        two.enter(ids("two")).unwrap();
        let Sign::Beat(first) = two.sign("one").unwrap() else {
            panic!("it lives");
        };
        one.held.as_ref().unwrap().file.set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(two.sign("one").unwrap(), Sign::Beat(0));
        one.beat().unwrap();
        assert!(matches!(two.sign("one").unwrap(), Sign::Beat(beat) if beat >= first));
        assert_eq!(two.sign("three").unwrap(), Sign::Gone);
        // As a process that was killed leaves it.
        fs::write(owners.join("dead"), "").unwrap();
        assert_eq!(two.sign("dead").unwrap(), Sign::Gone);
        assert!(!owners.join("dead").exists());
        drop(one);
        assert_eq!(two.sign("one").unwrap(), Sign::Gone);
        two.leave();
        assert!(!owners.exists(), "the last one removes the folder");
    }

    #[test]
    fn what_was_left_is_tidied_up_and_what_is_held_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let owners = folder.path().join("log.db-owners");
        let mut one = Presence::beside(&log);
        one.enter(ids("one")).unwrap();
        fs::write(owners.join("dead"), "").unwrap();
        let mut two = Presence::beside(&log);
        two.enter(ids("two")).unwrap();
        assert!(!owners.join("dead").exists());
        assert!(matches!(two.sign("one").unwrap(), Sign::Beat(_)));
    }
}

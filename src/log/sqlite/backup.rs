//! A copy of the file, made by SQLite's online backup while the log is written to.
//!
//! The source is read in one snapshot: without it, every commit of somebody else would make SQLite begin anew, and a backup of
//! a busy log would never end. The copy is made beside the target, under a name that ends in `.partial`, and gets its name
//! when it is complete and synced; so a target that is there is a whole backup.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::error::{BackupError, StorageError};
use crate::log::backup::{BackedUp, BackupProgress};
use crate::log::page::More;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::prune::extent;
use crate::log::sqlite::statement::Snapshot;

/// How many pages are copied before somebody is asked whether to go on: a megabyte.
const STEP_PAGES: i32 = 256;

/// Copies the log to a target that does not exist yet.
pub(super) fn backup_to(
    source: &Connection,
    target: &Path,
    tell: &mut dyn FnMut(BackupProgress) -> More,
) -> Result<BackedUp, BackupError> {
    let of_target = |source: io::Error| BackupError::Target {
        target: target.to_owned(),
        source: Arc::new(source),
    };
    refuse_existing(target)?;
    let partial = Partial::beside(target);
    partial.remove().map_err(of_target)?;
    let backed_up = copy(source, &partial.path, tell).map_err(|error| match error {
        BackupError::Storage(error) if !parent_exists(target) => {
            of_target(io::Error::new(io::ErrorKind::NotFound, error))
        }
        error => error,
    })?;
    // Somebody else may have made one meanwhile.
    refuse_existing(target)?;
    fs::rename(&partial.path, target).map_err(of_target)?;
    sync_folder(target);
    Ok(backed_up)
}

fn refuse_existing(target: &Path) -> Result<(), BackupError> {
    if target.symlink_metadata().is_ok() {
        let target = target.to_owned();
        return Err(BackupError::TargetExists { target });
    }
    Ok(())
}

fn parent_exists(target: &Path) -> bool {
    match target.parent() {
        Some(parent) if parent != Path::new("") => parent.is_dir(),
        _ => true,
    }
}

fn copy(
    source: &Connection,
    partial: &Path,
    tell: &mut dyn FnMut(BackupProgress) -> More,
) -> Result<BackedUp, BackupError> {
    let failed = storage("make a backup");
    let mut copy = Connection::open(partial).map_err(storage("open the target of the backup"))?;
    let _snapshot = Snapshot::begin(source).map_err(&failed)?;
    let head = extent(source).map_err(&failed)?.head;
    let page_bytes = source
        .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))
        .map_err(&failed)?
        .unsigned_abs();
    let backup = Backup::new(source, &mut copy).map_err(&failed)?;
    let pages = loop {
        let step = backup.step(STEP_PAGES).map_err(&failed)?;
        let progress = backup.progress();
        let pages = |count: i32| u64::from(count.unsigned_abs()) * page_bytes;
        let total_bytes = pages(progress.pagecount);
        match step {
            StepResult::Done => break total_bytes,
            StepResult::More => {}
            _ => return Err(target_is_locked().into()),
        }
        let copied_bytes = total_bytes - pages(progress.remaining).min(total_bytes);
        let progress = BackupProgress {
            copied_bytes,
            total_bytes,
        };
        if tell(progress) == More::No {
            return Err(BackupError::Closed);
        }
    };
    drop(backup);
    copy.close().map_err(|(_, error)| failed(error))?;
    Ok(BackedUp { head, bytes: pages })
}

fn target_is_locked() -> StorageError {
    let problem = "the target is locked; is another backup being made there?";
    StorageError::new("make a backup", io::Error::other(problem)).busy()
}

/// The file in which the copy is made. It goes away unless it became the backup.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn beside(target: &Path) -> Self {
        Self {
            path: with_suffix(target, ".partial"),
        }
    }

    /// Removes what an earlier backup left when its process died.
    fn remove(&self) -> io::Result<()> {
        let journal = with_suffix(&self.path, "-journal");
        for path in [&self.path, &journal] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is left of it when it became the backup, and nothing can be done when it stays.
        let _ = self.remove();
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes the new name survive a power cut, where the system can.
fn sync_folder(target: &Path) {
    let folder = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "the folder of the backup could not be synced");
    }
}

//! The contract is enough: a log written with the public interface alone, in memory and in a file of JSON lines, keeps every promise.
//!
//! It is as small as such a log can be, and is meant to be read by whoever writes one: `state` is what the log holds and how it changes,
//! `file` where that is kept, `writer` and `reader` the two halves that the contract asks for.

mod file;
mod reader;
mod state;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use millstream::conformance::{Capability, Subject, Tampering, TestLog};
use millstream::contract::StoredCursor;
use millstream::{BoxError, OpenError, StorageError, Store, StoreBuilder};
use tempfile::TempDir;

use crate::file::{JsonLines, corrupt};
use crate::reader::Reader;
use crate::state::Change;
use crate::writer::Writer;

/// Opens a store on the file at this path. Stores of one process that share it get the same `JsonLines`.
fn open(log: &Arc<JsonLines>, builder: StoreBuilder) -> Result<Store, OpenError> {
    builder.open_log(|decoder| {
        let reader = Reader::new(Arc::clone(log), decoder.clone());
        Ok((Writer::new(Arc::clone(log), decoder), reader))
    })
}

/// A file in a folder of its own, which is read anew whenever no store has it open.
struct InAFolder {
    folder: TempDir,
    opened: Mutex<Weak<JsonLines>>,
}

impl InAFolder {
    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().expect("makes a folder"),
            opened: Mutex::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log.jsonl")
    }

    fn log(&self) -> Result<Arc<JsonLines>, StorageError> {
        let mut opened = self.opened.lock().expect("nobody panics with it");
        if let Some(log) = opened.upgrade() {
            return Ok(log);
        }
        let log = Arc::new(JsonLines::open(&self.path())?);
        *opened = Arc::downgrade(&log);
        Ok(log)
    }
}

impl TestLog for InAFolder {
    fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
        open(&self.log()?, builder)
    }

    fn has(&self, _: Capability) -> bool {
        true
    }

    fn tamper(&self, change: Tampering<'_>) -> Result<(), BoxError> {
        let log = self.log()?;
        let mut transaction = log.begin();
        let cursor = |name: &str| -> Result<StoredCursor, BoxError> {
            let text = transaction
                .state
                .cursors
                .get(name)
                .ok_or("there is no such stream")?;
            Ok(StoredCursor::from_text(text)?)
        };
        let change = match change {
            Tampering::RemoveEventsAfter(after) => Change::RemoveEventsAfter(after),
            Tampering::MoveCursor { stream, position } => Change::PutCursor {
                name: stream.to_owned(),
                row: cursor(stream)?.placed_at(position).to_text(),
            },
            Tampering::GiveCursor { stream, log_id } => Change::PutCursor {
                name: stream.to_owned(),
                row: cursor(stream)?.of_log(log_id).to_text(),
            },
            other => return Err(format!("not known here: {other:?}").into()),
        };
        transaction.make(change);
        log.commit(transaction)?;
        Ok(())
    }
}

fn subject() -> Subject {
    Subject::new(InAFolder::empty())
}

mod proofs {
    millstream::conformance_tests!(crate::subject(), shared, tampered);
}

mod guards {
    millstream::conformance_guards!(crate::subject());
}

#[tokio::test]
async fn what_is_in_the_file_is_readable_and_a_damaged_line_is_told() {
    let folder = InAFolder::empty();
    let store = folder.open(Store::builder()).expect("opens the log");
    let event = millstream::NewEvent::new("order-placed", 7).tag("order:7");
    store.append([event]).await.expect("appends");
    store.close().await.expect("closes");
    drop(store);
    let text = std::fs::read_to_string(folder.path()).expect("reads the file");
    assert!(text.contains(r#""event_type":"order-placed""#), "{text}");
    std::fs::write(folder.path(), format!("{text}{{\n")).expect("writes the file");
    let error = folder.open(Store::builder()).expect_err("the line is damaged");
    assert!(error.to_string().contains("line"), "{error}");
    assert!(corrupt(3, "x").to_string().contains("line 3"));
}

#[tokio::test]
async fn what_such_a_log_cannot_do_is_refused_and_said() {
    let folder = InAFolder::empty();
    let store = folder.open(Store::builder()).expect("opens the log");
    let target = folder.folder.path().join("copy.db");
    let copied = store
        .copy_to(&target)
        .await
        .expect_err("it is no log of this crate");
    assert!(copied.to_string().contains("cannot be copied"), "{copied}");
    let backup = store
        .backup_to(&target)
        .await
        .expect_err("it has no file to copy");
    assert!(matches!(backup, millstream::BackupError::NotAFile), "{backup}");
    assert!(store.verify().await.is_err());
    let statistics = store.statistics().await.expect("counts");
    assert_eq!((statistics.events, statistics.head), (0, 0));
}

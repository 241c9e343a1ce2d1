//! The logs of this crate, as the kit is told of them.

use std::path::PathBuf;

use millstream::conformance::{Capability, Subject, Tampering, TestLog};
use millstream::{BoxError, OpenError, Store, StoreBuilder};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::common::postgres::{Database, database};

pub(crate) struct InMemory;

/// A log in a file of a folder of its own.
pub(crate) struct InAFile(TempDir);

/// A log in a schema of its own.
pub(crate) struct OnAServer(pub(crate) Database);

pub(crate) fn in_memory() -> Subject {
    Subject::new(InMemory)
}

pub(crate) fn in_a_file() -> Subject {
    Subject::new(InAFile::new())
}

/// Nothing, when there is no server; then the test says that it is skipped.
pub(crate) fn on_a_server() -> Option<Subject> {
    Some(Subject::new(OnAServer(database()?)))
}

impl TestLog for InMemory {
    fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
        builder.in_memory()
    }

    fn has(&self, _: Capability) -> bool {
        false
    }
}

impl InAFile {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("makes a folder"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("log.db")
    }

    /// Changes tables past the store: how many rows, or what the database says against it.
    pub(crate) fn execute(&self, sql: &str) -> Result<usize, String> {
        let file = Connection::open(self.path()).expect("opens the file");
        file.execute(sql, []).map_err(|error| error.to_string())
    }
}

impl TestLog for InAFile {
    fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
        builder.open(self.path())
    }

    fn has(&self, _: Capability) -> bool {
        true
    }

    fn tamper(&self, change: Tampering<'_>) -> Result<(), BoxError> {
        expect_rows(change, self.execute(&sql(change)))
    }
}

impl TestLog for OnAServer {
    fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
        self.0.try_open(builder)
    }

    fn has(&self, _: Capability) -> bool {
        true
    }

    fn tamper(&self, change: Tampering<'_>) -> Result<(), BoxError> {
        expect_rows(change, self.0.execute(&sql(change)))
    }
}

fn sql(change: Tampering<'_>) -> String {
    match change {
        Tampering::RemoveEventsAfter(after) => format!("DELETE FROM event WHERE sequence > {after}"),
        Tampering::MoveCursor { stream, position } => {
            format!("UPDATE cursor SET position = {position} WHERE name = '{stream}'")
        }
        Tampering::GiveCursor { stream, log_id } => {
            format!("UPDATE cursor SET log_id = '{log_id}' WHERE name = '{stream}'")
        }
        other => panic!("not known here: {other:?}"),
    }
}

/// A change of no row is none.
fn expect_rows(change: Tampering<'_>, changed: Result<usize, String>) -> Result<(), BoxError> {
    match changed? {
        0 => Err(format!("{change:?} changes nothing").into()),
        _ => Ok(()),
    }
}

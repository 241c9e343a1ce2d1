//! Faults that event stores had, one test each: what survives them here.

#[path = "../common/mod.rs"]
mod common;
mod cursors;
mod failures;
mod files;
mod handlers;
mod keys;
mod live;
mod queries;
mod replays;
mod runtimes;
mod steering;

use std::path::PathBuf;
use std::time::Duration;

use millstream::{Durability, Store, StoreBuilder};
use rusqlite::Connection;
use tempfile::TempDir;

/// A place for a log that goes away with the test.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log.db")
    }

    fn open(&self) -> Store {
        self.open_with(Store::builder())
    }

    fn open_with(&self, builder: StoreBuilder) -> Store {
        builder.durability(Durability::Relaxed).open(self.path()).unwrap()
    }

    /// The file by other means than the store.
    fn by_hand(&self) -> Connection {
        let file = Connection::open(self.path()).unwrap();
        file.busy_timeout(Duration::from_secs(5)).unwrap();
        file
    }
}

/// What a handler holds that panics when it is dropped, unless a panic is under way.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "in the drop");
    }
}

/// Writes events into the file by hand, in batches of `batch`, from the first sequence to the last.
fn write_by_hand(file: &Connection, event_type: &str, range: std::ops::RangeInclusive<i64>, batch: i64) {
    file.execute(
        "INSERT OR IGNORE INTO event_type (name) VALUES (?1)",
        [event_type],
    )
    .unwrap();
    let count = range.end() - range.start() + 1;
    let written = file.execute(
        "WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < ?2 - 1)
         INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, payload)
         SELECT ?1 + n, n % ?4, ?4, 1, (SELECT id FROM event_type WHERE name = ?3), '{}' FROM number",
        rusqlite::params![range.start(), count, event_type, batch],
    );
    assert_eq!(written.unwrap() as i64, count);
}

//! A log under test, which can be opened, and opened again.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use millstream::internals::{FaultPoint, Sabotage, with_broken_log, with_faults};
use millstream::{Store, StoreBuilder};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::common::postgres::{Database, database};

/// Which log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Sqlite,
    Postgres,
    Broken(Sabotage),
}

/// One log, for one test.
pub(crate) struct Subject {
    kind: Kind,
    folder: TempDir,
    /// Where a log on a server lies.
    database: Option<Database>,
    /// The store of a log in memory, which ends with it.
    store: OnceLock<Store>,
    wake_ups: WakeUps,
}

/// What becomes of the bus's wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WakeUps {
    Arrive,
    AreLost { poll_interval: Duration },
}

impl Subject {
    pub(crate) fn memory() -> Self {
        Self::new(Kind::Memory)
    }

    pub(crate) fn sqlite() -> Self {
        Self::new(Kind::Sqlite)
    }

    /// Nothing, when there is no server; then the test says that it is skipped.
    pub(crate) fn postgres() -> Option<Self> {
        let database = database()?;
        Some(Self {
            database: Some(database),
            ..Self::new(Kind::Postgres)
        })
    }

    pub(crate) fn broken(sabotage: Sabotage) -> Self {
        Self::new(Kind::Broken(sabotage))
    }

    /// Loses every wake-up, whatever the test says.
    pub(crate) fn losing_wake_ups(mut self, poll_interval: Duration) -> Self {
        self.wake_ups = WakeUps::AreLost { poll_interval };
        self
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            folder: tempfile::tempdir().expect("makes a folder"),
            database: None,
            store: OnceLock::new(),
            wake_ups: WakeUps::Arrive,
        }
    }

    /// The file of a log that has one.
    pub(crate) fn path(&self) -> PathBuf {
        assert_eq!(self.kind, Kind::Sqlite, "only a file can be looked at by others");
        self.folder.path().join("log.db")
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("only a log on a server has one")
    }

    /// Changes the tables of a log, past the store: how many rows, or what the database says against it.
    pub(crate) fn execute(&self, sql: &str) -> Result<usize, String> {
        match self.kind {
            Kind::Postgres => self.database().execute(sql),
            _ => {
                let file = Connection::open(self.path()).expect("opens the file");
                file.execute(sql, []).map_err(|error| error.to_string())
            }
        }
    }

    /// A number that stands in the tables of a log.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        match self.kind {
            Kind::Postgres => self.database().number(sql),
            _ => {
                let file = Connection::open(self.path()).expect("opens the file");
                file.query_row(sql, [], |row| row.get(0)).expect("there is a row")
            }
        }
    }

    /// Opens the log with default options.
    pub(crate) fn open(&self) -> Store {
        self.open_with(|builder| builder)
    }

    /// Opens the log. A log in memory keeps the options it was opened with first.
    pub(crate) fn open_with(&self, options: impl FnOnce(StoreBuilder) -> StoreBuilder) -> Store {
        self.open_faulty(options, |_| false)
    }

    /// Opens the log with a hook at the failure points.
    pub(crate) fn open_faulty(
        &self,
        options: impl FnOnce(StoreBuilder) -> StoreBuilder,
        hook: impl Fn(FaultPoint) -> bool + Send + Sync + 'static,
    ) -> Store {
        let loses_wake_ups = self.wake_ups != WakeUps::Arrive;
        let mut builder = options(Store::builder());
        if let WakeUps::AreLost { poll_interval } = self.wake_ups {
            builder = builder.poll_interval(poll_interval);
        }
        let builder = with_faults(builder, move |point| {
            hook(point) || (loses_wake_ups && point == FaultPoint::Wake)
        });
        let in_memory = |builder: StoreBuilder| {
            let open = || builder.in_memory().expect("opens in memory");
            self.store.get_or_init(open).clone()
        };
        match self.kind {
            Kind::Memory => in_memory(builder),
            Kind::Broken(sabotage) => in_memory(with_broken_log(builder, sabotage)),
            Kind::Sqlite => builder.open(self.path()).expect("opens the file"),
            Kind::Postgres => self.database().open(builder),
        }
    }

    /// Ends what runs, and opens the log again. A log in memory goes on with the same store, so that the test has to end
    /// its streams itself.
    pub(crate) async fn reopen(&self, store: Store) -> Store {
        if matches!(self.kind, Kind::Sqlite | Kind::Postgres) {
            store.close().await.expect("closes");
        }
        drop(store);
        self.open()
    }
}

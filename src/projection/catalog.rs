//! The file that says which read models there are: their versions, where each is built, and which one serves.
//!
//! A build is a database file beside this one. That a build begins to serve is one row of one transaction here, so readers see
//! the old one complete until then, and the new one from then on (R2).

pub(crate) mod requests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, TransactionBehavior, params};

use crate::clock::Timestamp;
use crate::error::{ReadModelError, StorageError};
use crate::log::sqlite::connection;
use crate::projection::catalog::requests::Watch;
use crate::projection::standing::{BuildRow, BuildState, Promoted, goes_on, older, serving};
use crate::sync::Mutex;

/// Marks the file as one of read models: "msrm".
const APPLICATION_ID: i64 = 0x6d73_726d;
/// The newest format that this version knows.
const FORMAT: i64 = 1;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE read_model (
    build INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- Beside this file.
    file TEXT NOT NULL UNIQUE,
    -- 'beside' the one that serves, 'serving', or 'retired': its file is to be removed.
    state TEXT NOT NULL CHECK (state IN ('beside', 'serving', 'retired')),
    created_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX read_model_serving ON read_model (name) WHERE state = 'serving';
CREATE INDEX read_model_name ON read_model (name, version);
-- What was asked of read models, also from other processes, and what became of it.
CREATE TABLE request (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    request TEXT NOT NULL,
    -- 'asked', 'begun', 'cancelled' while it is under way, 'done' or 'failed'.
    state TEXT NOT NULL,
    error TEXT,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    events_per_second REAL NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL
);
CREATE INDEX request_state ON request (state) WHERE state = 'asked';
";

pub(crate) struct Catalog {
    path: PathBuf,
    /// Connections that nobody uses.
    idle: Mutex<Vec<Connection>>,
    watch: Mutex<Option<Watch>>,
}

impl Catalog {
    pub(crate) fn open(path: &Path) -> Result<Self, ReadModelError> {
        let failed = storage("open the file of read models");
        let catalog = Self {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
            watch: Mutex::new(None),
        };
        let mut connection = catalog
            .connect()
            .map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => foreign(path, "it is not an SQLite database"),
                _ => failed(error).into(),
            })?;
        check(&connection, path)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(&failed)?;
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        // Another process may have made it meanwhile.
        if pragma(&tx, "application_id").map_err(&failed)? == 0 {
            tx.execute_batch(SCHEMA).map_err(&failed)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)
                .map_err(&failed)?;
            tx.pragma_update(None, "user_version", FORMAT).map_err(&failed)?;
        }
        tx.commit().map_err(&failed)?;
        catalog.idle.lock().push(connection);
        Ok(catalog)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    }

    /// Does something with a connection that nobody else uses.
    fn with<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadModelError> {
        let idle = self.idle.lock().pop();
        let done = match idle {
            Some(connection) => Ok(connection),
            None => self.connect(),
        }
        .and_then(|mut connection| {
            let done = work(&mut connection)?;
            self.idle.lock().push(connection);
            Ok(done)
        });
        Ok(done.map_err(storage(operation))?)
    }

    /// The same in a transaction that writes.
    fn write<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadModelError> {
        self.with(operation, |connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a build's file is.
    pub(crate) fn file_of(&self, row: &BuildRow) -> PathBuf {
        self.path.with_file_name(&row.place)
    }

    /// All builds that are not retired, by name and version.
    pub(crate) fn builds(&self) -> Result<Vec<BuildRow>, ReadModelError> {
        self.with("read the list of read models", |connection| {
            rows(connection, "state != 'retired' ORDER BY name, version, build", [])
        })
    }

    /// The build that serves a read model.
    pub(crate) fn serving(&self, name: &str) -> Result<Option<BuildRow>, ReadModelError> {
        self.with("look up a read model", |connection| {
            // By the index `read_model_serving`.
            let found = rows(connection, "name = ?1 AND state = 'serving'", [name])?;
            Ok(found.into_iter().next())
        })
    }

    /// The build with which a version goes on: the one that serves, or the one beside it. When there is none it is made: the first of
    /// its name serves from the start, any other is built beside. What a rebuild left behind is retired.
    pub(crate) fn claim(&self, name: &str, version: u32) -> Result<BuildRow, ReadModelError> {
        let claimed = self.write("register a read model", |connection| {
            // By the index `read_model_name`.
            let known = rows(
                connection,
                "name = ?1 AND state != 'retired' ORDER BY build",
                [name],
            )?;
            let goes_on = match goes_on(&known, version) {
                Ok(goes_on) => goes_on,
                Err(serving) => return Ok(Err(serving)),
            };
            if let Some(goes_on) = goes_on {
                connection.execute(
                    "UPDATE read_model SET state = 'retired'
                     WHERE name = ?1 AND version = ?2 AND build != ?3 AND state = 'beside'",
                    params![name, version, goes_on.build],
                )?;
                if goes_on.state == BuildState::Serving {
                    requests::end_left(connection, name)?;
                }
                return Ok(Ok(goes_on.clone()));
            }
            let state = match serving(&known) {
                None => BuildState::Serving,
                Some(_) => BuildState::Beside,
            };
            self.insert(connection, name, version, state).map(Ok)
        })?;
        claimed.map_err(|serving| older(name, version, serving))
    }

    /// The build that `claim` would go on with, if there is one. Nothing is changed.
    pub(crate) fn claimable(&self, name: &str, version: u32) -> Result<Option<BuildRow>, ReadModelError> {
        let known = self.with("look up a read model", |connection| {
            // By the index `read_model_name`.
            rows(
                connection,
                "name = ?1 AND state != 'retired' ORDER BY build",
                [name],
            )
        })?;
        match goes_on(&known, version) {
            Ok(row) => Ok(row.cloned()),
            Err(serving) => Err(older(name, version, serving)),
        }
    }

    /// A new build of a version, beside the one that there is.
    pub(crate) fn make(&self, name: &str, version: u32) -> Result<BuildRow, ReadModelError> {
        self.write("begin to rebuild a read model", |connection| {
            self.insert(connection, name, version, BuildState::Beside)
        })
    }

    /// Lets a build serve, and retires all older ones of its name: one step for all readers. Nothing is changed when the build
    /// was retired meanwhile.
    pub(crate) fn promote(&self, row: &BuildRow) -> Result<Promoted, ReadModelError> {
        self.write("let a read model serve", |connection| {
            match state_of(connection, row.build)? {
                Some(BuildState::Serving) => return Ok(Promoted::Before),
                Some(BuildState::Beside) => {}
                Some(BuildState::Retired) | None => return Ok(Promoted::No),
            }
            connection.execute(
                "UPDATE read_model SET state = 'retired'
                 WHERE name = ?1 AND build != ?2 AND (state = 'serving' OR version <= ?3)",
                params![row.name, row.build, row.version],
            )?;
            connection.execute(
                "UPDATE read_model SET state = 'serving' WHERE build = ?1",
                [row.build],
            )?;
            Ok(Promoted::Now)
        })
    }

    /// A build that did not come to its end is not wanted any more.
    pub(crate) fn retire(&self, build: i64) -> Result<(), ReadModelError> {
        self.write("give up a build of a read model", |connection| {
            connection.execute(
                "UPDATE read_model SET state = 'retired' WHERE build = ?1 AND state = 'beside'",
                [build],
            )?;
            Ok(())
        })
    }

    /// Whether a build is retired, or gone.
    pub(crate) fn is_retired(&self, build: i64) -> Result<bool, ReadModelError> {
        self.with("look up a build of a read model", |connection| {
            let state = state_of(connection, build)?;
            Ok(state.is_none_or(|state| state == BuildState::Retired))
        })
    }

    /// Removes the files of retired builds, as far as they can be removed. What cannot be is tried the next time.
    pub(crate) fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            tracing::warn!(file = %self.path.display(), %error, "retired read models could not be removed, it is tried again later");
        }
    }

    fn try_sweep(&self) -> Result<(), ReadModelError> {
        let operation = "remove retired read models";
        let retired = self.with(operation, |connection| rows(connection, "state = 'retired'", []))?;
        for row in retired {
            let file = self.file_of(&row);
            if let Err(error) = remove(&file) {
                tracing::debug!(file = %file.display(), %error, "a retired read model is still held");
                continue;
            }
            self.write(operation, |connection| {
                connection.execute("DELETE FROM read_model WHERE build = ?1", [row.build])
            })?;
            tracing::info!(name = %row.name, version = row.version, "a retired read model was removed");
        }
        Ok(())
    }

    fn insert(
        &self,
        connection: &Connection,
        name: &str,
        version: u32,
        state: BuildState,
    ) -> rusqlite::Result<BuildRow> {
        // No number is given twice, so a file that could not be removed is in nobody's way.
        let build: i64 = connection.query_row(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'read_model'), 0) + 1",
            [],
            |row| row.get(0),
        )?;
        let file = file_name(&self.path, name, version, build);
        connection.execute(
            "INSERT INTO read_model (build, name, version, file, state, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![build, name, version, file, state.as_str(), Timestamp::now().as_micros()],
        )?;
        Ok(BuildRow {
            build,
            name: name.to_owned(),
            version,
            place: file,
            state,
        })
    }
}

fn foreign(path: &Path, found: &str) -> ReadModelError {
    ReadModelError::ForeignFile {
        path: path.to_owned(),
        found: found.to_owned(),
    }
}

/// Refuses a file that is something else.
fn check(connection: &Connection, path: &Path) -> Result<(), ReadModelError> {
    let failed = storage("open the file of read models");
    let application = pragma(connection, "application_id").map_err(&failed)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(&failed)?;
    match application {
        APPLICATION_ID => {}
        0 if tables == 0 => return Ok(()),
        _ => return Err(foreign(path, "it is a database of something else")),
    }
    let format: i64 = pragma(connection, "user_version").map_err(&failed)?;
    if format > FORMAT {
        return Err(ReadModelError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn rows(
    connection: &Connection,
    condition: &'static str,
    parameters: impl Params,
) -> rusqlite::Result<Vec<BuildRow>> {
    let asked = format!("SELECT build, name, version, file, state FROM read_model WHERE {condition}");
    connection
        .prepare_cached(&asked)?
        .query_map(parameters, row)?
        .collect()
}

fn state_of(connection: &Connection, build: i64) -> rusqlite::Result<Option<BuildState>> {
    let state: Option<String> = connection
        .prepare_cached("SELECT state FROM read_model WHERE build = ?1")?
        .query_row([build], |row| row.get(0))
        .optional()?;
    Ok(state.as_deref().and_then(BuildState::parse))
}

/// How a build's file is called: so that a person finds it, and beside that unique by its number. Of the name, only what is safe
/// in every file system.
fn file_name(path: &Path, name: &str, version: u32, build: i64) -> String {
    let stem = path.file_stem().map_or_else(
        || "read-models".into(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let slug: String = name.chars().take(40).map(safe).collect();
    format!("{stem}.{slug}-{version}.{build}.db")
}

fn row(row: &Row<'_>) -> rusqlite::Result<BuildRow> {
    let state: String = row.get(4)?;
    Ok(BuildRow {
        build: row.get(0)?,
        name: row.get(1)?,
        version: row.get(2)?,
        place: row.get(3)?,
        state: BuildState::parse(&state).unwrap_or(BuildState::Retired),
    })
}

/// Removes a database with what belongs to it. The database goes first: without it the others mean nothing.
fn remove(file: &Path) -> std::io::Result<()> {
    let beside = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    for path in [file.to_owned(), beside("-wal"), beside("-shm")] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Names the operation that SQLite could not do.
pub(crate) fn storage(operation: &'static str) -> impl Fn(rusqlite::Error) -> StorageError {
    move |error| connection::storage(operation)(error).of("the read models")
}

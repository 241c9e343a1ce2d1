//! How the file is opened.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{OpenError, StorageError};
use crate::log::opening::{Absent, Durability};

impl Durability {
    /// The pragma for a commit that is to be as durable as the store says.
    pub(super) fn pragma(self) -> &'static str {
        match self {
            Self::Full => "PRAGMA synchronous=FULL",
            Self::Relaxed => ORDERED,
        }
    }
}

/// The pragma for a commit that need not be synced.
pub(super) const ORDERED: &str = "PRAGMA synchronous=NORMAL";

/// How long a connection waits for another process that holds the file.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// For so long whoever waits stays awake, and looks every few microseconds whether the file is free: another process holds it for as long
/// as a commit takes, a tenth of a millisecond, and is back soon after. SQLite itself would sleep for a millisecond at first and for a
/// hundred later, and find that process at work nearly every time.
const AWAKE_MAX: Duration = Duration::from_micros(500);
const LOOK_EVERY: Duration = Duration::from_micros(5);
/// Later the pauses are a part of what was waited until then, up to a bound.
const PAUSE_PART: u32 = 8;
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 64;

pub(super) fn open_writer(
    path: &Path,
    durability: Durability,
    absent: Absent,
) -> Result<Connection, OpenError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, absent == Absent::Made);
    let open = || {
        let connection = open(path, flags)?;
        connection.execute_batch(durability.pragma())?;
        // The writer takes the types' numbers from the very table that SQLite would look them up in for each row.
        connection.execute_batch("PRAGMA foreign_keys=0")?;
        // Asks for the file's content, so that a file which is no database is found out here.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::ForeignFile {
            path: path.to_owned(),
            found: String::from("it is not an SQLite database"),
        },
        Some(ErrorCode::CannotOpen) if absent == Absent::Refused && !path.exists() => {
            let path = path.to_owned();
            OpenError::Missing { path }
        }
        _ => storage("open the file")(error).into(),
    })
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = open(path, flags)?;
        connection.execute_batch("PRAGMA query_only=1")?;
        Ok(connection)
    };
    open().map_err(storage("open the file for reading"))
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, flags)?;
    settle(&mut connection)?;
    Ok(connection)
}

/// Sets a connection as all of them are, whatever was done with it.
pub(super) fn settle(connection: &mut Connection) -> rusqlite::Result<()> {
    be_patient(connection)?;
    // Otherwise SQLite plans a statement anew when the bounds of its ranges change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// Has a connection wait for those who hold the file, for as long as one waits.
pub(super) fn be_patient(connection: &mut Connection) -> rusqlite::Result<()> {
    let mut waits_since = Instant::now();
    // SQLite counts the calls for what it waits for.
    let look_again = move |calls: i32| {
        if calls == 0 {
            waits_since = Instant::now();
        }
        match rest(waits_since.elapsed()) {
            Rest::Awake => stay_awake(LOOK_EVERY),
            // Nobody says when another process has let go of the file. Whoever is woken by something else looks once more.
            Rest::Asleep(pause) => thread::park_timeout(pause),
            Rest::Over => return false,
        }
        true
    };
    connection.busy_handler(Some(look_again))
}

/// What is done between two looks whether the file is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Awake,
    Asleep(Duration),
    /// It was waited for long enough.
    Over,
}

/// What to do after one has waited for so long.
fn rest(waited: Duration) -> Rest {
    if waited < AWAKE_MAX {
        Rest::Awake
    } else if waited < BUSY_TIMEOUT {
        Rest::Asleep((waited / PAUSE_PART).min(PAUSE_MAX))
    } else {
        Rest::Over
    }
}

/// Leaves the processor to others who need it.
fn stay_awake(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        thread::yield_now();
    }
}

/// Names the operation that SQLite could not do.
pub(crate) fn storage(operation: &'static str) -> impl Fn(rusqlite::Error) -> StorageError {
    move |error| {
        let code = error.sqlite_error_code();
        let error = StorageError::new(operation, error);
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => error.busy(),
            Some(ErrorCode::DatabaseCorrupt) => error.damage(),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_looks_often_at_first_and_gives_up_after_its_time() {
        let (mut waited, mut looks_awake, mut looks) = (Duration::ZERO, 0, 0);
        loop {
            match rest(waited) {
                Rest::Awake => {
                    waited += LOOK_EVERY;
                    looks_awake += 1;
                }
                Rest::Asleep(pause) => {
                    assert!(
                        (Duration::from_micros(60)..=PAUSE_MAX).contains(&pause),
                        "{pause:?}"
                    );
                    waited += pause;
                    looks += 1;
                }
                Rest::Over => break,
            }
        }
        assert_eq!(looks_awake, 100, "while commits of others take their time");
        assert!(
            waited >= BUSY_TIMEOUT && looks < 1_200,
            "{looks} looks in {waited:?}"
        );
    }
}

//! Whether a file holds what millstream relies on: everything that `docs/format.md` says of it, looked at in one snapshot.
//!
//! Nothing is written and nothing is mended. In reading order: `walk` (the rows of `event` one after the other, as a pure
//! machine), `events` (which reads them), `fingerprint` (whether entries and events fit, in little memory), `index`, `cursors`, `keys`.

mod cursors;
mod events;
mod fingerprint;
mod index;
mod keys;
mod walk;

use rusqlite::{Connection, Row};

use crate::error::VerifyError;
use crate::log::page::More;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::statement::Snapshot;
use crate::log::verification::{Finding, Verification};

/// How many problems SQLite's own check lists.
const INTEGRITY_CHECK: &str = "PRAGMA integrity_check(100)";

/// The row of `log`.
#[derive(Clone, Debug)]
struct LogRow {
    log_id: String,
    removed_through: i64,
    pruned_through: i64,
    pruned_recorded_at: i64,
    indexed_through: i64,
}

/// Looks at everything, as long as `is_wanted` says so.
pub(super) fn verify(
    connection: &Connection,
    is_wanted: &mut dyn FnMut() -> More,
) -> Result<Verification, VerifyError> {
    let failed = storage("verify the file");
    let _snapshot = Snapshot::begin(connection).map_err(&failed)?;
    let mut verification = Verification::default();
    integrity(connection, &mut verification).map_err(&failed)?;
    let mut parts = |verification: &mut Verification| -> rusqlite::Result<More> {
        let Some(log) = log_row(connection, verification)? else {
            return Ok(More::Yes);
        };
        let Some(seen) = events::verify(connection, &log, verification, is_wanted)? else {
            return Ok(More::No);
        };
        check_log_row(&log, verification);
        cursors::verify(connection, &log, verification)?;
        keys::verify(connection, &log, verification)?;
        index::verify(connection, &log, seen, verification, is_wanted)
    };
    match parts(&mut verification) {
        Ok(More::Yes) => Ok(verification),
        Ok(More::No) => Err(VerifyError::Closed),
        // A page that cannot be read ends the look, and is what it found.
        Err(error) if is_damage(&error) => {
            let problem = format!("{error}; nothing beyond was looked at");
            verification.found(Finding::Storage { problem });
            Ok(verification)
        }
        Err(error) => Err(failed(error).into()),
    }
}

/// Whether an error is about what stands in the file, and not about reading it.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => {
            matches!(
                error.code,
                rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase
            )
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}

fn integrity(connection: &Connection, verification: &mut Verification) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(INTEGRITY_CHECK)?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => match row.get_ref(0)?.as_str() {
                Ok("ok") => {}
                Ok(problem) => verification.found(Finding::Storage {
                    problem: problem.replace('\n', "; "),
                }),
                Err(error) => return Err(error.into()),
            },
            Ok(None) => return Ok(()),
            Err(error) if is_damage(&error) => {
                let problem = error.to_string();
                verification.found(Finding::Storage { problem });
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

fn log_row(connection: &Connection, verification: &mut Verification) -> rusqlite::Result<Option<LogRow>> {
    let mut statement = connection.prepare(
        "SELECT log_id, removed_through, pruned_through, pruned_recorded_at, indexed_through FROM log",
    )?;
    let read = |row: &Row<'_>| {
        Ok(LogRow {
            log_id: row.get(0)?,
            removed_through: row.get(1)?,
            pruned_through: row.get(2)?,
            pruned_recorded_at: row.get(3)?,
            indexed_through: row.get(4)?,
        })
    };
    let rows: Vec<LogRow> = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
    if rows.len() != 1 {
        let problem = format!("there are {} rows, not one", rows.len());
        verification.found(Finding::LogRow { problem });
    }
    Ok(rows.into_iter().next())
}

/// What the row of `log` says of the events, whose head is known now.
fn check_log_row(log: &LogRow, verification: &mut Verification) {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let head = verification.head;
    let mut problems = Vec::new();
    if log.log_id.len() != 32 || !log.log_id.bytes().all(is_hex) {
        problems.push(format!(
            "the id {:?} is not 32 lower-case hexadecimal digits",
            log.log_id
        ));
    }
    for (name, value) in [
        ("removed_through", log.removed_through),
        ("pruned_through", log.pruned_through),
        ("indexed_through", log.indexed_through),
    ] {
        if u64::try_from(value).is_err() {
            problems.push(format!("{name} is {value}, which is less than 0"));
        }
    }
    if u64::try_from(log.indexed_through).is_ok_and(|through| through > head) {
        problems.push(format!(
            "indexed_through is {}, the log ends at {head}",
            log.indexed_through
        ));
    }
    for problem in problems {
        verification.found(Finding::LogRow { problem });
    }
}

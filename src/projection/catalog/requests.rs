//! Requests in the list of read models, and what became of them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;
use crate::error::ReadModelError;
use crate::projection::applier::blocking;
use crate::projection::catalog::{Catalog, pragma, storage};
use crate::projection::rebuilding::RebuildProgress;
use crate::projection::request::{
    Addressed, Cancelled, KEPT, LEFT, ModelRequest, RequestList, RequestReport, TAKEN_BACK, Version, Wanted,
};
use crate::projection::standing::addressed;

const COLUMNS: &str = "number, name, request, state, error, done, total, events_per_second";

/// When requests were looked for last.
pub(super) struct Watch {
    connection: Connection,
    /// The list's `data_version`, and for whom they were looked for.
    seen: (i64, Vec<Version>),
}

impl Catalog {
    /// Leaves a request. The numbers of requests grow.
    pub(crate) fn ask(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        self.write("leave a request", |connection| {
            insert(connection, name, request, "asked")
        })
    }

    /// Says that something was begun that nobody else asked for.
    pub(crate) fn begin_unasked(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        self.write("note what is under way", |connection| {
            insert(connection, name, request, "begun")
        })
    }

    /// The same as [`begin_asked`](Self::begin_asked), when somebody has changed the list since it was looked at for these versions.
    fn begin_news(&self, kept: Vec<Version>) -> Result<Vec<Addressed>, ReadModelError> {
        let failed = storage("look whether the list of read models has changed");
        let (connection, seen) = match self.watch.lock().take() {
            Some(watch) => (watch.connection, Some(watch.seen)),
            None => (self.connect().map_err(&failed)?, None),
        };
        let now = (pragma(&connection, "data_version").map_err(&failed)?, kept);
        let begun = match seen.as_ref() == Some(&now) {
            true => Vec::new(),
            false => self.begin_asked(&now.1)?,
        };
        // Behind what can fail: it is looked again then.
        *self.watch.lock() = Some(Watch {
            connection,
            seen: now,
        });
        Ok(begun)
    }

    /// What was asked of these versions and nobody has begun: it is begun now.
    fn begin_asked(&self, kept: &[Version]) -> Result<Vec<Addressed>, ReadModelError> {
        let open = self.with("look for requests", |connection| {
            reports(connection, "state = 'asked' ORDER BY number", [])
        })?;
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let addressed = addressed(open, &self.builds()?, kept);
        self.write("begin what was asked", |connection| {
            let mut begun = Vec::new();
            for one in addressed {
                // Of two processes one begins it.
                let is_ours = connection.execute(
                    "UPDATE request SET state = 'begun', updated_at = ?2 WHERE number = ?1 AND state = 'asked'",
                    params![one.request.number as i64, Timestamp::now().as_micros()],
                )?;
                begun.extend((is_ours == 1).then_some(one));
            }
            Ok(begun)
        })
    }

    /// Says how far a request is. Learns whether it is still wanted.
    fn go_on(&self, number: u64, progress: &RebuildProgress) -> Result<Wanted, ReadModelError> {
        self.write("note how far a rebuild is", |connection| {
            connection.execute(
                "UPDATE request SET done = ?2, total = ?3, events_per_second = ?4, updated_at = ?5
                 WHERE number = ?1 AND state = 'begun'",
                params![
                    number as i64,
                    progress.done as i64,
                    progress.total as i64,
                    progress.events_per_second,
                    Timestamp::now().as_micros()
                ],
            )?;
            let state: Option<String> = connection
                .query_row(
                    "SELECT state FROM request WHERE number = ?1",
                    [number as i64],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(Wanted::of(state.as_deref()))
        })
    }

    /// Somebody else is to do what was begun here, unless it was cancelled meanwhile.
    fn leave(&self, number: u64) -> Result<(), ReadModelError> {
        self.write("leave a request to somebody else", |connection| {
            connection.execute(
                "UPDATE request SET error = CASE state WHEN 'begun' THEN NULL ELSE ?2 END,
                 state = CASE state WHEN 'begun' THEN 'asked' ELSE 'failed' END, updated_at = ?3
                 WHERE number = ?1 AND state IN ('begun', 'cancelled')",
                params![number as i64, TAKEN_BACK, Timestamp::now().as_micros()],
            )?;
            Ok(())
        })
    }

    /// Says what a request came to, and forgets old ones. What is done has not failed, whoever gave it up meanwhile.
    pub(crate) fn end(&self, number: u64, error: Option<&str>) -> Result<(), ReadModelError> {
        self.write("note what a request came to", |connection| {
            let state = error.map_or("done", |_| "failed");
            connection.execute(
                "UPDATE request SET state = ?2, error = ?3, updated_at = ?4,
                 done = CASE WHEN ?3 IS NULL THEN total ELSE done END
                 WHERE number = ?1 AND (?3 IS NULL OR state != 'done')",
                params![number as i64, state, error, Timestamp::now().as_micros()],
            )?;
            connection.execute(
                "DELETE FROM request WHERE state IN ('done', 'failed') AND number NOT IN (
                     SELECT kept.number FROM request AS kept WHERE kept.name = request.name ORDER BY kept.number DESC LIMIT ?1
                 )",
                [KEPT],
            )?;
            Ok(())
        })
    }

    /// Takes a request back, or has what was begun given up.
    pub(crate) fn cancel(&self, number: u64) -> Result<Cancelled, ReadModelError> {
        self.write("cancel a request", |connection| {
            let changed = |from: &str, to: &str, error: Option<&str>| {
                connection.execute(
                    "UPDATE request SET state = ?3, error = ?4, updated_at = ?5 WHERE number = ?1 AND state = ?2",
                    params![number as i64, from, to, error, Timestamp::now().as_micros()],
                )
            };
            if changed("asked", "failed", Some(TAKEN_BACK))? == 1 {
                Ok(Cancelled::Unbegun)
            } else if changed("begun", "cancelled", None)? == 1 {
                Ok(Cancelled::Told)
            } else {
                Ok(Cancelled::TooLate)
            }
        })
    }

    pub(crate) fn report(&self, number: u64) -> Result<Option<RequestReport>, ReadModelError> {
        self.with("look for a request", |connection| {
            let found = reports(connection, "number = ?1", [number as i64])?;
            Ok(found.into_iter().next())
        })
    }

    /// The newest request of each model.
    pub(crate) fn newest(&self) -> Result<Vec<RequestReport>, ReadModelError> {
        self.with("look for requests", |connection| {
            reports(
                connection,
                "number IN (SELECT max(number) FROM request GROUP BY name) ORDER BY name",
                [],
            )
        })
    }
}

/// Nobody does any more what was begun of a model: whoever keeps what serves has just registered it.
pub(super) fn end_left(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE request SET state = 'failed', error = ?2, updated_at = ?3
         WHERE name = ?1 AND state IN ('begun', 'cancelled')";
    connection.execute(sql, params![name, LEFT, Timestamp::now().as_micros()])?;
    Ok(())
}

fn insert(connection: &Connection, name: &str, request: ModelRequest, state: &str) -> rusqlite::Result<u64> {
    connection.execute(
        "INSERT INTO request (name, request, state, updated_at) VALUES (?1, ?2, ?3, ?4)",
        params![name, request.as_str(), state, Timestamp::now().as_micros()],
    )?;
    Ok(connection.last_insert_rowid() as u64)
}

fn reports(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<RequestReport>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM request WHERE {condition}"))?
        .query_map(parameters, report)?
        .collect()
}

fn report(row: &Row<'_>) -> rusqlite::Result<RequestReport> {
    let (request, state): (String, String) = (row.get(2)?, row.get(3)?);
    let number = |index| row.get::<_, i64>(index).map(|number| number as u64);
    Ok(RequestReport::read(
        (number(0)?, row.get(1)?),
        (&request, &state, row.get(4)?),
        (number(5)?, number(6)?, row.get(7)?),
    ))
}

impl RequestList for Catalog {
    async fn take_up(self: &Arc<Self>, kept: Vec<Version>) -> Result<Vec<Addressed>, ReadModelError> {
        let catalog = Arc::clone(self);
        blocking(move || catalog.begin_news(kept)).await?
    }

    async fn note(
        self: &Arc<Self>,
        number: u64,
        progress: RebuildProgress,
    ) -> Result<Wanted, ReadModelError> {
        let catalog = Arc::clone(self);
        blocking(move || catalog.go_on(number, &progress)).await?
    }

    async fn give_back(self: &Arc<Self>, number: u64) -> Result<(), ReadModelError> {
        let catalog = Arc::clone(self);
        blocking(move || catalog.leave(number)).await?
    }

    async fn note_end(self: &Arc<Self>, number: u64, error: Option<String>) -> Result<(), ReadModelError> {
        let catalog = Arc::clone(self);
        blocking(move || catalog.end(number, error.as_deref())).await?
    }
}

//! What is asked of read models on the server from outside, also by another process: rows beside the list.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Transaction};

use crate::clock::Timestamp;
use crate::error::{ReadModelError, StorageError};
use crate::log::postgres::beside::{Purpose, ServerDesk};
use crate::projection::rebuilding::RebuildProgress;
use crate::projection::request::{
    Addressed, Cancelled, KEPT, LEFT, ModelRequest, RequestList, RequestReport, TAKEN_BACK, Version, Wanted,
};
use crate::projection::server::keeper::Tries;
use crate::projection::server::list;
use crate::projection::standing::addressed;
use crate::projection::status::ReadModelVersion;

const COLUMNS: &str = "number, name, request, state, error, done, total, events_per_second";

/// The values of a statement.
type Values<'a> = [&'a (dyn ToSql + Sync)];

/// The requests on a server, by a connection that is made with the first question.
pub(super) struct Requests {
    desk: ServerDesk,
    client: Mutex<Option<Client>>,
}

impl Requests {
    pub(super) fn new(desk: ServerDesk) -> Arc<Self> {
        Arc::new(Self {
            desk,
            client: Mutex::new(None),
        })
    }

    /// All builds that are not retired, by name and version.
    pub(super) async fn versions(&self) -> Result<Vec<ReadModelVersion>, ReadModelError> {
        let sql = "SELECT name, version, state = 'serving', coalesce(position, 0), namespace
            FROM millstream_model_build LEFT JOIN millstream_model USING (build)
            WHERE state <> 'retired' ORDER BY name, version, build";
        self.read("read the list of read models", sql, &[], |row| {
            Ok(ReadModelVersion {
                name: row.try_get(0)?,
                version: row.try_get::<_, i64>(1)? as u32,
                is_serving: row.try_get(2)?,
                position: row.try_get::<_, i64>(3)? as u64,
                file: row.try_get(4)?,
            })
        })
        .await
    }

    /// Leaves a request. The numbers of requests grow.
    pub(super) async fn ask(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        let left = self.insert("leave a request", name, request, "asked").await?;
        left.ok_or_else(|| ReadModelError::NoSuchModel {
            name: name.to_owned(),
        })
    }

    /// Says that something was begun that nobody else asked for. Nothing: the model was removed meanwhile.
    pub(super) async fn begin_unasked(
        &self,
        name: &str,
        request: ModelRequest,
    ) -> Result<Option<u64>, ReadModelError> {
        self.insert("note what is under way", name, request, "begun")
            .await
    }

    async fn insert(
        &self,
        operation: &'static str,
        name: &str,
        request: ModelRequest,
        state: &str,
    ) -> Result<Option<u64>, ReadModelError> {
        // Old ones are forgotten.
        let sql = "WITH forgotten AS (
                DELETE FROM millstream_model_request WHERE name = $1 AND state IN ('done', 'failed') AND number <= (
                    SELECT number FROM millstream_model_request WHERE name = $1 ORDER BY number DESC LIMIT 1 OFFSET $5
                )
            )
            INSERT INTO millstream_model_request (name, request, state, updated_at) SELECT $1, $2, $3, $4
            WHERE EXISTS (SELECT FROM millstream_model_build WHERE name = $1 AND state <> 'retired') RETURNING number";
        let (now, offset) = (Timestamp::now().as_micros(), KEPT - 1);
        let values: &Values<'_> = &[&name, &request.as_str(), &state, &now, &offset];
        let number = |row: &Row| row.try_get::<_, i64>(0).map(|number| number as u64);
        Ok(self.write(operation, sql, values, number).await?.pop())
    }

    pub(super) async fn report(&self, number: u64) -> Result<Option<RequestReport>, ReadModelError> {
        let sql = format!("SELECT {COLUMNS} FROM millstream_model_request WHERE number = $1");
        let values: &Values<'_> = &[&(number as i64)];
        let mut found = self.read("look for a request", &sql, values, report).await?;
        Ok(found.pop())
    }

    /// The newest request of each model.
    pub(super) async fn newest(&self) -> Result<Vec<RequestReport>, ReadModelError> {
        let sql = format!(
            "SELECT DISTINCT ON (name) {COLUMNS} FROM millstream_model_request ORDER BY name, number DESC"
        );
        self.read("look for requests", &sql, &[], report).await
    }

    /// Takes a request back, or has what was begun given up.
    pub(super) async fn cancel(&self, number: u64) -> Result<Cancelled, ReadModelError> {
        let sql = "UPDATE millstream_model_request SET
                state = CASE state WHEN 'asked' THEN 'failed' ELSE 'cancelled' END,
                error = CASE state WHEN 'asked' THEN $2 END, updated_at = $3
            WHERE number = $1 AND state IN ('asked', 'begun') RETURNING state = 'failed'";
        let values: &Values<'_> = &[&(number as i64), &TAKEN_BACK, &Timestamp::now().as_micros()];
        let cancelled = self.write("cancel a request", sql, values, |row| row.try_get(0));
        Ok(match cancelled.await?.pop() {
            Some(true) => Cancelled::Unbegun,
            Some(false) => Cancelled::Told,
            None => Cancelled::TooLate,
        })
    }

    async fn read<T>(
        &self,
        operation: &'static str,
        sql: &str,
        values: &Values<'_>,
        each: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, ReadModelError> {
        self.query(Purpose::Read, operation, sql, values, each).await
    }

    async fn write<T>(
        &self,
        operation: &'static str,
        sql: &str,
        values: &Values<'_>,
        each: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, ReadModelError> {
        self.query(Purpose::Write, operation, sql, values, each).await
    }

    async fn query<T>(
        &self,
        purpose: Purpose,
        operation: &'static str,
        sql: &str,
        values: &Values<'_>,
        each: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, ReadModelError> {
        let mut client = self.client.lock().await;
        let connected = self.connected(&mut client).await?;
        let answer = async {
            match purpose {
                Purpose::Read => connected.query(sql, values).await,
                Purpose::Write => {
                    let tx = connected.build_transaction().read_only(false).start().await?;
                    let rows = tx.query(sql, values).await?;
                    tx.commit().await?;
                    Ok(rows)
                }
            }
        };
        let rows = match self.desk.answer(operation, answer).await {
            Ok(Ok(rows)) => rows,
            // No tables are made before the first model: nothing was asked yet.
            Ok(Err(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
            failed => {
                // A connection on which something went wrong is not used again.
                *client = None;
                failed?.map_err(self.desk.failed(operation))?
            }
        };
        let rows: Result<Vec<T>, Error> = rows.iter().map(each).collect();
        Ok(rows.map_err(self.desk.failed(operation))?)
    }

    async fn connected<'a>(&self, client: &'a mut Option<Client>) -> Result<&'a mut Client, StorageError> {
        let kept = client.take().filter(|client| !client.is_closed());
        let connected = match kept {
            Some(kept) => kept,
            None => self.desk.connect(Purpose::Write).await?,
        };
        Ok(client.insert(connected))
    }
}

/// Says in the transaction that lets a rebuild serve that it is done. `false`: somebody has cancelled it.
pub(super) async fn done(tx: &Transaction<'_>, number: u64, events: u64) -> Result<bool, Error> {
    let sql = "UPDATE millstream_model_request SET state = 'done', done = $2, total = $2, updated_at = $3
        WHERE number = $1 AND state = 'begun'";
    let values: &Values<'_> = &[&(number as i64), &(events as i64), &Timestamp::now().as_micros()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Nobody does any more what was begun of a model: the transaction gives what serves to somebody else.
pub(super) async fn end_left(tx: &Transaction<'_>, name: &str) -> Result<(), Error> {
    let sql = "UPDATE millstream_model_request SET state = 'failed', error = $2, updated_at = $3
        WHERE name = $1 AND state IN ('begun', 'cancelled')";
    let values: &Values<'_> = &[&name, &LEFT, &Timestamp::now().as_micros()];
    tx.execute(sql, values).await.map(drop)
}

/// Nothing is asked any more of a model of which no version is left.
pub(super) async fn forget(tx: &Transaction<'_>, name: &str) -> Result<(), Error> {
    let sql = "DELETE FROM millstream_model_request WHERE name = $1
        AND NOT EXISTS (SELECT FROM millstream_model_build WHERE name = $1 AND state <> 'retired')";
    tx.execute(sql, &[&name]).await.map(drop)
}

fn report(row: &Row) -> Result<RequestReport, Error> {
    let number = |index| row.try_get::<_, i64>(index).map(|number| number as u64);
    Ok(RequestReport::read(
        (number(0)?, row.try_get(1)?),
        (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?),
        (number(5)?, number(6)?, row.try_get(7)?),
    ))
}

impl RequestList for Requests {
    async fn take_up(self: &Arc<Self>, kept: Vec<Version>) -> Result<Vec<Addressed>, ReadModelError> {
        let operation = "look for requests";
        // By the index `model_request_asked`. Mostly there is none, and nothing to write.
        let sql =
            format!("SELECT {COLUMNS} FROM millstream_model_request WHERE state = 'asked' ORDER BY number");
        let asked = self.read(operation, &sql, &[], report).await?;
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT build, name, version, namespace, state FROM millstream_model_build WHERE state <> 'retired'";
        let builds = self.read(operation, sql, &[], list::row).await?;
        let mut addressed = addressed(asked, &builds, &kept);
        let numbers: Vec<i64> = addressed.iter().map(|one| one.request.number as i64).collect();
        // Of two processes one begins it.
        let sql = "UPDATE millstream_model_request SET state = 'begun', updated_at = $2
            WHERE number = ANY($1) AND state = 'asked' RETURNING number";
        let values: &Values<'_> = &[&numbers, &Timestamp::now().as_micros()];
        let ours = self.write(operation, sql, values, |row| row.try_get::<_, i64>(0));
        let ours = ours.await?;
        addressed.retain(|one| ours.contains(&(one.request.number as i64)));
        Ok(addressed)
    }

    async fn note(
        self: &Arc<Self>,
        number: u64,
        progress: RebuildProgress,
    ) -> Result<Wanted, ReadModelError> {
        let sql = "WITH noted AS (
                UPDATE millstream_model_request SET done = $2, total = $3, events_per_second = $4, updated_at = $5
                WHERE number = $1 AND state = 'begun'
            )
            SELECT state FROM millstream_model_request WHERE number = $1";
        let (done, total) = (progress.done as i64, progress.total as i64);
        let now = Timestamp::now().as_micros();
        let values: &Values<'_> = &[&(number as i64), &done, &total, &progress.events_per_second, &now];
        let state = |row: &Row| row.try_get::<_, String>(0);
        let state = self
            .write("note how far a rebuild is", sql, values, state)
            .await?;
        Ok(Wanted::of(state.first().map(String::as_str)))
    }

    async fn give_back(self: &Arc<Self>, number: u64) -> Result<(), ReadModelError> {
        // Unless it was cancelled meanwhile.
        let sql = "UPDATE millstream_model_request SET error = CASE state WHEN 'begun' THEN NULL ELSE $2 END,
                state = CASE state WHEN 'begun' THEN 'asked' ELSE 'failed' END, updated_at = $3
            WHERE number = $1 AND state IN ('begun', 'cancelled')";
        let values: &Values<'_> = &[&(number as i64), &TAKEN_BACK, &Timestamp::now().as_micros()];
        let given_back = self.write("leave a request to somebody else", sql, values, |_| Ok(()));
        given_back.await.map(drop)
    }

    async fn note_end(self: &Arc<Self>, number: u64, error: Option<String>) -> Result<(), ReadModelError> {
        // What is done has not failed, whoever gave it up meanwhile.
        let sql = "UPDATE millstream_model_request SET error = $2::text, updated_at = $3,
                state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END
            WHERE number = $1 AND state <> 'done'";
        let values: &Values<'_> = &[&(number as i64), &error, &Timestamp::now().as_micros()];
        let mut tries = Tries::begin();
        loop {
            let noted = self.write("note what a request came to", sql, values, |_| Ok(()));
            match noted.await {
                // It may be repeated.
                Err(ReadModelError::Storage(error))
                    if error.is_retryable() && !tries.are_over(self.desk.limit()) => {}
                noted => return noted.map(drop),
            }
            tries.pause().await;
        }
    }
}

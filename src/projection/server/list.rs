//! The list of the builds of read models on the server: which one serves, and what becomes of the others. What changes it does so under
//! one lock, one process at a time.

use tokio_postgres::{Client, Error, Row, Transaction};

use crate::error::StorageError;
use crate::log::postgres::beside::{Purpose, ServerDesk, quoted};
use crate::projection::server::requests;
use crate::projection::server::tables::TABLES;
use crate::projection::standing::{BuildRow, BuildState, Promoted};

/// For how long whoever has the lock on the list waits for those who have rows or tables of a build locked: everybody else waits for the list.
pub(super) const LOCK_PATIENCE: &str = "SET LOCAL lock_timeout = '1s'";
/// What is done, for whoever reads an error.
const SWEEP: &str = "remove retired read models from the server";

/// The lock by which readers keep a build's tables from being removed, by the schema of its tables.
pub(super) const READ_LOCK: &str = "hashtext('millstream-read'), hashtext($1)";

/// Begins a transaction that holds the lock on the list.
pub(super) async fn begin<'a>(
    desk: &ServerDesk,
    client: &'a mut Client,
) -> Result<Transaction<'a>, StorageError> {
    let failed = desk.failed("lock the list of read models");
    let tx = client
        .build_transaction()
        .read_only(false)
        .start()
        .await
        .map_err(&failed)?;
    let lock = "SELECT pg_advisory_xact_lock(hashtext('millstream-model'), hashtext($1))";
    tx.execute(lock, &[&desk.schema()]).await.map_err(&failed)?;
    Ok(tx)
}

/// The same, and makes the tables that are not there yet.
pub(super) async fn begin_made<'a>(
    desk: &ServerDesk,
    client: &'a mut Client,
) -> Result<Transaction<'a>, StorageError> {
    let tx = begin(desk, client).await?;
    if !is_made(desk, &tx).await? {
        let made = tx.batch_execute(TABLES).await;
        made.map_err(desk.failed("make the list of read models"))?;
    }
    Ok(tx)
}

async fn is_made(desk: &ServerDesk, tx: &Transaction<'_>) -> Result<bool, StorageError> {
    // Asked of the catalogs as they are now: what a session once looked up by name it may remember.
    let asked = "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = $1 AND relname = 'millstream_model_build')";
    let row = tx.query_one(asked, &[&desk.schema()]).await;
    let is_made = row.and_then(|row| row.try_get(0));
    is_made.map_err(desk.failed("look for the list of read models"))
}

/// The builds of a name that are not retired, the oldest first.
pub(super) async fn known(tx: &Transaction<'_>, name: &str) -> Result<Vec<BuildRow>, Error> {
    // By the index `model_build_name`.
    let sql = "SELECT build, name, version, namespace, state FROM millstream_model_build
        WHERE name = $1 AND state <> 'retired' ORDER BY build";
    tx.query(sql, &[&name]).await?.iter().map(row).collect()
}

pub(super) fn row(row: &Row) -> Result<BuildRow, Error> {
    let state: &str = row.try_get(4)?;
    Ok(BuildRow {
        build: row.try_get(0)?,
        name: row.try_get(1)?,
        version: row.try_get::<_, i64>(2)? as u32,
        place: row.try_get(3)?,
        state: BuildState::parse(state).unwrap_or(BuildState::Retired),
    })
}

/// Lets a build serve, and retires all older ones of its name. Nothing is changed when it was retired meanwhile, or a newer version serves.
pub(super) async fn promote(tx: &Transaction<'_>, row: &BuildRow) -> Result<Promoted, Error> {
    let sql = "SELECT state FROM millstream_model_build WHERE build = $1";
    let state = tx.query_opt(sql, &[&row.build]).await?;
    let state: Option<String> = state.map(|row| row.try_get(0)).transpose()?;
    match state.as_deref().and_then(BuildState::parse) {
        Some(BuildState::Serving) => return Ok(Promoted::Before),
        Some(BuildState::Beside) => {}
        Some(BuildState::Retired) | None => return Ok(Promoted::No),
    }
    let version = i64::from(row.version);
    // By the index `model_build_serving`.
    let newer =
        "SELECT true FROM millstream_model_build WHERE name = $1 AND state = 'serving' AND version > $2";
    if tx.query_opt(newer, &[&row.name, &version]).await?.is_some() {
        return Ok(Promoted::No);
    }
    let retire = "UPDATE millstream_model_build SET state = 'retired'
        WHERE name = $1 AND build <> $2 AND (state = 'serving' OR version <= $3)";
    tx.execute(retire, &[&row.name, &row.build, &version]).await?;
    let serve = "UPDATE millstream_model_build SET state = 'serving' WHERE build = $1";
    tx.execute(serve, &[&row.build]).await?;
    Ok(Promoted::Now)
}

/// Retires what stands beside a build of the same version: what a rebuild left, or makes just now.
pub(super) async fn retire_beside(
    tx: &Transaction<'_>,
    name: &str,
    version: u32,
    but: i64,
) -> Result<(), Error> {
    let retire = "UPDATE millstream_model_build SET state = 'retired'
        WHERE name = $1 AND version = $2 AND build <> $3 AND state = 'beside'";
    tx.execute(retire, &[&name, &i64::from(version), &but]).await?;
    Ok(())
}

/// Gives up a build that does not serve.
pub(super) async fn retire(desk: &ServerDesk, build: i64) -> Result<(), StorageError> {
    desk.answer("give up a build of a read model", try_retire(desk, build))
        .await?
}

async fn try_retire(desk: &ServerDesk, build: i64) -> Result<(), StorageError> {
    let mut client = desk.connect(Purpose::Write).await?;
    let tx = begin(desk, &mut client).await?;
    let retire = "UPDATE millstream_model_build SET state = 'retired' WHERE build = $1 AND state = 'beside'";
    let failed = desk.failed("give up a build of a read model");
    tx.execute(retire, &[&build]).await.map_err(&failed)?;
    tx.commit().await.map_err(&failed)
}

/// The version that serves, if one does.
pub(super) async fn serving(desk: &ServerDesk, name: &str) -> Result<Option<u32>, StorageError> {
    let client = desk.connect(Purpose::Read).await?;
    // By the index `model_build_serving`.
    let sql = "SELECT version FROM millstream_model_build WHERE name = $1 AND state = 'serving'";
    let found = desk
        .answer("look up a read model", client.query_opt(sql, &[&name]))
        .await?;
    let version = found.and_then(|row| row.map(|row| row.try_get::<_, i64>(0)).transpose());
    let version = version.map_err(desk.failed("look up a read model"))?;
    Ok(version.map(|version| version as u32))
}

/// Removes the tables of retired builds, as far as nobody reads them. What is left is removed another time.
pub(super) async fn sweep(desk: &ServerDesk) {
    let swept = desk.answer(SWEEP, try_sweep(desk)).await;
    if let Err(error) = swept.flatten() {
        tracing::debug!(%error, "retired read models on the server could not be removed, it is tried again later");
    }
}

async fn try_sweep(desk: &ServerDesk) -> Result<(), StorageError> {
    let failed = desk.failed(SWEEP);
    let mut client = desk.connect(Purpose::Write).await?;
    let sql = "SELECT build FROM millstream_model_build WHERE state = 'retired' ORDER BY build";
    let rows = client.query(sql, &[]).await.map_err(&failed)?;
    let retired: Result<Vec<i64>, Error> = rows.iter().map(|row| row.try_get(0)).collect();
    for build in retired.map_err(&failed)? {
        let tx = begin(desk, &mut client).await?;
        match drop_unread(&tx, build).await {
            Ok(true) => tx.commit().await.map_err(&failed)?,
            Ok(false) => {}
            Err(error) if ServerDesk::is_lost(&error) => return Err(failed(error)),
            Err(error) => {
                tracing::debug!(build, %error, "a retired read model is still held");
                continue;
            }
        }
    }
    Ok(())
}

/// `false`: somebody reads it, or it is not there as a retired one any more since it was seen, without the lock.
async fn drop_unread(tx: &Transaction<'_>, build: i64) -> Result<bool, Error> {
    let sql = "SELECT build, name, version, namespace, state FROM millstream_model_build
        WHERE build = $1 AND state = 'retired'";
    let Some(retired) = tx.query_opt(sql, &[&build]).await? else {
        return Ok(false);
    };
    let row = row(&retired)?;
    let locked = format!("SELECT pg_try_advisory_xact_lock({READ_LOCK})");
    if !tx.query_one(&locked, &[&row.place]).await?.try_get(0)? {
        return Ok(false);
    }
    tx.batch_execute(LOCK_PATIENCE).await?;
    drop_build(tx, &row).await.map(|()| true)
}

async fn drop_build(tx: &Transaction<'_>, row: &BuildRow) -> Result<(), Error> {
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&row.place));
    tx.batch_execute(&drop).await?;
    let delete = "DELETE FROM millstream_model_build WHERE build = $1";
    tx.execute(delete, &[&row.build]).await?;
    Ok(())
}

/// Whether there is such a version.
pub(super) async fn has(
    desk: &ServerDesk,
    client: &mut Client,
    name: &str,
    version: u32,
) -> Result<bool, StorageError> {
    let tx = begin(desk, client).await?;
    if !is_made(desk, &tx).await? {
        return Ok(false);
    }
    let known = known(&tx, name).await;
    let known = known.map_err(desk.failed("look for a read model"))?;
    Ok(known.iter().any(|row| row.version == version))
}

/// Removes a version with all that its schema made.
pub(super) async fn remove(
    desk: &ServerDesk,
    client: &mut Client,
    name: &str,
    version: u32,
) -> Result<(), StorageError> {
    let failed = desk.failed("remove a read model from the server");
    let tx = begin(desk, client).await?;
    tx.batch_execute(LOCK_PATIENCE).await.map_err(&failed)?;
    let known = known(&tx, name).await.map_err(&failed)?;
    for row in known.iter().filter(|row| row.version == version) {
        drop_build(&tx, row).await.map_err(&failed)?;
    }
    requests::forget(&tx, name).await.map_err(&failed)?;
    tx.commit().await.map_err(&failed)
}

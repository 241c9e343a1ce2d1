//! The rows of durable streams.

use std::collections::HashSet;

use futures::future;
use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::log::cursor::{CursorWrite, NamedCursor, Pause, PauseKind, RollCall, StoredCursor};
use crate::log::letter::{Attempt, AttemptWrite};
use crate::log::postgres::claim;
use crate::log::postgres::session::{Parameters, Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::prune::HeldBy;

/// The columns of a row, in the order in which they are read.
macro_rules! columns {
    () => {
        "position, query, log_id, epoch, owner, steering, paused_by, paused_at, is_taken_over, updated_at,
         attempt_at, attempts, retry"
    };
}

/// By the primary key.
const ONE: &str = concat!("SELECT ", columns!(), " FROM cursor WHERE name = $1");

/// All of them: there is a row per durable stream.
const ALL: &str = concat!("SELECT ", columns!(), ", name FROM cursor ORDER BY name");

const PUT: &str = concat!(
    "INSERT INTO cursor (name, ",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (name) DO UPDATE SET
        position = excluded.position, query = excluded.query, log_id = excluded.log_id,
        epoch = excluded.epoch, owner = excluded.owner, steering = excluded.steering,
        paused_by = excluded.paused_by, paused_at = excluded.paused_at, is_taken_over = excluded.is_taken_over,
        updated_at = excluded.updated_at, attempt_at = excluded.attempt_at, attempts = excluded.attempts,
        retry = excluded.retry"
);

/// By the primary key.
const MOVE: &str = "UPDATE cursor SET position = $3, updated_at = $4, attempt_at = $5, attempts = $6
    WHERE name = $1 AND epoch = $2";

/// The same for several, given a column at a time. By the primary key.
const MOVE_ALL: &str =
    "UPDATE cursor SET position = moved.position, updated_at = $5, attempt_at = moved.attempt_at,
        attempts = moved.attempts
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $6::bigint[])
        AS moved (name, epoch, position, attempt_at, attempts)
    WHERE cursor.name = moved.name AND cursor.epoch = moved.epoch
    RETURNING cursor.name, cursor.epoch";

/// What the moves of a group are made behind, and what takes them back.
const SAVEPOINT: &str = "SAVEPOINT moves";
const UNDO: &str = "ROLLBACK TO SAVEPOINT moves";

/// The cursor that is furthest behind, of streams that go on. There is no index: it would cost every move of a cursor.
const SLOWEST: &str = "SELECT name, position FROM cursor WHERE log_id = $1 AND NOT is_taken_over
    ORDER BY position LIMIT 1";

pub(super) async fn read(session: &mut Session, name: &str) -> Result<Option<StoredCursor>, Trouble> {
    let row = session.maybe(ONE, &[&name]).await?;
    row.map(|row| cursor(&row)).transpose()
}

pub(super) async fn all(session: &mut Session) -> Result<Vec<NamedCursor>, Trouble> {
    let rows = session.all(ALL, &[]).await?;
    let named = rows.iter().map(|row| {
        Ok(NamedCursor {
            name: row.try_get::<_, &str>(13)?.into(),
            cursor: cursor(row)?,
        })
    });
    named.collect()
}

/// Number and rows are of one moment, so that no row is newer than the number.
pub(super) async fn roll_call(session: &mut Session) -> Result<RollCall, Trouble> {
    session
        .snapshot(async |session| {
            Ok(RollCall {
                number: newest_epoch(session).await?,
                rows: all(session).await?,
            })
        })
        .await
}

pub(super) async fn newest_epoch(session: &mut Session) -> Result<u64, Trouble> {
    number(&session.one("SELECT epoch FROM millstream_log", &[]).await?, 0)
}

pub(super) async fn next_epoch(session: &mut Session) -> Result<u64, Trouble> {
    let sql = "UPDATE millstream_log SET epoch = epoch + 1 RETURNING epoch";
    number(&session.one(sql, &[]).await?, 0)
}

pub(super) async fn put(session: &mut Session, name: &str, cursor: &StoredCursor) -> Result<(), Trouble> {
    put_at(session, name, cursor, Timestamp::now()).await
}

/// The same, as it was written at a time.
pub(super) async fn put_at(
    session: &mut Session,
    name: &str,
    cursor: &StoredCursor,
    updated_at: Timestamp,
) -> Result<(), Trouble> {
    let paused = cursor.paused.as_ref();
    let retry = cursor.retry.as_ref().map(serde_json::to_string).transpose();
    let retry = retry.map_err(|error| Trouble::Malformed(error.to_string()))?;
    let is_taken_over = paused.is_some_and(|pause| pause.kind == PauseKind::TakenOver);
    session
        .execute(
            PUT,
            &[
                &name,
                &(cursor.position as i64),
                &cursor.query,
                &cursor.log_id,
                &(cursor.epoch as i64),
                &(cursor.owner as i64),
                &(cursor.steering as i64),
                &paused.map(|pause| &*pause.by),
                &paused.map(|pause| pause.since.as_micros()),
                &is_taken_over,
                &updated_at.as_micros(),
                &(cursor.attempt.at as i64),
                &i64::from(cursor.attempt.count),
                &retry,
            ],
        )
        .await?;
    Ok(())
}

/// `false`: the epoch is not the stored one.
pub(super) async fn move_on(session: &mut Session, write: &CursorWrite<'_>) -> Result<bool, Trouble> {
    let attempt = AttemptWrite {
        name: write.name,
        epoch: write.epoch,
        position: write.position,
        attempt: Attempt::from(write.run),
    };
    put_attempt(session, &attempt).await
}

/// For each, whether the epoch is the stored one. However many they are, they cost a round trip, and an error among them can be
/// taken back by [`undo`].
pub(super) async fn move_all(
    session: &mut Session,
    writes: &[CursorWrite<'_>],
) -> Result<Vec<bool>, Trouble> {
    let statement = session.prepare(MOVE_ALL).await?;
    let column = |of: fn(&CursorWrite<'_>) -> u64| writes.iter().map(|write| of(write) as i64).collect();
    let names: Vec<&str> = writes.iter().map(|write| write.name).collect();
    let epochs: Vec<i64> = column(|write| write.epoch);
    let positions: Vec<i64> = column(|write| write.position);
    let attempts_at: Vec<i64> = column(|write| Attempt::from(write.run).at);
    let attempts: Vec<i64> = column(|write| Attempt::from(write.run).count.into());
    let now = Timestamp::now().as_micros();
    let parameters: Parameters<'_> = &[&names, &epochs, &positions, &attempts_at, &now, &attempts];
    let before = session.client.batch_execute(SAVEPOINT);
    let moved = session.client.query(&statement, parameters);
    let (before, moved) = future::join(before, moved).await;
    before?;
    let moved = moved?;
    let moved = moved
        .iter()
        .map(|row| Ok((row.try_get::<_, &str>(0)?, number(row, 1)?)))
        .collect::<Result<HashSet<_>, Trouble>>()?;
    let was_moved = |write: &CursorWrite<'_>| moved.contains(&(write.name, write.epoch));
    Ok(writes.iter().map(was_moved).collect())
}

/// Takes back what was done since [`move_all`] began.
pub(super) async fn undo(session: &mut Session) -> Result<(), Trouble> {
    Ok(session.client.batch_execute(UNDO).await?)
}

/// `false`: the epoch is not the stored one.
pub(super) async fn put_attempt(session: &mut Session, write: &AttemptWrite<'_>) -> Result<bool, Trouble> {
    let moved = session
        .execute(
            MOVE,
            &[
                &write.name,
                &(write.epoch as i64),
                &(write.position as i64),
                &Timestamp::now().as_micros(),
                &(write.attempt.at as i64),
                &i64::from(write.attempt.count),
            ],
        )
        .await?;
    Ok(moved > 0)
}

/// What was parked stays with the stream.
pub(super) async fn rename(session: &mut Session, name: &str, to: &str) -> Result<(), Trouble> {
    for sql in [
        "UPDATE cursor SET name = $2 WHERE name = $1",
        "UPDATE dead_letter SET stream = $2 WHERE stream = $1",
    ] {
        session.execute(sql, &[&name, &to]).await?;
    }
    // Who runs it or stands by for it is told that it has another name, and ends.
    claim::remove_all(session, name).await
}

/// What was parked goes with the stream.
pub(super) async fn remove(session: &mut Session, name: &str) -> Result<(), Trouble> {
    for sql in [
        "DELETE FROM cursor WHERE name = $1",
        "DELETE FROM dead_letter WHERE stream = $1",
    ] {
        session.execute(sql, &[&name]).await?;
    }
    claim::remove_all(session, name).await
}

pub(super) async fn slowest(session: &mut Session, log_id: &str) -> Result<Option<HeldBy>, Trouble> {
    let row = session.maybe(SLOWEST, &[&log_id]).await?;
    let holder = row.map(|row| {
        Ok(HeldBy {
            stream: Some(row.try_get(0)?),
            position: number(&row, 1)?,
            dead_letter: None,
        })
    });
    holder.transpose()
}

fn cursor(row: &Row) -> Result<StoredCursor, Trouble> {
    let paused_by: Option<&str> = row.try_get(6)?;
    let paused_at: Option<i64> = row.try_get(7)?;
    let kind = match row.try_get(8)? {
        true => PauseKind::TakenOver,
        false => PauseKind::ByHand,
    };
    let retry: Option<&str> = row.try_get(12)?;
    let retry = retry.map(serde_json::from_str).transpose();
    Ok(StoredCursor {
        position: number(row, 0)?,
        query: row.try_get(1)?,
        log_id: row.try_get(2)?,
        epoch: number(row, 3)?,
        owner: number(row, 4)?,
        steering: number(row, 5)?,
        paused: paused_by.map(|by| Pause {
            by: by.into(),
            since: Timestamp::from_micros(paused_at.unwrap_or(0)),
            kind,
        }),
        updated_at: Timestamp::from_micros(row.try_get(9)?),
        attempt: Attempt {
            at: number(row, 10)?,
            count: u32::try_from(number(row, 11)?).unwrap_or(u32::MAX),
        },
        retry: retry.map_err(|error| Trouble::Malformed(error.to_string()))?,
    })
}

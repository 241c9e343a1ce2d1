//! Where things are in the log: its end, its beginning, where batches end, and when an event was recorded.

use crate::clock::Timestamp;
use crate::log::page::Range;
use crate::log::postgres::once;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::{Extent, Tail};

const TAIL: &str = "SELECT head, recorded_at, pruned_through FROM millstream_log";

/// By the primary key.
const OLDEST: &str = "SELECT sequence - batch_index, batch_size FROM event ORDER BY sequence LIMIT 1";

/// By the primary key.
const NEWEST_UP_TO: &str = "SELECT sequence - batch_index, batch_size FROM event
    WHERE sequence <= $1 ORDER BY sequence DESC LIMIT 1";

/// By the primary key.
const NEXT: &str = "SELECT sequence, recorded_at FROM event WHERE sequence > $1 ORDER BY sequence LIMIT 1";

/// By the primary key. What comes after a position that pruning has passed is not known any more.
const RECORDED_AFTER: &str = "SELECT (SELECT recorded_at FROM event WHERE sequence > asked.position
            AND asked.position >= (SELECT pruned_through FROM millstream_log) ORDER BY sequence LIMIT 1)
    FROM unnest($1::bigint[]) WITH ORDINALITY AS asked (position, place) ORDER BY place";

/// A copy may be told of a place behind its end.
const NOTE: &str = "UPDATE millstream_log SET pruned_through = $1, head = greatest(head, $1), pruned_recorded_at =
    coalesce((SELECT recorded_at FROM event WHERE sequence <= $1 ORDER BY sequence DESC LIMIT 1), pruned_recorded_at)";

pub(super) async fn tail(session: &mut Session) -> Result<Tail, Trouble> {
    let row = session.one(TAIL, &[]).await?;
    Ok(Tail {
        head: number(&row, 0)?,
        recorded_at: Timestamp::from_micros(row.try_get(1)?),
        pruned_through: number(&row, 2)?,
    })
}

pub(super) async fn extent(session: &mut Session) -> Result<Extent, Trouble> {
    let Tail {
        head, pruned_through, ..
    } = tail(session).await?;
    Ok(Extent { pruned_through, head })
}

pub(super) async fn oldest_batch(session: &mut Session) -> Result<Option<Range>, Trouble> {
    let row = session.maybe(OLDEST, &[]).await?;
    row.map(|row| batch(&row)).transpose()
}

/// The batch of the newest event that is not after a sequence.
pub(super) async fn batch_at(session: &mut Session, sequence: u64) -> Result<Option<Range>, Trouble> {
    let row = session.maybe(NEWEST_UP_TO, &[&bounded(sequence)]).await?;
    row.map(|row| batch(&row)).transpose()
}

/// The end of the batch that `sequence` lies in, or `sequence` itself, when it lies in none.
pub(super) async fn batch_end(session: &mut Session, sequence: u64) -> Result<u64, Trouble> {
    let batch = batch_at(session, sequence).await?;
    Ok(batch.map_or(sequence, |batch| batch.through.max(sequence)))
}

/// The last sequence before the first event that was recorded at `time` or later. Recorded times never decrease along the log, so that a
/// binary search over the primary key finds it.
pub(super) async fn position_at(session: &mut Session, time: Timestamp) -> Result<u64, Trouble> {
    // Everything up to `earlier` is older than `time`, everything after `later` is not.
    let newest = batch_at(session, u64::MAX).await?;
    let (mut earlier, mut later) = (0, newest.map_or(0, |batch| batch.through));
    while earlier < later {
        let middle = earlier + (later - earlier) / 2;
        match next(session, middle).await? {
            Some((sequence, recorded_at)) if recorded_at < time => earlier = sequence,
            _ => later = middle,
        }
    }
    Ok(later)
}

async fn next(session: &mut Session, after: u64) -> Result<Option<(u64, Timestamp)>, Trouble> {
    let row = session.maybe(NEXT, &[&bounded(after)]).await?;
    let found = row.map(|row| Ok((number(&row, 0)?, Timestamp::from_micros(row.try_get(1)?))));
    found.transpose()
}

/// For each position, when the first event after it was recorded, if there is one.
pub(super) async fn recorded_after(
    session: &mut Session,
    positions: &[u64],
) -> Result<Vec<Option<Timestamp>>, Trouble> {
    let positions: Vec<i64> = positions.iter().copied().map(bounded).collect();
    let rows = session.all(RECORDED_AFTER, &[&positions]).await?;
    let times = rows.iter().map(|row| {
        let micros: Option<i64> = row.try_get(0)?;
        Ok(micros.map(Timestamp::from_micros))
    });
    times.collect()
}

/// Removes the events up to a sequence, and says how many they were.
pub(super) async fn remove_through(session: &mut Session, through: u64) -> Result<u64, Trouble> {
    session.execute(NOTE, &[&bounded(through)]).await?;
    once::remove_through(session, through).await?;
    let remove = "DELETE FROM event WHERE sequence <= $1";
    session.execute(remove, &[&bounded(through)]).await
}

/// A sequence as PostgreSQL counts: beyond its numbers there are none.
pub(super) fn bounded(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn batch(row: &tokio_postgres::Row) -> Result<Range, Trouble> {
    let first_sequence = number(row, 0)?.max(1);
    let size: i32 = row.try_get(1)?;
    Ok(Range {
        after: first_sequence - 1,
        through: first_sequence + u64::from(size.max(1).unsigned_abs()) - 1,
    })
}

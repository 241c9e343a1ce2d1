//! What a log holds, counted; and all durable streams at one moment.

use crate::clock::{Day, Timestamp};
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::{claim, cursor, letter, place};
use crate::log::statistics::LogStatistics;
use crate::log::survey::Survey;

/// By `event_by_type` alone, as far as PostgreSQL knows which rows everybody sees.
const BY_TYPE: &str = "SELECT type, count(*) FROM event GROUP BY type";

/// Over all events: the server keeps no counts, and a day may have holes.
const BY_DAY: &str = "SELECT min(recorded_at), max(recorded_at), count(*) FROM event
    GROUP BY recorded_at / 86400000000 ORDER BY min(recorded_at)";

const BYTES: &str = "SELECT pg_total_relation_size('event') + pg_total_relation_size('cursor')
    + pg_total_relation_size('dead_letter') + pg_total_relation_size('idempotency_key')
    + pg_total_relation_size('millstream_log')";

const KEYS: &str = "SELECT count(*) FROM idempotency_key";

pub(super) async fn statistics(session: &mut Session) -> Result<LogStatistics, Trouble> {
    session
        .snapshot(async |session| {
            // It reads everything, however long that takes.
            session
                .client
                .batch_execute("SET LOCAL statement_timeout = 0")
                .await?;
            let mut statistics = LogStatistics::of(place::extent(session).await?);
            statistics.bytes = number(&session.one(BYTES, &[]).await?, 0)?;
            statistics.idempotency_keys = number(&session.one(KEYS, &[]).await?, 0)?;
            let mut types: Vec<(String, u64)> = Vec::new();
            for row in session.all(BY_TYPE, &[]).await? {
                types.push((row.try_get(0)?, number(&row, 1)?));
            }
            statistics.take_types(types);
            let mut days: Vec<(Day, u64)> = Vec::new();
            for row in session.all(BY_DAY, &[]).await? {
                let time = |column| Ok::<_, Trouble>(Timestamp::from_micros(row.try_get(column)?));
                let (first, last) = (time(0)?, time(1)?);
                statistics.first_recorded_at.get_or_insert(first.into());
                statistics.last_recorded_at = Some(last.into());
                days.push((first.day(), number(&row, 2)?));
            }
            statistics.take_days(days);
            Ok(statistics)
        })
        .await
}

/// All of it is of one moment, so that no cursor is ahead of the head.
pub(super) async fn survey(session: &mut Session) -> Result<Survey, Trouble> {
    session
        .snapshot(async |session| {
            Ok(Survey {
                head: place::extent(session).await?.head,
                rows: cursor::all(session).await?,
                letters: letter::all_counts(session).await?,
                claims: claim::living(session, None).await?,
            })
        })
        .await
}

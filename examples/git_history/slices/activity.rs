//! When the work was done: commits per ISO week, by the author's date.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use millstream::{EventBatch, EventQuery};
use rusqlite::{Connection, params};

use crate::Result;
use crate::facts::Fact;
use crate::slices::Slice;

pub(crate) const SLICE: Slice = Slice {
    name: "activity",
    tables: "CREATE TABLE IF NOT EXISTS activity (
                 week TEXT PRIMARY KEY,
                 commits INTEGER NOT NULL
             ) WITHOUT ROWID;",
    query,
    apply,
};

/// Where commits are counted whose date is broken or beyond the calendar.
const UNDATED: &str = "undated";

pub(crate) struct Week {
    /// As in `2026-W07`.
    pub(crate) name: String,
    pub(crate) commits: u64,
}

fn query() -> EventQuery {
    EventQuery::types([Fact::COMMIT])
}

fn apply(connection: &Connection, batch: &EventBatch) -> Result<()> {
    for event in batch {
        if let Fact::CommitRecorded { authored_at, .. } = event.decode()? {
            let week = authored_at.and_then(week).unwrap_or_else(|| UNDATED.to_owned());
            connection
                .prepare_cached(
                    "INSERT INTO activity (week, commits) VALUES (?1, 1)
                     ON CONFLICT (week) DO UPDATE SET commits = commits + 1",
                )?
                .execute(params![week])?;
        }
    }
    Ok(())
}

/// The week of a moment, in UTC. A week at the turn of a year belongs to the year that has most of its days.
fn week(seconds: i64) -> Option<String> {
    let moment = Timestamp::from_second(seconds).ok()?;
    let week = moment.to_zoned(TimeZone::UTC).date().iso_week_date();
    Some(format!("{:04}-W{:02}", week.year(), week.week()))
}

/// How many weeks have commits.
pub(crate) fn count(connection: &Connection) -> Result<u64> {
    let mut statement = connection.prepare("SELECT count(*) FROM activity WHERE week <> ?1")?;
    let count = statement.query_row(params![UNDATED], |row| row.get(0))?;
    Ok(i64::cast_unsigned(count))
}

/// The last weeks that have commits, the oldest first.
pub(crate) fn last(connection: &Connection, weeks_max: u32) -> Result<Vec<Week>> {
    let mut statement = connection
        .prepare("SELECT week, commits FROM activity WHERE week <> ?1 ORDER BY week DESC LIMIT ?2")?;
    let rows = statement.query_map(params![UNDATED, weeks_max], |row| {
        Ok(Week {
            name: row.get(0)?,
            commits: row.get::<_, i64>(1)?.cast_unsigned(),
        })
    })?;
    let mut weeks = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    weeks.reverse();
    Ok(weeks)
}

#[cfg(test)]
mod tests {
    use super::week;

    #[test]
    fn week_is_the_iso_week() {
        assert_eq!(week(0).as_deref(), Some("1970-W01"));
        assert_eq!(week(1_609_459_200).as_deref(), Some("2020-W53"));
        assert_eq!(week(99_999_999_999_999), None);
    }
}

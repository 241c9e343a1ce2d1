//! Who wrote how much: commits and lines per author.

use millstream::{EventBatch, EventQuery};
use rusqlite::{Connection, params};

use crate::Result;
use crate::facts::{Fact, Lines};
use crate::slices::Slice;

pub(crate) const SLICE: Slice = Slice {
    name: "contributors",
    tables: "CREATE TABLE IF NOT EXISTS contributors (
                 author TEXT PRIMARY KEY,
                 name TEXT NOT NULL,
                 commits INTEGER NOT NULL,
                 lines_added INTEGER NOT NULL,
                 lines_removed INTEGER NOT NULL
             ) WITHOUT ROWID;",
    query,
    apply,
};

pub(crate) struct Contributor {
    pub(crate) name: String,
    pub(crate) commits: u64,
    pub(crate) lines: Lines,
}

fn query() -> EventQuery {
    EventQuery::types([Fact::COMMIT].into_iter().chain(Fact::FILES))
}

/// A batch is one commit, so the files in it are the work of its author.
fn apply(connection: &Connection, batch: &EventBatch) -> Result<()> {
    let mut author = None;
    let mut total = Lines::default();
    for event in batch {
        match event.decode::<Fact>()? {
            Fact::CommitRecorded { author: found, .. } => author = Some(found),
            Fact::FileAdded { lines, .. }
            | Fact::FileModified { lines, .. }
            | Fact::FileDeleted { lines, .. }
            | Fact::FileRenamed { lines, .. } => {
                let lines = lines.unwrap_or_default();
                total.added += lines.added;
                total.removed += lines.removed;
            }
        }
    }
    let Some(author) = author else {
        return Ok(());
    };
    // One person writes an address in several ways, and some commits have none.
    let key = match author.email.trim() {
        "" => author.name.clone(),
        email => email.to_lowercase(),
    };
    connection
        .prepare_cached(
            "INSERT INTO contributors (author, name, commits, lines_added, lines_removed) VALUES (?1, ?2, 1, ?3, ?4)
             ON CONFLICT (author) DO UPDATE SET
                 name = excluded.name,
                 commits = commits + 1,
                 lines_added = lines_added + excluded.lines_added,
                 lines_removed = lines_removed + excluded.lines_removed",
        )?
        .execute(params![
            key,
            author.name,
            total.added.cast_signed(),
            total.removed.cast_signed()
        ])?;
    Ok(())
}

/// How many contributors there are.
pub(crate) fn count(connection: &Connection) -> Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM contributors", [], |row| row.get(0))?;
    Ok(i64::cast_unsigned(count))
}

/// Those with the most commits.
pub(crate) fn top(connection: &Connection, contributors_max: u32) -> Result<Vec<Contributor>> {
    let mut statement = connection.prepare(
        "SELECT name, author, commits, lines_added, lines_removed FROM contributors
         ORDER BY commits DESC, lines_added DESC, author LIMIT ?1",
    )?;
    let rows = statement.query_map(params![contributors_max], |row| {
        let (name, author): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(Contributor {
            name: if name.trim().is_empty() { author } else { name },
            commits: row.get::<_, i64>(2)?.cast_unsigned(),
            lines: Lines {
                added: row.get::<_, i64>(3)?.cast_unsigned(),
                removed: row.get::<_, i64>(4)?.cast_unsigned(),
            },
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

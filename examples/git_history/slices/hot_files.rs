//! Which files change most. A renamed file keeps its past.

use millstream::{EventBatch, EventQuery};
use rusqlite::{Connection, params};

use crate::Result;
use crate::facts::{Fact, Lines};
use crate::slices::Slice;

pub(crate) const SLICE: Slice = Slice {
    name: "hot-files",
    tables: "CREATE TABLE IF NOT EXISTS hot_files (
                 path TEXT PRIMARY KEY,
                 changes INTEGER NOT NULL,
                 renames INTEGER NOT NULL,
                 lines_added INTEGER NOT NULL,
                 lines_removed INTEGER NOT NULL,
                 deleted INTEGER NOT NULL
             ) WITHOUT ROWID;",
    query,
    apply,
};

pub(crate) struct HotFile {
    pub(crate) path: String,
    pub(crate) changes: u64,
    pub(crate) renames: u64,
    pub(crate) lines: Lines,
    pub(crate) deleted: bool,
}

fn query() -> EventQuery {
    EventQuery::types(Fact::FILES)
}

fn apply(connection: &Connection, batch: &EventBatch) -> Result<()> {
    for event in batch {
        match event.decode::<Fact>()? {
            Fact::CommitRecorded { .. } => {}
            Fact::FileAdded { path, lines, .. } | Fact::FileModified { path, lines, .. } => {
                count_change(connection, &path, lines, State::Present)?;
            }
            Fact::FileDeleted { path, lines, .. } => {
                count_change(connection, &path, lines, State::Deleted)?;
            }
            Fact::FileRenamed {
                from, path, lines, ..
            } => {
                rename(connection, &from, &path)?;
                count_change(connection, &path, lines, State::Present)?;
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum State {
    Present = 0,
    Deleted = 1,
}

fn count_change(connection: &Connection, path: &str, lines: Option<Lines>, state: State) -> Result<()> {
    let lines = lines.unwrap_or_default();
    connection
        .prepare_cached(
            "INSERT INTO hot_files (path, changes, renames, lines_added, lines_removed, deleted)
             VALUES (?1, 1, 0, ?2, ?3, ?4)
             ON CONFLICT (path) DO UPDATE SET
                 changes = changes + 1,
                 lines_added = lines_added + excluded.lines_added,
                 lines_removed = lines_removed + excluded.lines_removed,
                 deleted = excluded.deleted",
        )?
        .execute(params![
            path,
            lines.added.cast_signed(),
            lines.removed.cast_signed(),
            state as i64
        ])?;
    Ok(())
}

/// Adds the past of one path to another. The new path can have a past of its own: a file of that name was deleted once,
/// or another branch made one.
fn rename(connection: &Connection, from: &str, to: &str) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO hot_files (path, changes, renames, lines_added, lines_removed, deleted)
             SELECT ?2, changes, renames + 1, lines_added, lines_removed, 0 FROM hot_files WHERE path = ?1
             ON CONFLICT (path) DO UPDATE SET
                 changes = changes + excluded.changes,
                 renames = renames + excluded.renames,
                 lines_added = lines_added + excluded.lines_added,
                 lines_removed = lines_removed + excluded.lines_removed",
        )?
        .execute(params![from, to])?;
    connection
        .prepare_cached("DELETE FROM hot_files WHERE path = ?1")?
        .execute(params![from])?;
    Ok(())
}

/// How many files there are or were.
pub(crate) fn count(connection: &Connection) -> Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM hot_files", [], |row| row.get(0))?;
    Ok(i64::cast_unsigned(count))
}

/// Those with the most changes.
pub(crate) fn top(connection: &Connection, files_max: u32) -> Result<Vec<HotFile>> {
    let mut statement = connection.prepare(
        "SELECT path, changes, renames, lines_added, lines_removed, deleted FROM hot_files
         ORDER BY changes DESC, lines_added DESC, path LIMIT ?1",
    )?;
    let rows = statement.query_map(params![files_max], |row| {
        Ok(HotFile {
            path: row.get(0)?,
            changes: row.get::<_, i64>(1)?.cast_unsigned(),
            renames: row.get::<_, i64>(2)?.cast_unsigned(),
            lines: Lines {
                added: row.get::<_, i64>(3)?.cast_unsigned(),
                removed: row.get::<_, i64>(4)?.cast_unsigned(),
            },
            deleted: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{SLICE, State, count_change, rename, top};
    use crate::facts::Lines;

    #[test]
    fn renamed_file_keeps_its_past() {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch(SLICE.tables).expect("has tables");
        let change = |path, added| {
            let lines = Some(Lines { added, removed: 1 });
            count_change(&connection, path, lines, State::Present).expect("is counted");
        };
        change("old", 3);
        change("old", 2);
        // A file of the new name was there before, and deleted.
        change("new", 7);
        count_change(&connection, "new", None, State::Deleted).expect("is counted");
        rename(&connection, "old", "new").expect("is renamed");
        change("new", 0);
        // Nothing is known of this one: a shallow history does not have its beginning.
        rename(&connection, "unknown", "other").expect("is renamed");

        let files = top(&connection, 10).expect("are read");
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].path, "new");
        assert_eq!(
            (files[0].changes, files[0].renames, files[0].deleted),
            (5, 1, false)
        );
        assert_eq!(
            files[0].lines,
            Lines {
                added: 12,
                removed: 4
            }
        );
    }
}

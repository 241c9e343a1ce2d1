//! The tables of the index: which runs there are, and their blocks.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::log::page::Range;
use crate::log::sqlite::index::entry::{BLOCK_ENTRIES_MAX, Block, Entry, pack};
use crate::log::sqlite::index::path::PayloadPath;
use crate::log::sqlite::index::tier::Run;

/// What `log` says about the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    /// Every entry of the events up to here stands in a run.
    pub(crate) indexed_through: u64,
    /// Changes with the runs.
    pub(crate) generation: i64,
    /// The events up to here are gone, and their entries of no use.
    pub(crate) pruned_through: u64,
}

/// The runs, as they were read last: they are the same as long as the generation is.
#[derive(Default)]
pub(crate) struct Runs {
    read_at: Option<i64>,
    runs: Arc<[Run]>,
}

impl Runs {
    /// The runs of this generation, in the order of the log. Asked inside the transaction that saw it.
    pub(crate) fn at(&mut self, connection: &Connection, generation: i64) -> rusqlite::Result<&Arc<[Run]>> {
        if self.read_at != Some(generation) {
            self.runs = read_runs(connection)?.into();
            self.read_at = Some(generation);
        }
        Ok(&self.runs)
    }

    /// The transaction that changed them did not come to be.
    pub(crate) fn forget(&mut self) {
        self.read_at = None;
    }
}

pub(crate) fn stand(connection: &Connection) -> rusqlite::Result<Stand> {
    connection
        .prepare_cached("SELECT indexed_through, index_generation, pruned_through FROM log")?
        .query_row([], |row| {
            Ok(Stand {
                indexed_through: row.get::<_, i64>(0)? as u64,
                generation: row.get(1)?,
                pruned_through: row.get::<_, i64>(2)? as u64,
            })
        })
}

pub(crate) fn read_runs(connection: &Connection) -> rusqlite::Result<Vec<Run>> {
    let mut statement =
        connection.prepare_cached("SELECT run, level, after, through FROM index_run ORDER BY after")?;
    statement
        .query_map([], |row| {
            Ok(Run {
                id: row.get(0)?,
                level: row.get(1)?,
                covers: range(row, 2)?,
            })
        })?
        .collect()
}

/// Two columns that are a range.
pub(super) fn range(row: &Row<'_>, first_column: usize) -> rusqlite::Result<Range> {
    Ok(Range {
        after: row.get::<_, i64>(first_column)? as u64,
        through: row.get::<_, i64>(first_column + 1)? as u64,
    })
}

/// An id that no run has, not even one that is being made or removed.
pub(super) fn new_id(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "SELECT 1 + max((SELECT coalesce(max(run), 0) FROM index_run),
                            (SELECT coalesce(max(run), 0) FROM index_merge),
                            (SELECT coalesce(max(run), 0) FROM index_garbage))",
        )?
        .query_row([], |row| row.get(0))
}

pub(super) fn insert_run(connection: &Connection, run: Run) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO index_run (run, level, after, through) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            run.id,
            run.level,
            run.covers.after as i64,
            run.covers.through as i64
        ])?;
    Ok(())
}

/// Writes sorted entries behind those that the run has.
pub(super) fn insert_blocks(connection: &Connection, run: i64, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO index_block (run, first_key, first_sequence, entries) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for block in entries.chunks(BLOCK_ENTRIES_MAX) {
        insert.execute(params![run, block[0].key, block[0].sequence as i64, pack(block)])?;
    }
    Ok(())
}

pub(super) fn set_stand(connection: &Connection, stand: Stand) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE log SET indexed_through = ?1, index_generation = ?2")?
        .execute(params![stand.indexed_through as i64, stand.generation])?;
    Ok(())
}

pub(crate) fn read_paths(connection: &Connection) -> rusqlite::Result<Vec<PayloadPath>> {
    let mut statement = connection.prepare_cached("SELECT path FROM index_path ORDER BY path")?;
    let mut rows = statement.query([])?;
    let mut paths = Vec::new();
    while let Some(row) = rows.next()? {
        // A path that nobody can read was not written by `declare_paths`.
        paths.extend(PayloadPath::parse(row.get_ref(0)?.as_str()?).ok());
    }
    Ok(paths)
}

/// Adds paths to those that the index knows, inside a transaction, and says how many there are. With a new one the index
/// begins anew: its runs know nothing of it.
pub(crate) fn declare_paths(connection: &Connection, paths: &[PayloadPath]) -> rusqlite::Result<usize> {
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO index_path (path) VALUES (?1)")?;
    let mut added = 0;
    for path in paths {
        added += insert.execute([path.pointer()])?;
    }
    if added > 0 {
        connection.execute_batch(
            "INSERT INTO index_garbage (run) SELECT run FROM index_run UNION SELECT run FROM index_merge;
             DELETE FROM index_run;
             DELETE FROM index_merge;
             UPDATE log SET indexed_through = 0, index_generation = index_generation + 1;",
        )?;
    }
    Ok(read_paths(connection)?.len())
}

/// The block in which `entry` would stand: the last that does not begin behind it.
const BLOCK_OF: &str = "SELECT entries FROM index_block
    WHERE run = ?1 AND (first_key, first_sequence) <= (?2, ?3)
    ORDER BY first_key DESC, first_sequence DESC LIMIT 1";

/// The first block that begins behind `entry`.
const BLOCK_BEHIND: &str = "SELECT entries FROM index_block
    WHERE run = ?1 AND (first_key, first_sequence) > (?2, ?3)
    ORDER BY first_key, first_sequence LIMIT 1";

/// Gives `take` the run's entries that are not before `from`, as many as one block holds. Nothing is given when the run
/// has none.
pub(super) fn entries_from(
    connection: &Connection,
    run: i64,
    from: Entry,
    mut take: impl FnMut(Entry),
) -> rusqlite::Result<()> {
    let mut is_empty = true;
    for sql in [BLOCK_OF, BLOCK_BEHIND] {
        connection
            .prepare_cached(sql)?
            .query_row(params![run, from.key, from.sequence as i64], |row| {
                let bytes = row.get_ref(0)?.as_blob()?;
                let block = Block::new(bytes).ok_or_else(|| torn(run))?;
                for entry in block.from(from) {
                    is_empty = false;
                    take(entry);
                }
                Ok(())
            })
            .optional()?;
        if !is_empty {
            break;
        }
    }
    Ok(())
}

fn torn(run: i64) -> rusqlite::Error {
    let problem = format!("a block of the index run {run} is torn; check the file's integrity");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain;

    #[test]
    fn both_ways_to_a_block_are_searches() {
        for sql in [BLOCK_OF, BLOCK_BEHIND] {
            let bound = if sql == BLOCK_OF { '<' } else { '>' };
            let expected = format!(
                "SEARCH index_block USING INDEX index_block_by_key (run=? AND (first_key,first_sequence){bound}(?,?))"
            );
            assert_eq!(explain::plan(sql), [expected]);
        }
    }
}

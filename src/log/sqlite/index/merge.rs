//! Merging the runs of a level, a few blocks at a time. How far a merge has come stands in the file, so that it goes on after
//! a crash, and in whichever process is at hand.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rusqlite::{Connection, OptionalExtension, params};

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;
use crate::log::sqlite::index::run::{self, entries_from};
use crate::log::sqlite::index::tier::Run;

/// How many blocks of a run that was merged one step removes, as `SWEEP` says.
const SWEEP_BLOCKS: usize = 32;
const SWEEP: &str =
    "DELETE FROM index_block WHERE id IN (SELECT id FROM index_block WHERE run = ?1 LIMIT 32)";

/// A merge that has begun.
struct Merge {
    level: u32,
    output: i64,
    covers: Range,
    /// What comes before this entry is written.
    next: Entry,
}

/// The levels whose runs are being merged.
pub(super) fn levels(connection: &Connection) -> rusqlite::Result<Vec<u32>> {
    connection
        .prepare_cached("SELECT level FROM index_merge ORDER BY level")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Runs whose blocks are to be removed.
pub(super) fn garbage(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT run FROM index_garbage ORDER BY run DESC")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Notes that the runs of a level in a stretch become one.
pub(super) fn begin(connection: &Connection, level: u32, covers: Range) -> rusqlite::Result<()> {
    let output = run::new_id(connection)?;
    connection
        .prepare_cached(
            "INSERT INTO index_merge (level, run, after, through, next_key, next_sequence)
             VALUES (?1, ?2, ?3, ?4, ?5, 0)",
        )?
        .execute(params![
            level,
            output,
            covers.after as i64,
            covers.through as i64,
            i64::MIN
        ])?;
    Ok(())
}

/// Writes the next entries of a level's merge, a whole number of blocks, without those of events up to `pruned_through`. `true`: it
/// was the last step, and the merged run has taken the place of the others.
pub(super) fn step(
    connection: &Connection,
    level: u32,
    runs: &[Run],
    step_entries: usize,
    pruned_through: u64,
) -> rusqlite::Result<bool> {
    let Some(mut merge) = read(connection, level)? else {
        // Another process was faster.
        return Ok(true);
    };
    let is_input = |run: &&Run| {
        run.level == level
            && merge.covers.after <= run.covers.after
            && run.covers.through <= merge.covers.through
    };
    let inputs: Vec<Run> = runs.iter().filter(is_input).copied().collect();
    let mut merged = Merged::new(connection, &inputs, merge.next)?;
    let mut output = Vec::with_capacity(step_entries);
    while output.len() < step_entries
        && let Some(entry) = merged.next()?
    {
        if entry.sequence > pruned_through {
            output.push(entry);
        }
        merge.next = Entry {
            sequence: entry.sequence + 1,
            ..entry
        };
    }
    run::insert_blocks(connection, merge.output, &output)?;
    let is_last = output.len() < step_entries;
    if is_last {
        finish(connection, &merge, &inputs)?;
    } else {
        connection
            .prepare_cached("UPDATE index_merge SET next_key = ?2, next_sequence = ?3 WHERE level = ?1")?
            .execute(params![level, merge.next.key, merge.next.sequence as i64])?;
    }
    Ok(is_last)
}

fn read(connection: &Connection, level: u32) -> rusqlite::Result<Option<Merge>> {
    connection
        .prepare_cached(
            "SELECT run, after, through, next_key, next_sequence FROM index_merge WHERE level = ?1",
        )?
        .query_row([level], |row| {
            Ok(Merge {
                level,
                output: row.get(0)?,
                covers: run::range(row, 1)?,
                next: Entry {
                    key: row.get(3)?,
                    sequence: row.get::<_, i64>(4)? as u64,
                },
            })
        })
        .optional()
}

/// Puts the merged run in the place of its inputs.
fn finish(connection: &Connection, merge: &Merge, inputs: &[Run]) -> rusqlite::Result<()> {
    for input in inputs {
        retire(connection, input.id)?;
    }
    connection
        .prepare_cached("DELETE FROM index_merge WHERE level = ?1")?
        .execute([merge.level])?;
    run::insert_run(
        connection,
        Run {
            id: merge.output,
            level: merge.level + 1,
            covers: merge.covers,
        },
    )
}

/// Takes a run out of use. Its blocks are swept later.
pub(super) fn retire(connection: &Connection, run: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM index_run WHERE run = ?1")?
        .execute([run])?;
    connection
        .prepare_cached("INSERT INTO index_garbage (run) VALUES (?1)")?
        .execute([run])?;
    Ok(())
}

/// Removes some blocks of a run that is out of use. `true`: there are no more.
pub(super) fn sweep(connection: &Connection, run: i64) -> rusqlite::Result<bool> {
    let removed = connection.prepare_cached(SWEEP)?.execute([run])?;
    let is_empty = removed < SWEEP_BLOCKS;
    if is_empty {
        connection
            .prepare_cached("DELETE FROM index_garbage WHERE run = ?1")?
            .execute([run])?;
    }
    Ok(is_empty)
}

/// The entries of some runs, in one order.
struct Merged<'a> {
    connection: &'a Connection,
    inputs: Vec<Input>,
    /// The next entry of each input that has one, the smallest on top.
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

struct Input {
    run: i64,
    read: VecDeque<Entry>,
}

impl<'a> Merged<'a> {
    fn new(connection: &'a Connection, runs: &[Run], from: Entry) -> rusqlite::Result<Self> {
        let input = |run: &Run| Input {
            run: run.id,
            read: VecDeque::new(),
        };
        let mut merged = Self {
            connection,
            inputs: runs.iter().map(input).collect(),
            heads: BinaryHeap::new(),
        };
        for index in 0..runs.len() {
            merged.advance(index, from)?;
        }
        Ok(merged)
    }

    fn next(&mut self) -> rusqlite::Result<Option<Entry>> {
        let Some(Reverse((entry, index))) = self.heads.pop() else {
            return Ok(None);
        };
        let behind = Entry {
            sequence: entry.sequence + 1,
            ..entry
        };
        self.advance(index, behind)?;
        Ok(Some(entry))
    }

    /// Puts the next entry of an input, which is not before `from`, among the heads.
    fn advance(&mut self, index: usize, from: Entry) -> rusqlite::Result<()> {
        let Input { run, read } = &mut self.inputs[index];
        if read.is_empty() {
            entries_from(self.connection, *run, from, |entry| read.push_back(entry))?;
        }
        let next = read.pop_front();
        self.heads.extend(next.map(|entry| Reverse((entry, index))));
        Ok(())
    }
}

//! The runs of the index: whether they can be searched, and whether their entries are those of the events.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::log::page::{More, Range};
use crate::log::sqlite::index::entry::{Block, Entry};
use crate::log::sqlite::index::run::read_runs;
use crate::log::sqlite::index::tier::Run;
use crate::log::sqlite::verify::LogRow;
use crate::log::sqlite::verify::events::{Seen, carried};
use crate::log::verification::{Finding, Verification};

/// How many stretches that differ are looked at entry by entry, and kept in memory for that.
const STRETCHES_MAX: usize = 16;
/// How many blocks are read before somebody is asked whether to go on.
const BLOCKS_AT_ONCE: u64 = 256;

/// By `index_block_by_key`.
const BLOCKS: &str = "SELECT first_key, first_sequence, entries FROM index_block
    WHERE run = ?1 ORDER BY first_key, first_sequence";

/// Blocks that belong to nothing.
const ORPHANS: &str = "SELECT DISTINCT run FROM index_block WHERE run NOT IN
    (SELECT run FROM index_run UNION SELECT run FROM index_merge UNION SELECT run FROM index_garbage)";

/// Compares the runs with what the events said. `More::No`: nobody wants to know any more.
pub(super) fn verify(
    connection: &Connection,
    log: &LogRow,
    mut seen: Seen,
    verification: &mut Verification,
    is_wanted: &mut dyn FnMut() -> More,
) -> rusqlite::Result<More> {
    let runs = read_runs(connection)?;
    for (run, problem) in misplaced(&runs, u64::try_from(log.indexed_through).unwrap_or(0)) {
        verification.found(Finding::IndexRunDamaged { run, problem });
    }
    let mut orphans = connection.prepare(ORPHANS)?;
    for run in orphans.query_map([], |row| row.get(0))? {
        let problem = String::from("it has blocks, but there is no such run");
        verification.found(Finding::IndexRunDamaged { run: run?, problem });
    }
    let mut blocks = 0;
    for run in &runs {
        let mut is_over = false;
        let problems = entries(
            connection,
            *run,
            |entry| {
                verification.index_entries += 1;
                if is_of_event(entry, log, &seen) {
                    seen.fingerprint.find(entry);
                }
            },
            || {
                blocks += 1;
                is_over = blocks % BLOCKS_AT_ONCE == 0 && is_wanted() == More::No;
                is_over
            },
        )?;
        for problem in problems {
            verification.found(Finding::IndexRunDamaged { run: run.id, problem });
        }
        if is_over {
            return Ok(More::No);
        }
    }
    look_closely(connection, log, &runs, &seen, verification)?;
    Ok(More::Yes)
}

/// Whether an entry is of an event that can say whether it is right.
fn is_of_event(entry: Entry, log: &LogRow, seen: &Seen) -> bool {
    let pruned_through = u64::try_from(log.pruned_through).unwrap_or(0);
    entry.sequence > pruned_through && !seen.unknown.contains(entry.sequence)
}

/// Runs that reach into each other, or beyond what is said to be indexed. Runs are given in the order of the log.
fn misplaced(runs: &[Run], indexed_through: u64) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    let mut end = 0;
    for run in runs {
        let Range { after, through } = run.covers;
        if after >= through {
            found.push((run.id, format!("it ends at {through} and begins after {after}")));
        } else if after < end {
            found.push((
                run.id,
                format!("it begins after {after}, inside the run before it"),
            ));
        }
        if through > indexed_through {
            let problem = format!("it ends at {through}, the log is indexed through {indexed_through}");
            found.push((run.id, problem));
        }
        end = end.max(through);
    }
    found
}

/// Gives `take` the entries of a run that lie where they should, and says what is wrong with its blocks. `is_over` is asked
/// after each block.
fn entries(
    connection: &Connection,
    run: Run,
    mut take: impl FnMut(Entry),
    mut is_over: impl FnMut() -> bool,
) -> rusqlite::Result<BTreeSet<String>> {
    let mut problems = BTreeSet::new();
    let mut last = None;
    let mut statement = connection.prepare_cached(BLOCKS)?;
    let mut rows = statement.query([run.id])?;
    while let Some(row) = rows.next()? {
        let first = Entry {
            key: row.get(0)?,
            sequence: row.get::<_, i64>(1)?.cast_unsigned(),
        };
        match Block::new(row.get_ref(2)?.as_blob()?) {
            None => {
                problems.insert(String::from("a block has no whole number of entries"));
            }
            Some(block) if block.len() == 0 || block.get(0) != first => {
                problems.insert(String::from(
                    "a block does not begin with the entry that it is found by",
                ));
            }
            Some(block) => {
                for entry in (0..block.len()).map(|index| block.get(index)) {
                    if last >= Some(entry) {
                        problems.insert(String::from("its entries are not in order"));
                    }
                    last = Some(entry);
                    if entry.sequence <= run.covers.after || entry.sequence > run.covers.through {
                        problems.insert(String::from("it has entries of events that it does not cover"));
                    } else {
                        take(entry);
                    }
                }
            }
        }
        if is_over() {
            break;
        }
    }
    Ok(problems)
}

/// Names the entries in which index and events differ.
fn look_closely(
    connection: &Connection,
    log: &LogRow,
    runs: &[Run],
    seen: &Seen,
    verification: &mut Verification,
) -> rusqlite::Result<()> {
    let differing: Vec<Range> = seen.fingerprint.differences().collect();
    let (near, far) = differing.split_at(differing.len().min(STRETCHES_MAX));
    let mut indexed: BTreeMap<u64, BTreeSet<Entry>> = BTreeMap::new();
    let stretch_of = |sequence| {
        near.iter()
            .find(|range| range.after < sequence && sequence <= range.through)
    };
    for run in runs {
        let is_near = |range: &Range| run.covers.after < range.through && range.after < run.covers.through;
        if !near.iter().any(is_near) {
            continue;
        }
        let take = |entry: Entry| {
            if let Some(range) = stretch_of(entry.sequence)
                && is_of_event(entry, log, seen)
            {
                indexed.entry(range.after).or_default().insert(entry);
            }
        };
        entries(connection, *run, take, || false)?;
    }
    for range in near {
        let in_index = indexed.remove(&range.after).unwrap_or_default();
        if compare(connection, *range, log, seen, in_index, verification)? == 0 {
            differs(*range, verification);
        }
    }
    far.iter().for_each(|range| differs(*range, verification));
    Ok(())
}

fn differs(range: Range, verification: &mut Verification) {
    verification.found(Finding::IndexDiffers {
        first_sequence: range.after + 1,
        last_sequence: range.through,
    });
}

/// Compares the events of one stretch with the entries that the index has for them, and says how many differ.
fn compare(
    connection: &Connection,
    range: Range,
    log: &LogRow,
    seen: &Seen,
    mut in_index: BTreeSet<Entry>,
    verification: &mut Verification,
) -> rusqlite::Result<u64> {
    let mut found = 0;
    let mut known = BTreeSet::new();
    let range = Range {
        through: range.through.min(u64::try_from(log.indexed_through).unwrap_or(0)),
        ..range
    };
    carried(connection, range, &seen.paths, |sequence, carried| {
        let entry = Entry {
            key: carried.key,
            sequence,
        };
        if !is_of_event(entry, log, seen) || !known.insert(entry) || in_index.remove(&entry) {
            return;
        }
        found += 1;
        verification.found(Finding::IndexEntryMissing {
            sequence,
            carried: carried.by,
            key: entry.key,
        });
    })?;
    for Entry { key, sequence } in in_index {
        found += 1;
        verification.found(Finding::IndexEntryForeign { sequence, key });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_neither_overlap_nor_go_beyond_what_is_indexed() {
        let run = |id, after, through| Run {
            id,
            level: 0,
            covers: Range { after, through },
        };
        // A stretch without entries has no run.
        assert_eq!(misplaced(&[run(1, 0, 5), run(2, 7, 9)], 9), []);
        let wrong = |runs: &[Run], through| -> Vec<i64> {
            misplaced(runs, through).iter().map(|(run, _)| *run).collect()
        };
        assert_eq!(wrong(&[run(1, 0, 5), run(2, 4, 9)], 9), [2]);
        assert_eq!(wrong(&[run(1, 0, 5), run(2, 5, 10)], 9), [2]);
        assert_eq!(wrong(&[run(1, 5, 5)], 9), [1]);
    }
}

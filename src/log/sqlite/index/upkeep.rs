//! The index follows the log: the writer's half of it.
//!
//! Entries are staged when their batch is committed. Everything else is a chore, a small transaction of its own: to stage
//! what others appended, to spill the stage, to merge runs, to remove what was merged. A group that adds entries also makes
//! that much merging due, so that the runs stay few under any load and no group waits for more than a step.

use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::event::batch::CommittedBatch;
use crate::log::Pace;
use crate::log::page::Range;
use crate::log::sqlite::index::entry::{BLOCK_ENTRIES_MAX, Entry};
use crate::log::sqlite::index::path::{self, PayloadPath};
use crate::log::sqlite::index::run::{self, Stand};
use crate::log::sqlite::index::stage::Stage;
use crate::log::sqlite::index::tier::{self, Run};
use crate::log::sqlite::index::view::{IndexView, Shared};
use crate::log::sqlite::index::{entry, merge};
use crate::sync::Mutex;

/// How large the parts of the index grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// How many entries the stage holds before it is spilled.
    pub(crate) stage_entries: usize,
    /// The entries of how many events it holds: bounds what has to be read again after a restart.
    pub(crate) stage_events: u64,
    /// How many blocks one step of a merge writes.
    pub(crate) step_blocks: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            stage_entries: 16 << 10,
            stage_events: 16 << 10,
            step_blocks: 16,
        }
    }
}

/// How many events of others are staged in one step. Fewer wait until there is nothing else to do: another process that appends all the
/// time holds the file, and a search examines them one by one as well.
const CATCH_UP_EVENTS: u32 = 128;
/// How many entries are merged for each that is added: one for every level that it has to pass, and some to spare.
const MERGED_PER_ENTRY: usize = 8;

/// The index as the writer keeps it.
pub(crate) struct Upkeep {
    sizes: Sizes,
    pub(crate) view: IndexView,
    /// What the transaction under way, or the last one, read of `log`.
    stand: Stand,
    /// The generation that `merging`, `garbage` and the paths belong to.
    read_at: Option<i64>,
    runs: Arc<[Run]>,
    merging: Vec<u32>,
    garbage: Vec<i64>,
    /// The last sequence that is known to be committed.
    head: u64,
    /// How many entries are to be merged soon.
    debt: usize,
    /// What becomes true with the commit.
    spilled: Option<u64>,
}

/// A piece of upkeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    CatchUp,
    Spill,
    BeginMerge {
        level: u32,
        covers: Range,
    },
    Merge {
        level: u32,
    },
    /// A run of which no event is left.
    Retire {
        run: i64,
    },
    Sweep {
        run: i64,
    },
}

impl Upkeep {
    pub(crate) fn new(shared: Arc<Mutex<Shared>>, sizes: Sizes) -> Self {
        Self {
            sizes,
            view: IndexView::new(shared),
            stand: Stand::default(),
            read_at: None,
            runs: Arc::default(),
            merging: Vec::new(),
            garbage: Vec::new(),
            head: 0,
            debt: 0,
            spilled: None,
        }
    }

    /// The log was seen to end at `head`.
    pub(crate) fn saw(&mut self, head: u64) {
        self.head = self.head.max(head);
    }

    /// The transaction prunes the events up to here. When it does not come to be, the next one reads what is true.
    pub(crate) fn pruned(&mut self, through: u64) {
        self.stand.pruned_through = through;
    }

    /// A transaction has begun, in which the log ends at `head`.
    pub(crate) fn begin(&mut self, connection: &Connection, head: u64, stand: Stand) -> rusqlite::Result<()> {
        self.head = head;
        self.stand = stand;
        if self.read_at == Some(stand.generation) {
            return Ok(());
        }
        let paths = run::read_paths(connection)?;
        self.read_runs(connection)?;
        let mut shared = self.view.shared.lock();
        let (covers, indexed) = (shared.stage.covers(), stand.indexed_through);
        if *shared.paths == *paths && covers.after <= indexed && indexed <= covers.through {
            // Another process may have spilled.
            shared.stage.spilled(indexed);
        } else {
            // The stage does not join on to the runs: it is new, or the index was begun anew for another path.
            shared.paths = paths.into();
            shared.stage = Stage::behind(indexed);
        }
        Ok(())
    }

    /// Reads which runs there are, and what is being done with them, as the transaction shows it.
    fn read_runs(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let generation = self.stand.generation;
        self.runs = Arc::clone(self.view.runs.at(connection, generation)?);
        self.merging = merge::levels(connection)?;
        self.garbage = merge::garbage(connection)?;
        self.read_at = Some(generation);
        Ok(())
    }

    /// Through which event the stage knows all entries, and of which paths.
    fn staged(&self) -> (u64, Arc<[PayloadPath]>) {
        let shared = self.view.shared.lock();
        (shared.stage.covers().through, Arc::clone(&shared.paths))
    }

    /// Takes the entries of a batch that was just inserted.
    pub(crate) fn append(&mut self, batch: &CommittedBatch) {
        let (staged, paths) = self.staged();
        let pending = &mut self.view.pending;
        if staged.max(pending.through) + 1 != batch.first_sequence {
            // The stage is behind; it catches up with the rows.
            return;
        }
        for event in &batch.events {
            let sequence = event.sequence;
            path::keys(event, &paths, |key| pending.entries.push(Entry { key, sequence }));
        }
        pending.through = batch.last_sequence;
    }

    /// The transaction is committed; the log ends at `head`.
    pub(crate) fn committed(&mut self, head: u64) {
        self.head = self.head.max(head);
        let pending = &mut self.view.pending;
        let added = pending.entries.len();
        let mut shared = self.view.shared.lock();
        if pending.through > 0 {
            shared.stage.extend(pending.entries.drain(..), pending.through);
            pending.through = 0;
        }
        if let Some(through) = self.spilled.take() {
            shared.stage.spilled(through);
        }
        drop(shared);
        self.debt = self.debt.saturating_add(added * MERGED_PER_ENTRY);
    }

    /// The transaction did not come to be.
    pub(crate) fn rolled_back(&mut self) {
        self.view.pending.entries.clear();
        self.view.pending.through = 0;
        self.view.runs.forget();
        self.read_at = None;
        self.spilled = None;
    }

    /// What is due now; when there is nothing else to do, what could be done as well.
    pub(crate) fn chore(&mut self, pace: Pace) -> Option<Chore> {
        let is_idle = pace == Pace::Idle;
        let (covers, entries) = {
            let stage = &self.view.shared.lock().stage;
            (stage.covers(), stage.len())
        };
        let unspilled = covers.through.saturating_sub(self.stand.indexed_through);
        if entries >= self.sizes.stage_entries || unspilled >= self.sizes.stage_events {
            return Some(Chore::Spill);
        }
        let behind = self.head.saturating_sub(covers.through);
        if behind >= CATCH_UP_EVENTS.into() || is_idle && behind > 0 {
            return Some(Chore::CatchUp);
        }
        let chore = self.merge_chore();
        if chore.is_none() {
            self.debt = 0;
        }
        chore.filter(|_| is_idle || self.debt >= self.step_entries())
    }

    fn step_entries(&self) -> usize {
        self.sizes.step_blocks * BLOCK_ENTRIES_MAX
    }

    fn merge_chore(&self) -> Option<Chore> {
        if let Some(run) = tier::outlived(&self.runs, self.stand.pruned_through, |level| {
            self.merging.contains(&level)
        }) {
            return Some(Chore::Retire { run });
        }
        let due = tier::due(&self.runs, |level| self.merging.contains(&level));
        let under_way = self.merging.first().copied();
        match (due, under_way) {
            (Some((level, covers)), under_way) if under_way.is_none_or(|other| level < other) => {
                Some(Chore::BeginMerge { level, covers })
            }
            (_, Some(level)) => Some(Chore::Merge { level }),
            (_, None) => self.garbage.last().map(|run| Chore::Sweep { run: *run }),
        }
    }

    /// Does one chore inside a transaction.
    pub(crate) fn perform(&mut self, connection: &Connection, chore: Chore) -> rusqlite::Result<()> {
        match chore {
            Chore::CatchUp => self.catch_up(connection),
            Chore::Spill => self.spill(connection),
            Chore::BeginMerge { level, covers } => {
                merge::begin(connection, level, covers)?;
                self.changed(connection, self.stand.indexed_through)
            }
            Chore::Merge { level } => {
                self.debt = self.debt.saturating_sub(self.step_entries());
                if merge::step(
                    connection,
                    level,
                    &self.runs,
                    self.step_entries(),
                    self.stand.pruned_through,
                )? {
                    self.changed(connection, self.stand.indexed_through)?;
                }
                Ok(())
            }
            Chore::Retire { run } => {
                merge::retire(connection, run)?;
                self.changed(connection, self.stand.indexed_through)
            }
            Chore::Sweep { run } => {
                self.debt = self.debt.saturating_sub(self.step_entries());
                if merge::sweep(connection, run)? {
                    self.garbage.retain(|other| *other != run);
                }
                Ok(())
            }
        }
    }

    /// Stages the entries of events that stand in the log, because another process appended them or this one began after them.
    fn catch_up(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let (staged, paths) = self.staged();
        let pending = &mut self.view.pending;
        let mut statement = connection.prepare_cached(
            "SELECT sequence, tags, iif(?3, payload, NULL) FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
        )?;
        let mut rows = statement.query(params![staged as i64, CATCH_UP_EVENTS, !paths.is_empty()])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)? as u64;
            let mut take = |key| pending.entries.push(Entry { key, sequence });
            if let Some(tags) = row.get_ref(1)?.as_str_or_null()? {
                for tag in serde_json::from_str::<Vec<String>>(tags).unwrap_or_default() {
                    take(entry::tag_key(&tag));
                }
            }
            if let Some(payload) = row.get_ref(2)?.as_str_or_null()? {
                path::keys_of_payload(payload, &paths, take);
            }
            pending.through = sequence;
            count += 1;
        }
        if count < CATCH_UP_EVENTS {
            pending.through = self.head;
        }
        Ok(())
    }

    /// Writes the stage as a run.
    fn spill(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let (covers, mut entries) = {
            let stage = &self.view.shared.lock().stage;
            (stage.covers(), stage.entries())
        };
        entries.retain(|entry| entry.sequence > self.stand.pruned_through);
        if !entries.is_empty() {
            let id = run::new_id(connection)?;
            run::insert_run(connection, Run { id, level: 0, covers })?;
            run::insert_blocks(connection, id, &entries)?;
        }
        self.spilled = Some(covers.through);
        self.changed(connection, covers.through)
    }

    /// Notes in the file that the runs are others than before.
    fn changed(&mut self, connection: &Connection, indexed_through: u64) -> rusqlite::Result<()> {
        self.stand = Stand {
            indexed_through,
            generation: self.stand.generation + 1,
            ..self.stand
        };
        run::set_stand(connection, self.stand)?;
        self.read_runs(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::index::view;

    #[test]
    fn what_another_process_appends_now_and_then_joins_the_index_when_there_is_nothing_else_to_do() {
        let mut upkeep = Upkeep::new(view::shared(), Sizes::default());
        assert_eq!(upkeep.chore(Pace::Idle), None);
        upkeep.saw(u64::from(CATCH_UP_EVENTS) - 1);
        assert_eq!(upkeep.chore(Pace::Busy), None);
        assert_eq!(upkeep.chore(Pace::Idle), Some(Chore::CatchUp));
        upkeep.saw(CATCH_UP_EVENTS.into());
        assert_eq!(upkeep.chore(Pace::Busy), Some(Chore::CatchUp));
    }
}

//! Checkpoints: what was committed moves from the write-ahead log to its place in the file, and the log starts again.
//!
//! SQLite would do that inside the commit that makes the log long, a thousand pages at once, while the callers of that
//! commit wait. Here it is done in small portions between two groups, when the callers have their answers. The log can only
//! start again when all of it was moved and nobody reads from it; when readers that overlap keep it from that, the
//! committer waits for them as soon as the log has become too long. Another process that writes would have committed more
//! before a portion is moved, each time, and each sync of a log whose file grows takes longer; so it is held up meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;

use crate::log::sqlite::turns::{be_patient, be_patient_for};

/// How many pages are moved at once, at least. A portion costs two syncs, and holds the next group up for as long as it takes.
const PORTION: usize = 250;
/// A portion is what so many groups like the newest write, so that its syncs are few beside theirs.
const PORTION_GROUPS: usize = 32;
/// However much a group writes, this many are moved.
const PORTION_MAX: usize = 1_000;
/// From how many pages on the committer waits until the log can start again.
const FORCE_AT: usize = 2_000;
/// How long it waits for readers. Then the log may become twice as long before it waits again.
const FORCE_WITHIN: Duration = Duration::from_millis(100);
/// How long a portion waits for another process, and for readers, when others write as well.
const MOVE_WITHIN: Duration = Duration::from_millis(3);
/// What the file of the log is cut to when it starts again after it had become longer.
const FILE_BYTES_MAX: i64 = 16 << 20;

pub(super) struct Checkpoints {
    /// How many pages the log has, as of the writer's last commit.
    pages: Arc<AtomicUsize>,
    plan: Plan,
}

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// How long the log was when it was moved last.
    moved: usize,
    force_at: usize,
    /// How long the log was at the last look.
    seen: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Move what no reader needs in the log. The next group starts the log again, unless readers are in the way.
    Move,
    /// Move everything, and wait for the readers.
    Force,
}

impl Plan {
    const START: Self = Self {
        moved: 0,
        force_at: FORCE_AT,
        seen: 0,
    };

    /// What to do about a log of so many pages. What it says is done, or tried, before it is asked again.
    fn step(&mut self, pages: usize) -> Step {
        if pages < self.seen {
            // The log has started again.
            *self = Self::START;
        }
        let group = pages - self.seen;
        self.seen = pages;
        let portion = (PORTION_GROUPS * group).clamp(PORTION, PORTION_MAX);
        if pages < self.moved + portion {
            return Step::Nothing;
        }
        self.moved = pages;
        if pages < self.force_at {
            return Step::Move;
        }
        self.force_at = 2 * pages;
        Step::Force
    }
}

impl Checkpoints {
    /// Takes the checkpoints of the writer's connection over from SQLite.
    pub(super) fn of(writer: &mut Connection) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pages);
        writer.pragma_update(None, "journal_size_limit", FILE_BYTES_MAX)?;
        // The hook takes the place of SQLite's own, which is the one that makes checkpoints.
        writer.wal_hook(Some(move |_: &mut Wal, count| {
            // Relaxed: it is read on the same thread.
            counter.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let plan = Plan::START;
        Ok(Self { pages, plan })
    }

    /// Does what is due, between two transactions of the writer. `false`, mostly: nothing was.
    pub(super) fn step(&mut self, writer: &mut Connection, has_others: bool) -> bool {
        let outcome = match self.plan.step(self.pages.load(Ordering::Relaxed)) {
            Step::Nothing => return false,
            Step::Move if has_others => checkpoint_within(MOVE_WITHIN, writer, CheckpointMode::FULL),
            Step::Move => checkpoint(writer, CheckpointMode::PASSIVE),
            Step::Force => checkpoint_within(FORCE_WITHIN, writer, CheckpointMode::RESTART),
        };
        if let Err(error) = outcome {
            // Another process may be at it. The next portion tries again.
            tracing::debug!(%error, "the write-ahead log could not be moved");
        }
        true
    }
}

/// Waits for those who are in the way, and moves what can be moved without them when they stay there for so long.
fn checkpoint_within(time: Duration, writer: &mut Connection, mode: CheckpointMode) -> rusqlite::Result<()> {
    be_patient_for(writer, time)?;
    let outcome = checkpoint(writer, mode);
    be_patient(writer)?;
    outcome
}

fn checkpoint(writer: &Connection, mode: CheckpointMode) -> rusqlite::Result<()> {
    writer.wal_checkpoint_v2(None::<&str>, mode)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_moved_in_portions_and_starts_again() {
        let mut plan = Plan::START;
        for _ in 0..2 {
            assert!((1..PORTION).all(|pages| plan.step(pages) == Step::Nothing));
            assert_eq!(plan.step(PORTION), Step::Move);
            assert_eq!(plan.step(PORTION + 1), Step::Nothing);
        }
    }

    #[test]
    fn what_large_groups_write_is_moved_in_larger_portions() {
        for (group, portion) in [(1, 250), (7, 252), (20, 640), (40, 1_000), (400, 1_200)] {
            let mut plan = Plan::START;
            let moves = (1..)
                .map(|groups| groups * group)
                .find(|pages| plan.step(*pages) != Step::Nothing);
            assert_eq!(moves, Some(portion), "groups of {group} pages");
        }
    }

    #[test]
    fn a_log_that_readers_hold_is_forced_rarely() {
        let mut plan = Plan::START;
        let steps = (1..=40 * PORTION).map(|pages| plan.step(pages));
        let steps: Vec<Step> = steps.filter(|step| *step != Step::Nothing).collect();
        assert_eq!(steps.len(), 40, "one portion after the other");
        let forced = steps.iter().enumerate().filter(|(_, step)| **step == Step::Force);
        let at: Vec<usize> = forced.map(|(index, _)| (index + 1) * PORTION).collect();
        assert_eq!(at, [FORCE_AT, 2 * FORCE_AT, 4 * FORCE_AT]);
    }
}

//! Pruning: which of the oldest batches leave the log, one step at a time.
//!
//! What is decided here is pure: how far a step may go, and who keeps it from going further. A step is applied inside the
//! transaction of the group that it rides in, so it is small, and sees the cursors as that transaction does. Whole batches
//! leave, so no batch is ever read in part, and `pruned_through` moves with them: whoever asks for what lies before it is told
//! so, and its sequences are not given again (L4).

use std::time::SystemTime;

use crate::clock::Timestamp;
use crate::error::StorageError;
use crate::log::page::Range;
use crate::log::{LogWriter, Tail};

/// What [`prune`](crate::Store::prune) is to remove: the batches before a sequence, or older than a time. A plain number is a
/// sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says what to prune; give it to `Store::prune`"]
pub struct Prune {
    pub(crate) target: Target,
    pub(crate) holders: Holders,
    /// Whether dead letters keep what they stand for.
    pub(crate) letters: Holders,
}

/// How far the log is to be pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Before(u64),
    OlderThan(Timestamp),
}

/// Whether streams that are behind keep what they have not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    Hold,
    ArePassed,
}

impl Prune {
    /// The batches that end before this sequence. The batch that contains it stays as a whole.
    pub fn before(sequence: u64) -> Self {
        Self {
            target: Target::Before(sequence),
            holders: Holders::Hold,
            letters: Holders::Hold,
        }
    }

    /// The batches that were recorded before this time.
    pub fn older_than(time: SystemTime) -> Self {
        Self {
            target: Target::OlderThan(time.into()),
            holders: Holders::Hold,
            letters: Holders::Hold,
        }
    }

    /// Removes also what streams have not settled yet, but not what dead letters stand for. A durable stream that is passed is refused when it is registered
    /// the next time; one that runs and needs what is gone stops with [`ReadError::Pruned`](crate::ReadError::Pruned).
    pub fn past_cursors(mut self) -> Self {
        self.holders = Holders::ArePassed;
        self
    }

    /// Removes also what dead letters stand for that wait to be retried. Such a letter stays, with its cause; what it stands for
    /// can be shown and retried no more.
    pub fn past_dead_letters(mut self) -> Self {
        self.letters = Holders::ArePassed;
        self
    }
}

impl From<u64> for Prune {
    fn from(before: u64) -> Self {
        Self::before(before)
    }
}

/// What a [`prune`](crate::Store::prune) came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it says whether a stream held the prune up"]
pub struct Pruned {
    /// How many events were removed.
    pub removed_events: u64,
    /// Everything up to this sequence is gone now, by this prune or an earlier one.
    pub pruned_through: u64,
    /// Who kept the prune from going as far as it was asked to; nothing, when it went that far.
    pub held_by: Option<HeldBy>,
}

/// The stream that is furthest behind, and kept a prune from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBy {
    /// The name of a durable stream, whether it runs or not; nothing, when it is a running stream without a name.
    pub stream: Option<String>,
    /// The last sequence that it has settled, as far as it is stored; or the one before its oldest dead letter.
    pub position: u64,
    /// Where that dead letter begins; nothing, when it is not a letter that holds.
    pub dead_letter: Option<u64>,
}

/// One step of a prune, as the committer is asked for it.
#[derive(Clone, Debug)]
pub(crate) struct PruneStep {
    pub(crate) target: Target,
    pub(crate) holders: Holders,
    pub(crate) letters: Holders,
    /// The running stream without a cursor that is furthest behind.
    pub(crate) live: Option<HeldBy>,
}

/// What a step came to.
#[derive(Clone, Debug)]
pub(crate) struct StepDone {
    /// None: there is nothing left to do.
    pub(crate) removed_events: u64,
    pub(crate) pruned_through: u64,
    /// What the target means in sequences, for the steps that follow.
    pub(crate) target: Target,
    pub(crate) held_by: Option<HeldBy>,
}

/// How many events one step removes, if its first batch is not larger.
pub(crate) const STEP_EVENTS_MAX: u64 = 256;

/// Takes one step inside the transaction. `head` is the last published sequence: what is on its way to the streams stays.
pub(crate) fn step<W: LogWriter>(
    writer: &mut W,
    step: &PruneStep,
    tail: &mut Tail,
    head: u64,
    log_id: &str,
) -> Result<StepDone, StorageError> {
    let wanted = match step.target {
        Target::Before(sequence) => sequence.saturating_sub(1),
        Target::OlderThan(time) => writer.position_at(time)?,
    };
    let wanted = wanted.min(head);
    let holder = match step.holders {
        Holders::Hold => furthest_behind(writer.slowest_cursor(log_id)?, step.live.clone()),
        Holders::ArePassed => None,
    };
    let letter = match step.letters {
        Holders::Hold => writer.oldest_letter()?,
        Holders::ArePassed => None,
    };
    let letter = letter.map(|(stream, first_sequence)| HeldBy {
        stream: Some(stream),
        position: first_sequence.saturating_sub(1),
        dead_letter: Some(first_sequence),
    });
    let holder = furthest_behind(holder, letter);
    let wanted_border = border_at(writer, wanted)?;
    let held_by = holder.filter(|holder| holder.position < wanted_border);
    let limit = match &held_by {
        Some(holder) => border_at(writer, holder.position)?,
        None => wanted_border,
    };
    // A holder in the middle of a batch that would stay anyway holds nothing.
    let held_by = held_by.filter(|_| limit < wanted_border);
    let mut removed_events = 0;
    if let Some(oldest) = writer.oldest_batch()? {
        let reach = limit.min(oldest.after + STEP_EVENTS_MAX);
        let through = step_end(oldest, limit, border_at(writer, reach)?);
        if let Some(through) = through {
            removed_events = writer.remove_through(through)?;
            tail.pruned_through = through;
        }
    }
    Ok(StepDone {
        removed_events,
        pruned_through: tail.pruned_through,
        target: Target::Before(wanted + 1),
        held_by,
    })
}

fn border_at<W: LogWriter>(writer: &mut W, sequence: u64) -> Result<u64, StorageError> {
    Ok(border(sequence, writer.batch_at(sequence)?))
}

/// Where whole batches end at or before a sequence, given the batch of the newest event up to it.
fn border(sequence: u64, batch: Option<Range>) -> u64 {
    match batch {
        None => 0,
        Some(batch) if batch.through <= sequence => batch.through,
        Some(batch) => batch.after,
    }
}

/// How far a step goes: to the border within its reach, and through the oldest batch in any case, unless that goes beyond
/// the limit.
fn step_end(oldest: Range, limit: u64, border: u64) -> Option<u64> {
    let through = border.max(oldest.through);
    (through <= limit).then_some(through)
}

/// Of two that hold, the one that is further behind.
pub(crate) fn furthest_behind(one: Option<HeldBy>, other: Option<HeldBy>) -> Option<HeldBy> {
    [one, other]
        .into_iter()
        .flatten()
        .min_by_key(|holder| holder.position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(after: u64, through: u64) -> Range {
        Range { after, through }
    }

    #[test]
    fn a_border_never_cuts_a_batch() {
        assert_eq!(border(9, None), 0);
        assert_eq!(border(4, Some(batch(2, 4))), 4);
        assert_eq!(border(9, Some(batch(2, 4))), 4);
        assert_eq!(border(3, Some(batch(2, 4))), 2);
    }

    #[test]
    fn a_step_takes_the_oldest_batch_however_large_and_never_goes_beyond_the_limit() {
        // Several batches in reach; the oldest is larger than a step; it goes beyond the limit.
        assert_eq!(step_end(batch(0, 2), 100, 90), Some(90));
        assert_eq!(step_end(batch(0, 900), 1_000, 0), Some(900));
        assert_eq!(step_end(batch(0, 900), 899, 0), None);
        assert_eq!(step_end(batch(10, 20), 10, 10), None);
    }

    #[test]
    fn the_one_that_is_further_behind_holds() {
        let at = |position| {
            Some(HeldBy {
                stream: None,
                position,
                dead_letter: None,
            })
        };
        assert_eq!(furthest_behind(at(7), at(3)), at(3));
        assert_eq!(furthest_behind(None, at(3)), at(3));
        assert_eq!(furthest_behind(None, None), None);
    }
}

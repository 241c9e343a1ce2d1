//! What the committer does for reactors: a reaction and what it settles are one thing, inside the transaction of the group.

use std::sync::Arc;

use crate::error::{AppendError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::fault::FaultPoint;
use crate::log::committer::{Committer, injected};
use crate::log::cursor::{CursorCell, CursorWrite, Run};
use crate::log::letter::{self, LetterChange, LetterDone};
use crate::log::reaction::{ReactRequest, Reacted, Settles};
use crate::log::{LogWriter, Tail};

/// What the reactions of a group come to, once it is committed.
#[derive(Default)]
pub(crate) struct GroupReactions {
    /// The positions that were stored with reactions.
    moved: Vec<(Arc<CursorCell>, u64)>,
    /// A reaction was refused because somebody else owns the name.
    has_lost: bool,
}

impl GroupReactions {
    /// The position that a cell is to be stored with in this group. One that was handed over before is older than the one that
    /// went with a reaction, and must not follow it.
    pub(super) fn position_of(&self, cell: &Arc<CursorCell>, handed: u64) -> u64 {
        let own = self.moved.iter().filter(|(moved, _)| Arc::ptr_eq(moved, cell));
        own.map(|(_, position)| *position).fold(handed, u64::max)
    }
}

impl<W: LogWriter> Committer<W> {
    /// Appends a reaction and settles what it answers, or refuses it before anything is written.
    pub(super) fn react(
        &mut self,
        request: &mut ReactRequest,
        tail: &mut Tail,
        batches: &mut Vec<Arc<CommittedBatch>>,
    ) -> Result<Reacted, StorageError> {
        if let Some(refusal) = self.refusal(&request.settles)? {
            self.reactions.has_lost |= matches!(refusal, Reacted::OwnershipLost);
            return Ok(refusal);
        }
        match self.check(request.reaction.condition.as_ref(), tail.pruned_through) {
            Ok(()) => {}
            Err(AppendError::Conflict { expected, found }) => {
                return Ok(Reacted::Conflict { expected, found });
            }
            Err(AppendError::Undecodable(event)) => return Ok(Reacted::Undecodable(event)),
            Err(AppendError::Storage(error)) => return Err(error),
            Err(error) => return Err(StorageError::new("check the context", error)),
        }
        let events = std::mem::take(&mut request.reaction.events);
        let batch = Arc::new(CommittedBatch::stamp(events, tail.head + 1, tail.recorded_at));
        self.writer.append(&batch)?;
        tail.head = batch.last_sequence;
        batches.push(batch);
        if self.faults.hit(FaultPoint::InReaction) {
            return Err(injected("append a reaction"));
        }
        self.settle_with_reaction(&request.settles)
    }

    /// Why a reaction is not to be appended, if it is not.
    fn refusal(&mut self, settles: &Settles) -> Result<Option<Reacted>, StorageError> {
        let (name, epoch) = match settles {
            Settles::Batch { cell, .. } => (&cell.name, cell.epoch),
            Settles::Letter { name, epoch, .. } => (name, *epoch),
        };
        let owned = self.writer.cursor(name)?.filter(|cursor| cursor.epoch == epoch);
        let Some(cursor) = owned else {
            return Ok(Some(Reacted::OwnershipLost));
        };
        let is_open = match settles {
            Settles::Batch { position, .. } => cursor.position < *position,
            Settles::Letter { first_sequence, .. } => self.writer.letter(name, *first_sequence)?.is_some(),
        };
        Ok((!is_open).then_some(Reacted::Settled))
    }

    /// Settles what a reaction answers that was just written.
    fn settle_with_reaction(&mut self, settles: &Settles) -> Result<Reacted, StorageError> {
        match settles {
            Settles::Batch { cell, position } => {
                let is_owner = self.writer.move_cursor(&CursorWrite {
                    name: &cell.name,
                    epoch: cell.epoch,
                    position: *position,
                    run: Run::GoesOn,
                })?;
                assert!(is_owner, "the owner was looked at in the same transaction");
                self.reactions.moved.push((Arc::clone(cell), *position));
                Ok(Reacted::Done(None))
            }
            Settles::Letter {
                name,
                epoch,
                first_sequence,
                request,
            } => {
                let change = LetterChange::Retried {
                    name: Arc::clone(name),
                    epoch: *epoch,
                    first_sequence: *first_sequence,
                    request: *request,
                };
                match letter::apply(&mut self.writer, &change)? {
                    LetterDone::Done(counts) => Ok(Reacted::Done(Some(counts))),
                    done => unreachable!("the letter was looked at in the same transaction: {done:?}"),
                }
            }
        }
    }

    /// The group is committed: its streams know the positions that went with reactions before they are answered.
    pub(super) fn reactions_are_committed(&mut self) {
        let GroupReactions { moved, has_lost } = std::mem::take(&mut self.reactions);
        for (cell, position) in moved {
            cell.stored(position);
        }
        if has_lost {
            self.hear_why();
        }
    }
}

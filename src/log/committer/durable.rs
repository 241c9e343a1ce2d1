//! What the committer does for durable streams: their cursors and their dead letters.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::{StorageError, StreamError};
use crate::fault::FaultPoint;
use crate::log::committer::own::Contest;
use crate::log::committer::{Committer, injected, takeover};
use crate::log::cursor::{
    CursorCell, CursorClaim, CursorFailure, CursorWrite, Occasion, Opened, OpenedCursor, Run, Start,
    StoredCursor,
};
use crate::log::letter::{self, Attempt, LetterDone, LetterRequest};
use crate::log::owner::{Ownership, Role};
use crate::log::{Extent, LogWriter, Sync, Tail};

/// How often storing a cursor is tried, and the pause between two tries.
const CURSOR_ATTEMPTS_MAX: u32 = 5;
const CURSOR_RETRY_WITHIN: Duration = Duration::from_millis(50);

impl<W: LogWriter> Committer<W> {
    /// Finds out where a durable stream starts, and stores that under a new epoch before anybody is told (D1, D6).
    pub(super) fn open_cursor(&mut self, claim: &CursorClaim, tail: Tail) -> Result<Opened, StreamError> {
        let Tail {
            head, pruned_through, ..
        } = tail;
        let stored = self.writer.cursor(&claim.name)?;
        let extent = Extent { pruned_through, head };
        if let Some(by) = stored.as_ref().and_then(StoredCursor::successor) {
            return Err(takeover::taken_over(&claim.name, by));
        }
        if claim.occasion == Occasion::TakeOver && stored.is_none() {
            return Ok(Opened::Gone);
        }
        let ousted = match self.contest(&claim.name, claim.ownership)? {
            Contest::Free { ousted, .. } => ousted,
            Contest::Owned(owner) => {
                let stands_by = self.stand_by(claim, stored.as_ref(), tail, owner)?;
                return Ok(Opened::StandsBy(stands_by));
            }
        };
        let (position, older) = self.begins_at(claim, stored.as_ref(), extent)?;
        if position < pruned_through {
            tracing::info!(stream = %claim.name, pruned_through, "a stream begins with what pruning left");
        }
        let position = position.max(pruned_through);
        let discarded = self.writer.remove_letters_after(&claim.name, position)?;
        if discarded > 0 {
            tracing::warn!(stream = %claim.name, position, discarded, "a stream starts over, its dead letters from there on are gone");
        }
        // What is noted of an attempt is about a position; elsewhere it says nothing.
        let known = older.as_ref().or(stored.as_ref());
        let known = known.filter(|known| known.position == position);
        let previous = known.map(|known| known.attempt);
        let previous = previous.unwrap_or_default();
        let epoch = self.writer.next_epoch()?;
        let (steering, mut paused, retry) = stored.map_or((0, None, None), |stored| {
            (stored.steering, stored.paused, stored.retry)
        });
        if let Some(older) = older {
            paused = paused.or(older.paused);
        }
        let cursor = StoredCursor {
            position,
            query: claim.query.clone(),
            log_id: self.log_id.clone(),
            attempt: if previous.count == 0 {
                Attempt::RUNNING
            } else {
                previous
            },
            epoch,
            owner: epoch,
            steering,
            paused,
            retry,
            updated_at: Timestamp::now(),
        };
        self.writer.put_cursor(&claim.name, &cursor)?;
        let role = match claim.ownership {
            Ownership::Standby => Role::Owner,
            Ownership::Fail | Ownership::TakeOver => Role::SoleOwner,
        };
        self.own(&claim.name, role, &ousted)?;
        Ok(Opened::Owned(OpenedCursor {
            row: cursor,
            head,
            previous,
            letters: self.writer.letter_counts(&claim.name)?,
        }))
    }

    /// Where a durable stream begins, and the row of the stream whose place it takes.
    fn begins_at(
        &mut self,
        claim: &CursorClaim,
        stored: Option<&StoredCursor>,
        extent: Extent,
    ) -> Result<(u64, Option<StoredCursor>), StreamError> {
        if let Some(position) = claim.resume(stored, extent, &self.log_id)? {
            return Ok((position, None));
        }
        let Extent { pruned_through, head } = extent;
        let position = match &claim.start {
            Start::Beginning => 0,
            Start::Now => head,
            &Start::After(position) if position > head => {
                return Err(StreamError::StartAhead { position, head });
            }
            &Start::After(position) if position < pruned_through => {
                return Err(claim.pruned(position, pruned_through));
            }
            &Start::After(position) => position,
            &Start::At(time) => self.writer.position_at(time.into())?,
            Start::AfterStream(name) => {
                let older = self.take_over(claim, name, extent)?;
                return Ok((older.position, Some(older)));
            }
        };
        Ok((position, None))
    }

    /// Changes dead letters in a transaction of its own, so that what fails here fails no append. Asks for no sync: what a
    /// power cut takes is the letter and the cursor's move over it, and the stream comes to it again (D3).
    pub(super) fn change_letters(&mut self, request: LetterRequest) {
        let outcome = self.begin(Sync::Ordered).and_then(|_| {
            let done = letter::apply(&mut self.writer, &request.change)?;
            if self.faults.hit(FaultPoint::BeforeLetter) {
                return Err(injected("store a dead letter"));
            }
            self.writer.commit()?;
            Ok(done)
        });
        if matches!(outcome, Ok(LetterDone::OwnershipLost)) {
            self.hear_why();
        }
        match &outcome {
            Ok(done) => request.change.committed(done),
            Err(_) => self.writer.rollback(),
        }
        // Who has gone does not need the answer.
        let _ = request.reply.send(outcome);
    }

    /// Writes the newest position of each cell inside the transaction.
    pub(super) fn move_cursors(
        &mut self,
        cells: &[Arc<CursorCell>],
        moves: &mut Vec<Move>,
    ) -> Result<(), StorageError> {
        if !cells.is_empty() && self.faults.hit(FaultPoint::BeforeCursor) {
            return Err(injected("store the cursors"));
        }
        // A cell that was tried again may be there twice, and of two writes of one row nothing says which is the last.
        let mut seen = HashSet::new();
        let cells: Vec<_> = cells
            .iter()
            .filter(|cell| seen.insert(Arc::as_ptr(cell)))
            .collect();
        let mut writes = Vec::with_capacity(cells.len());
        for cell in &cells {
            let (position, run) = cell.pick_up();
            writes.push(CursorWrite {
                name: &cell.name,
                epoch: cell.epoch,
                position: self.reactions.position_of(cell, position),
                run,
            });
        }
        if writes.is_empty() {
            return Ok(());
        }
        let moved = self.writer.move_cursors(&writes)?;
        for ((cell, write), is_owner) in cells.iter().copied().zip(writes).zip(moved) {
            if is_owner && write.run == Run::Ended {
                self.let_go(&cell.name)?;
            }
            moves.push(Move {
                cell: Arc::clone(cell),
                position: write.position,
                run: write.run,
                is_owner,
            });
        }
        Ok(())
    }

    /// Stores cursors that no group came for, without asking the disk to sync (D3).
    pub(super) fn flush_cursors(&mut self, cells: &[Arc<CursorCell>]) {
        let started = Instant::now();
        self.in_hand = cells.to_vec();
        let mut moves = Vec::with_capacity(cells.len());
        let outcome = self.begin(Sync::Ordered).and_then(|_| {
            self.move_cursors(cells, &mut moves)?;
            self.writer.commit()
        });
        match outcome {
            Ok(()) => {
                self.meter.stored_cursors(started);
                self.settle_cursors(moves);
            }
            Err(error) => {
                self.writer.rollback();
                self.retry_cursors(cells, &error);
            }
        }
    }

    pub(super) fn settle_cursors(&mut self, moves: Vec<Move>) {
        if moves.is_empty() {
            return;
        }
        self.faults.hit(FaultPoint::AfterCursor);
        if moves.iter().any(|cursor| !cursor.is_owner) {
            self.hear_why();
        }
        for Move {
            cell,
            position,
            run,
            is_owner,
        } in moves
        {
            self.cursor_retries.remove(&cell.name);
            if is_owner {
                cell.stored(position);
                if run == Run::Ended {
                    cell.ended();
                }
            } else {
                tracing::debug!(stream = %cell.name, epoch = cell.epoch, "a cursor was refused, its epoch has passed");
                cell.fail(CursorFailure::OwnershipLost);
            }
        }
    }

    /// Storing failed. A busy file passes, so it is tried again a few times; then the stream ends loudly.
    pub(super) fn retry_cursors(&mut self, cells: &[Arc<CursorCell>], error: &StorageError) {
        for cell in cells {
            cell.pick_up();
            let attempts = self.cursor_retries.entry(Arc::clone(&cell.name)).or_insert(0);
            *attempts += 1;
            if *attempts < CURSOR_ATTEMPTS_MAX {
                self.queue.retry_cursor(cell, CURSOR_RETRY_WITHIN);
            } else {
                self.cursor_retries.remove(&cell.name);
                tracing::error!(stream = %cell.name, %error, "the cursor could not be stored");
                cell.fail(CursorFailure::Storage(error.clone()));
            }
        }
    }
}

/// A cursor that was written inside a transaction.
pub(super) struct Move {
    cell: Arc<CursorCell>,
    position: u64,
    run: Run,
    is_owner: bool,
}

//! One transaction of a projection in the log's file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::error::{InLogError, ReadModelError, StorageError};
use crate::event::batch::EventBatch;
use crate::fault::{FaultPoint, Faults};
use crate::log::beside::{BesideWork, End, Written};
use crate::log::cursor::{CursorCell, CursorWrite, Run, StoredCursor};
use crate::log::sqlite::beside::Desk;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::guard::Rules;
use crate::meter::ModelMeter;
use crate::projection::applier::Call;
use crate::projection::build::{Applied, NotApplied, Spec, TransactionLimits, attempt, injected};
use crate::projection::in_log::options::Limits;
use crate::projection::in_log::rows::{self, Names};
use crate::projection::projection::Kept;

/// What is the same for all transactions of a model.
pub(super) struct Plan {
    pub(super) spec: Spec,
    pub(super) own: Names,
    pub(super) others: Names,
    pub(super) limits: Limits,
    pub(super) faults: Faults,
    pub(super) meter: ModelMeter,
}

/// The projection, with one at a time at work on it.
pub(super) struct Hand {
    pub(super) projection: Box<dyn Kept>,
    /// Nobody has heard yet what its last transaction came to.
    pub(super) is_under_way: bool,
}

/// What a step came to, and the projection back. `Ok`: so many of the batches need not be given again.
pub(super) struct Stepped {
    pub(super) hand: OwnedMutexGuard<Hand>,
    pub(super) outcome: Result<usize, NotApplied>,
}

/// Applies batches, and moves position and cursor behind them.
pub(super) struct Step {
    pub(super) plan: Arc<Plan>,
    pub(super) hand: OwnedMutexGuard<Hand>,
    /// Where the stream leaves its position.
    pub(super) cell: Arc<CursorCell>,
    pub(super) batches: Vec<EventBatch>,
    pub(super) call: Call,
    pub(super) reply: oneshot::Sender<Stepped>,
    pub(super) written: Progress,
}

/// What a step has done by now.
#[derive(Default)]
pub(super) struct Progress {
    outcome: Option<Result<usize, NotApplied>>,
    /// Where the cursor is when it is committed.
    cursor: Option<u64>,
}

/// A letter is applied as a whole.
const WHOLE: TransactionLimits = TransactionLimits {
    events_max: usize::MAX,
    within: Duration::MAX,
};

impl Step {
    /// Why nothing is to be written, or the position of the model and the row of its stream.
    fn place(&self, desk: &Desk<'_>) -> Result<Result<(u64, StoredCursor), Refused>, StorageError> {
        let row = desk.cursor(&self.cell.name)?;
        let Some(row) = row.filter(|row| row.epoch == self.cell.epoch) else {
            return Ok(Err(Refused::Lost));
        };
        match rows::find(desk.tx(), &self.plan.spec)? {
            Some(stored) => Ok(Ok((stored.position, row))),
            None => Ok(Err(Refused::Removed)),
        }
    }

    fn next(&mut self, desk: &Desk<'_>, position: u64, owner: u64) -> Result<Written, StorageError> {
        let new = self.batches.iter().filter_map(|batch| new_part(batch, position));
        let new: Vec<EventBatch> = new.collect();
        if new.is_empty() {
            self.written.outcome = Some(Ok(self.batches.len()));
            return Ok(Written::RollBack);
        }
        let applied = match self.apply(desk, &new, self.plan.limits.transaction) {
            Ok(applied) => applied,
            Err(not_applied) => return Ok(self.not_applied(not_applied)),
        };
        self.hit(FaultPoint::InModel)?;
        let through = applied.last_sequence;
        rows::move_to(desk.tx(), &self.plan.spec, through, owner)?;
        let is_owner = desk.move_cursor(&CursorWrite {
            name: &self.cell.name,
            epoch: self.cell.epoch,
            position: through,
            run: Run::GoesOn,
        })?;
        assert!(is_owner, "the owner was looked at in the same transaction");
        self.hit(FaultPoint::BeforeModel)?;
        let is_done = |batch: &&EventBatch| applied.batches == new.len() || batch.last_sequence() <= through;
        self.written = Progress {
            outcome: Some(Ok(self.batches.iter().take_while(is_done).count())),
            cursor: Some(through),
        };
        Ok(Written::Commit)
    }

    /// Applies the first batch, which is a dead letter, unless it was applied before.
    fn letter(&mut self, desk: &Desk<'_>, position: u64, owner: u64) -> Result<Written, StorageError> {
        let letter = self.batches[0].clone();
        let (first, last) = (letter.first_sequence(), letter.last_sequence());
        self.written.outcome = Some(Ok(1));
        if rows::has_applied(desk.tx(), &self.plan.spec, first)? {
            return Ok(Written::RollBack);
        }
        if let Err(not_applied) = self.apply(desk, &[letter], WHOLE) {
            return Ok(self.not_applied(not_applied));
        }
        self.hit(FaultPoint::InModel)?;
        rows::move_to(desk.tx(), &self.plan.spec, position.max(last), owner)?;
        rows::note_applied(desk.tx(), &self.plan.spec, first)?;
        self.hit(FaultPoint::BeforeModel)?;
        Ok(Written::Commit)
    }

    /// Calls the projection, under the rules of the log's file.
    fn apply(
        &mut self,
        desk: &Desk<'_>,
        batches: &[EventBatch],
        limits: TransactionLimits,
    ) -> Result<Applied, NotApplied> {
        let rules = Rules::Write {
            own: Arc::clone(&self.plan.own),
            others: Arc::clone(&self.plan.others),
        };
        let projection = &mut *self.hand.projection;
        let (outcome, verdict) = desk.foreign(rules, self.plan.limits.budget, |tx| {
            attempt(tx, projection, batches, limits)
        });
        match verdict {
            Ok(()) => outcome,
            Err(refused) => {
                // What the projection says of it itself is what SQLite told it.
                discard(outcome);
                Err(NotApplied::Projection(Box::new(refused)))
            }
        }
    }

    fn not_applied(&mut self, not_applied: NotApplied) -> Written {
        self.written.outcome = Some(Err(not_applied));
        Written::RollBack
    }

    fn hit(&self, point: FaultPoint) -> Result<(), StorageError> {
        match self.plan.faults.hit(point) {
            true => Err(storage("write a read model")(injected())),
            false => Ok(()),
        }
    }
}

/// Why a step writes nothing.
enum Refused {
    /// Somebody else owns the stream's name.
    Lost,
    /// The model is not there any more.
    Removed,
}

/// What of a batch is behind the position.
fn new_part(batch: &EventBatch, position: u64) -> Option<EventBatch> {
    match batch.first_sequence() > position {
        true => Some(batch.clone()),
        false => batch.rest(position),
    }
}

impl BesideWork for Step {
    fn write(&mut self, desk: &Desk<'_>) -> Result<Written, StorageError> {
        match self.place(desk)? {
            Ok((position, row)) => match self.call {
                Call::Next => self.next(desk, position, row.owner),
                Call::Letter => self.letter(desk, position, row.owner),
            },
            Err(Refused::Lost) => {
                let spec = &self.plan.spec;
                let lost = ReadModelError::OwnershipLost {
                    name: spec.name.clone(),
                    version: spec.version,
                };
                self.not_applied(NotApplied::Model(lost));
                Ok(Written::OwnershipLost)
            }
            Err(Refused::Removed) => {
                let removed = NotApplied::Projection(Box::new(InLogError::Removed));
                Ok(self.not_applied(removed))
            }
        }
    }

    fn done(self: Box<Self>, end: End) {
        let Self {
            plan,
            hand,
            cell,
            reply,
            written,
            ..
        } = *self;
        plan.meter.held(end.took);
        if matches!(end.outcome, Ok(Written::Commit)) {
            if let Some(position) = written.cursor {
                cell.stored(position);
            }
            plan.faults.hit(FaultPoint::AfterModel);
        }
        let outcome = match end.outcome {
            Ok(_) => written.outcome.unwrap_or(Ok(0)),
            Err(error) => {
                discard(written.outcome);
                Err(NotApplied::Model(error.into()))
            }
        };
        // Who has gone finds out from the position what became of it.
        discard(reply.send(Stepped { hand, outcome }));
    }
}

/// Drops what may have been made by the user, whose `drop` may panic, without harm to the committer.
fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(value)));
}

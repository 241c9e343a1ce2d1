//! What the committer does with an append, inside the transaction of its group.

use std::sync::Arc;

use crate::error::{AppendError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::log::committer::Committer;
use crate::log::once::AppendedOnce;
use crate::log::request::{AppendRequest, Appended};
use crate::log::{LogWriter, Tail};

impl<W: LogWriter> Committer<W> {
    /// Appends a batch, or says why not. A key that was used answers before any condition is looked at: the condition held when
    /// the append was made, and that append may have moved it.
    pub(super) fn append(
        &mut self,
        request: &mut AppendRequest,
        tail: &mut Tail,
        batches: &mut Vec<Arc<CommittedBatch>>,
    ) -> Result<Result<AppendedOnce, AppendError>, StorageError> {
        if let Some(once) = &request.once {
            let stored = self.writer.idempotency_key(&once.key)?;
            if let Some(answer) = once.answered_by(stored.as_ref()) {
                return Ok(answer);
            }
        }
        match self.check(request.condition.as_ref(), tail.pruned_through) {
            Ok(()) => {}
            Err(AppendError::Storage(error)) => return Err(error),
            Err(refusal) => return Ok(Err(refusal)),
        }
        let events = std::mem::take(&mut request.events);
        let batch = CommittedBatch::stamp(events, tail.head + 1, tail.recorded_at);
        let appended = Appended {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            committed_count: batch.events.len(),
        };
        let batch = Arc::new(batch);
        self.writer.append(&batch)?;
        batches.push(batch);
        tail.head = appended.last_sequence;
        if let Some(once) = &request.once {
            self.writer
                .put_idempotency_key(&once.key, &once.stored_as(appended))?;
        }
        Ok(Ok(AppendedOnce {
            appended,
            is_repetition: false,
        }))
    }
}

//! Reactions: events that a handler answers with. They are appended, and what they answer is settled, in one transaction.
//!
//! Whether a reaction is appended at all is decided inside the transaction, in this order: somebody else owns the name (D6); what it
//! answers is settled already, because an earlier try got through whose answer was lost; the context moved.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::{StorageError, UndecodableEvent};
use crate::event::record::EventRecord;
use crate::log::cursor::CursorCell;
use crate::log::handle::{LogHandle, committer_gone, take_room};
use crate::log::letter::LetterCounts;
use crate::log::request::{Condition, Request};

/// The events of a reaction, checked.
#[derive(Clone)]
pub(crate) struct CheckedReaction {
    pub(crate) events: Vec<EventRecord>,
    /// What they weigh.
    pub(crate) bytes: usize,
    pub(crate) condition: Option<Condition>,
}

/// What is settled with a reaction.
#[derive(Clone)]
pub(crate) enum Settles {
    /// The batch in hand, up to this position.
    Batch { cell: Arc<CursorCell>, position: u64 },
    /// A dead letter that was retried.
    Letter {
        name: Arc<str>,
        epoch: u64,
        first_sequence: u64,
        /// The request that it was retried for.
        request: Option<u64>,
    },
}

/// What became of a reaction.
#[derive(Clone, Debug)]
pub(crate) enum Reacted {
    /// It is in the log, and what it answers is settled. Of a letter: how many are left.
    Done(Option<LetterCounts>),
    /// What it answers was settled before, by an earlier try or by somebody who discarded the letter. Nothing was appended.
    Settled,
    /// Somebody else owns the name. Nothing was appended (D6).
    OwnershipLost,
    /// The condition does not hold. Nothing was appended.
    Conflict { expected: String, found: String },
    /// What the condition is about cannot be decoded. Nothing was appended.
    Undecodable(UndecodableEvent),
}

/// Why a reaction is not in the log, as far as is known.
pub(crate) enum NotAppended {
    /// The store takes no appends any more.
    Closed,
    Storage(StorageError),
}

/// A reaction on its way to the committer.
pub(crate) struct ReactRequest {
    pub(crate) reaction: CheckedReaction,
    pub(crate) settles: Settles,
    pub(crate) reply: oneshot::Sender<Result<Reacted, StorageError>>,
    /// The request's place in the bounded queue, given back when it is answered.
    pub(crate) room: [OwnedSemaphorePermit; 2],
}

impl LogHandle {
    /// Queues a reaction and waits for its answer. Once queued it is committed or refused, whatever becomes of this future.
    pub(crate) async fn react(
        &self,
        reaction: CheckedReaction,
        settles: Settles,
    ) -> Result<Reacted, NotAppended> {
        let bytes = u32::try_from(reaction.bytes).expect("the builder keeps a batch below the queue's bytes");
        let closed = |_| NotAppended::Closed;
        let room = [
            take_room(&self.room_requests, 1).await.map_err(closed)?,
            take_room(&self.room_bytes, bytes).await.map_err(closed)?,
        ];
        let (reply, answer) = oneshot::channel();
        let request = Request::React(Box::new(ReactRequest {
            reaction,
            settles,
            reply,
            room,
        }));
        if self.queue.push(request).is_err() {
            return Err(match self.is_closed() {
                true => NotAppended::Closed,
                false => NotAppended::Storage(committer_gone()),
            });
        }
        let is_alone = self.room_requests.available_permits() + 1 >= self.room_requests_max;
        let outcome = if is_alone {
            self.tempo.answer(answer).await
        } else {
            answer.await.ok()
        };
        let outcome = outcome.unwrap_or_else(|| Err(committer_gone()));
        outcome.map_err(NotAppended::Storage)
    }
}

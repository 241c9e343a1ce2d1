//! Cursors: what is stored for a durable stream, where a stream starts, and how a position travels to the committer.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use crate::clock::Timestamp;
use crate::error::{Instance, ReadError, StopCause, StorageError, StreamError};
use crate::log::Extent;
use crate::log::letter::{Attempt, LetterCounts};
use crate::log::owner::Ownership;
use crate::log::retry_request::RetryRequest;
use crate::sync::Mutex;

/// Where a durable stream starts that has no cursor yet (D1). A stored cursor goes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the first event of the log, or of what pruning left of it.
    #[default]
    Beginning,
    /// With what is committed after the registration.
    Now,
    /// Strictly after this sequence. Refused, when events after it were pruned.
    After(u64),
    /// With the first event that was recorded at this time or later, of those that pruning left.
    At(SystemTime),
    /// Strictly after what the durable stream of this name has settled, whose place it takes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{DurableStream, HandleStream, NewEvent, Start, Store};
    ///
    /// # let store = Store::in_memory()?;
    /// # let (old_mails, new_mails) = (HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) }), HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) }));
    /// let mailer = store.stream_all_durable(&DurableStream::new("mailer"), old_mails).await?;
    /// store.append([NewEvent::new("order-placed", 7)]).await?;
    /// mailer.caught_up().await?;
    /// let takes_over = DurableStream::new("mailer-2").start(Start::AfterStream("mailer".into()));
    /// let mailer_2 = store.stream_all_durable(&takes_over, new_mails).await?;
    /// assert_eq!(mailer_2.started_after(), 1);
    /// assert_eq!(mailer.stopped().await.to_string(), "the durable stream was taken over by \"mailer-2\", which goes on where it stood");
    /// # Ok(()) }
    /// ```
    ///
    /// The older stream is retired in the transaction that registers this one: it can store nothing any more, stops with
    /// [`StopCause::TakenOver`](crate::StopCause::TakenOver) where it runs, and its name is refused with
    /// [`StreamError::TakenOver`](crate::StreamError::TakenOver) until somebody [deletes](crate::StreamControl::delete) it. Its dead letters go
    /// along, with the keys that are parked, and so does a pause.
    ///
    /// When the older stream runs in this store it ends first, its handler call included, so that no event is handled by both, and none
    /// by neither. When it runs in another process, that notices within its poll interval; what it had handled beyond its stored
    /// cursor by then is handled again here, as after a crash (D3).
    AfterStream(String),
}

/// What happens when a stored cursor does not fit (D7): it belongs to another query or log, is ahead of the log, or before what
/// pruning left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMismatch {
    /// The registration fails with an error that says what does not fit.
    #[default]
    Refuse,
    /// A changed query is accepted, and the stream goes on from its cursor: what the new query selects before it is not
    /// delivered. A cursor of another log, one ahead of the log, or one before what is left of it, is refused all the same.
    KeepCursor,
    /// The stream starts over, as its [`Start`] says.
    StartOver,
}

/// A durable stream's row in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCursor {
    pub(crate) position: u64,
    /// The canonical text of the query.
    pub(crate) query: String,
    pub(crate) log_id: String,
    /// The fence: only who knows it may write the position (D6). Changes with every registration, and with every word from
    /// outside that moves the cursor. No number is given twice in a log.
    pub(crate) epoch: u64,
    /// What the stream was given last, as far as it is noted.
    pub(crate) attempt: Attempt,
    /// The epoch of the newest registration. Its owner goes on under a newer epoch, nobody else does.
    pub(crate) owner: u64,
    /// The number of the newest word from outside; 0: there was none.
    pub(crate) steering: u64,
    pub(crate) paused: Option<Pause>,
    /// The newest request to retry its dead letters.
    pub(crate) retry: Option<Box<RetryRequest>>,
    /// When the row was written last.
    pub(crate) updated_at: Timestamp,
}

/// What a durable stream is told when it is registered.
#[derive(Clone, Debug)]
pub(crate) struct OpenedCursor {
    /// Its row, as it stands now.
    pub(crate) row: StoredCursor,
    /// The last sequence of the log.
    pub(crate) head: u64,
    /// What the run before left behind.
    pub(crate) previous: Attempt,
    pub(crate) letters: LetterCounts,
}

/// What came of a registration.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    /// The stream is run here.
    Owned(OpenedCursor),
    /// Somebody else runs it, and this store waits to.
    StandsBy(StandsBy),
    /// It was to take over, and there is no stream of this name any more.
    Gone,
}

/// What a durable stream is told that stands by.
#[derive(Clone, Debug)]
pub(crate) struct StandsBy {
    /// Its row, as its owner keeps it.
    pub(crate) row: StoredCursor,
    /// The last sequence of the log.
    pub(crate) head: u64,
    pub(crate) letters: LetterCounts,
    pub(crate) owner: Instance,
}

/// Who paused a stream, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) by: Arc<str>,
    pub(crate) since: Timestamp,
    pub(crate) kind: PauseKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseKind {
    /// Until somebody resumes it.
    ByHand,
    /// For ever: the stream of the name in `by` goes on where it stood.
    TakenOver,
}

impl Pause {
    /// The stream that has taken over, if one has.
    pub(crate) fn successor(&self) -> Option<&Arc<str>> {
        (self.kind == PauseKind::TakenOver).then_some(&self.by)
    }
}

impl StoredCursor {
    /// The stream that has taken over, if one has.
    pub(crate) fn successor(&self) -> Option<&Arc<str>> {
        self.paused.as_ref()?.successor()
    }
}

/// A durable stream's row, with its name.
#[derive(Clone, Debug)]
pub struct NamedCursor {
    /// The stream's name.
    pub name: Arc<str>,
    /// Its row.
    pub cursor: StoredCursor,
}

/// All durable streams of a log at one moment.
pub struct RollCall {
    /// The newest number that had been given then.
    pub number: u64,
    /// In whatever order.
    pub rows: Vec<NamedCursor>,
}

/// A position on its way into the log.
pub struct CursorWrite<'a> {
    /// The stream's name.
    pub name: &'a str,
    /// The epoch that has to be the stored one.
    pub epoch: u64,
    /// The last sequence that is settled.
    pub position: u64,
    pub(crate) run: Run,
}

/// Whether the run that a position comes from goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    GoesOn,
    /// It has ended in order: no batch was in hand when it did.
    Ended,
}

/// What a durable stream asks for when it is registered.
#[derive(Clone, Debug)]
pub(crate) struct CursorClaim {
    pub(crate) name: Arc<str>,
    pub(crate) query: String,
    pub(crate) start: Start,
    pub(crate) on_mismatch: OnMismatch,
    /// Where it goes on whatever is stored.
    pub(crate) begins_at: Option<u64>,
    /// What becomes of it when somebody else runs the stream.
    pub(crate) ownership: Ownership,
    pub(crate) occasion: Occasion,
}

/// When a durable stream asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    Registration,
    /// It was registered, stood by, and is to take over. A stream that was deleted meanwhile is not made anew.
    TakeOver,
}

impl CursorClaim {
    /// Where the stream goes on: its stored position, or nothing when it is to start as its `Start` says (D1, D7).
    pub(crate) fn resume(
        &self,
        stored: Option<&StoredCursor>,
        extent: Extent,
        log_id: &str,
    ) -> Result<Option<u64>, StreamError> {
        if self.begins_at.is_some() {
            return Ok(self.begins_at);
        }
        let Some(stored) = stored else {
            return Ok(None);
        };
        let name = || self.name.to_string();
        let mismatch = if stored.log_id != log_id {
            StreamError::ForeignCursor {
                name: name(),
                cursor_log: stored.log_id.clone(),
                log: log_id.to_owned(),
            }
        } else if stored.position > extent.head {
            StreamError::CursorAhead {
                name: name(),
                cursor: stored.position,
                head: extent.head,
            }
        } else if stored.position < extent.pruned_through {
            self.pruned(stored.position, extent.pruned_through)
        } else if stored.query != self.query && self.on_mismatch != OnMismatch::KeepCursor {
            StreamError::QueryChanged {
                name: name(),
                cursor: stored.position,
                stored: stored.query.clone(),
                given: self.query.clone(),
            }
        } else {
            return Ok(Some(stored.position));
        };
        match self.on_mismatch {
            OnMismatch::StartOver => Ok(None),
            OnMismatch::Refuse | OnMismatch::KeepCursor => Err(mismatch),
        }
    }

    /// What a stream is told that would pass over pruned events.
    pub(crate) fn pruned(&self, position: u64, pruned_through: u64) -> StreamError {
        StreamError::Pruned {
            name: self.name.to_string(),
            position,
            pruned_through,
        }
    }
}

/// Why a cursor can be stored no more.
#[derive(Clone, Debug)]
pub(crate) enum CursorFailure {
    OwnershipLost,
    CommitterEnded,
    Storage(StorageError),
}

impl From<CursorFailure> for StopCause {
    fn from(failure: CursorFailure) -> Self {
        match failure {
            CursorFailure::OwnershipLost => Self::OwnershipLost,
            CursorFailure::CommitterEnded => Self::Closed,
            CursorFailure::Storage(error) => Self::Log(ReadError::Storage(error)),
        }
    }
}

/// The place where a running stream leaves its position, and the committer picks up the newest one (D2).
pub(crate) struct CursorCell {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: u64,
    state: Mutex<CellState>,
}

/// Whether the committer knows that there is something to pick up, and by when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queued {
    No,
    WithGroup,
    Timed,
}

/// What the committer's queue has to be told of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    Nothing,
    /// When the cell, which it has, is due.
    Time,
    /// The cell, and when it is due.
    Cell,
}

struct CellState {
    /// The newest position that was handed over.
    handed: u64,
    /// The newest position that is in the log. Never above `handed`.
    stored: u64,
    /// The log has it that the run has ended.
    has_ended: bool,
    queued: Queued,
    run: Run,
    failure: Option<CursorFailure>,
    /// Those who wait until a position is stored: the stream, and whoever waits for it.
    waiting: Vec<Waker>,
    /// Wakes the stream, without keeping it alive.
    on_failure: Option<Waker>,
}

impl CursorCell {
    pub(crate) fn new(name: Arc<str>, epoch: u64, position: u64) -> Self {
        Self {
            name,
            epoch,
            state: Mutex::new(CellState {
                handed: position,
                stored: position,
                has_ended: false,
                queued: Queued::No,
                run: Run::GoesOn,
                failure: None,
                waiting: Vec::new(),
                on_failure: None,
            }),
        }
    }

    /// Leaves a position, which the committer picks up at its time, or whenever the next group comes. Says what the
    /// committer has to be told.
    pub(crate) fn hand(&self, position: u64, wanted: Queued) -> Tell {
        let mut state = self.state.lock();
        if position <= state.handed {
            return Tell::Nothing;
        }
        state.handed = position;
        let earlier = state.queued;
        state.queued = earlier.max(wanted);
        match earlier {
            Queued::No => Tell::Cell,
            earlier if earlier < wanted => Tell::Time,
            _ => Tell::Nothing,
        }
    }

    /// Leaves the last position of a run that ends in order, which is stored even if it is the one that is stored already.
    pub(crate) fn hand_last(&self, position: u64) -> Tell {
        let mut state = self.state.lock();
        if state.failure.is_some() || state.run == Run::Ended {
            return Tell::Nothing;
        }
        state.handed = state.handed.max(position);
        state.run = Run::Ended;
        match std::mem::replace(&mut state.queued, Queued::Timed) {
            Queued::No => Tell::Cell,
            _ => Tell::Time,
        }
    }

    /// Picks the newest position up, and whether the run goes on from there: both of one moment, so that none but the last position is
    /// stored as the last. It has to be followed by `stored`, `requeue` or `fail`.
    pub(crate) fn pick_up(&self) -> (u64, Run) {
        let mut state = self.state.lock();
        state.queued = Queued::No;
        (state.handed, state.run)
    }

    /// Says that a position picked up is in the log.
    pub(crate) fn stored(&self, position: u64) {
        let mut state = self.state.lock();
        state.stored = state.stored.max(position);
        // What was stored with a dead letter was never handed over, and an older position must not follow it.
        state.handed = state.handed.max(position);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        wake(waiting);
    }

    /// Says that the log has it that the run has ended: the name is free.
    pub(crate) fn ended(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        wake(waiting);
    }

    /// Puts the cell back into the committer's queue after a store that failed.
    pub(crate) fn requeue(&self) -> Tell {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.queued, Queued::Timed) {
            Queued::No => Tell::Cell,
            _ => Tell::Time,
        }
    }

    /// Says that the cursor can be stored no more. The stream ends loudly.
    pub(crate) fn fail(&self, failure: CursorFailure) {
        let mut state = self.state.lock();
        state.failure = Some(failure);
        let (waiting, on_failure) = (std::mem::take(&mut state.waiting), state.on_failure.take());
        drop(state);
        wake(waiting);
        wake(on_failure);
    }

    /// The position that is in the log.
    pub(crate) fn stored_position(&self) -> u64 {
        self.state.lock().stored
    }

    pub(crate) fn failure(&self) -> Option<CursorFailure> {
        self.state.lock().failure.clone()
    }

    /// Leaves whom to wake when the cursor fails, for a stream that rests meanwhile.
    pub(crate) fn wake_on_failure(&self, waker: Waker) {
        self.state.lock().on_failure = Some(waker);
    }

    /// Waits until `position` is in the log.
    pub(crate) fn poll_stored(
        &self,
        position: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CursorFailure>> {
        self.poll_until(context, |state| state.stored >= position)
    }

    /// Waits until the log has it that the run has ended.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Result<(), CursorFailure>> {
        self.poll_until(context, |state| state.has_ended)
    }

    fn poll_until(
        &self,
        context: &mut Context<'_>,
        is_there: impl Fn(&CellState) -> bool,
    ) -> Poll<Result<(), CursorFailure>> {
        let mut state = self.state.lock();
        if is_there(&state) {
            return Poll::Ready(Ok(()));
        }
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

fn wake(waiting: impl IntoIterator<Item = Waker>) {
    for waker in waiting {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(query: &str, on_mismatch: OnMismatch) -> CursorClaim {
        CursorClaim {
            name: "ledger".into(),
            query: query.into(),
            start: Start::Beginning,
            on_mismatch,
            begins_at: None,
            ownership: Ownership::Fail,
            occasion: Occasion::Registration,
        }
    }

    fn stored(position: u64) -> StoredCursor {
        StoredCursor {
            position,
            query: "q".into(),
            log_id: "log".into(),
            epoch: 3,
            attempt: Attempt::default(),
            owner: 3,
            steering: 0,
            paused: None,
            retry: None,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn d7_a_cursor_that_does_not_fit_is_refused_and_starts_over_on_demand() {
        let extent = |head| Extent {
            pruned_through: 3,
            head,
        };
        let refuse =
            |stored, head, log: &str| claim("q", OnMismatch::Refuse).resume(Some(&stored), extent(head), log);
        assert_eq!(refuse(stored(5), 5, "log").unwrap(), Some(5));
        assert!(matches!(
            refuse(stored(6), 5, "log"),
            Err(StreamError::CursorAhead {
                cursor: 6,
                head: 5,
                ..
            })
        ));
        assert!(matches!(
            refuse(stored(5), 5, "other"),
            Err(StreamError::ForeignCursor { .. })
        ));
        let changed = |choice| claim("p", choice).resume(Some(&stored(5)), extent(5), "log");
        assert!(matches!(
            changed(OnMismatch::Refuse),
            Err(StreamError::QueryChanged { cursor: 5, .. })
        ));
        assert_eq!(changed(OnMismatch::KeepCursor).unwrap(), Some(5));
        assert_eq!(changed(OnMismatch::StartOver).unwrap(), None);
        let ahead = claim("q", OnMismatch::KeepCursor).resume(Some(&stored(6)), extent(5), "log");
        assert!(ahead.is_err());
        assert_eq!(refuse(stored(3), 5, "log").unwrap(), Some(3));
        let passed = |choice| claim("q", choice).resume(Some(&stored(2)), extent(5), "log");
        for choice in [OnMismatch::Refuse, OnMismatch::KeepCursor] {
            let refused = passed(choice);
            assert!(matches!(
                refused,
                Err(StreamError::Pruned {
                    position: 2,
                    pruned_through: 3,
                    ..
                })
            ));
        }
        assert_eq!(passed(OnMismatch::StartOver).unwrap(), None);
    }

    #[test]
    fn a_cell_is_queued_once_until_it_is_picked_up() {
        let cell = CursorCell::new("ledger".into(), 1, 4);
        assert_eq!(cell.hand(4, Queued::Timed), Tell::Nothing);
        assert_eq!(cell.hand(5, Queued::WithGroup), Tell::Cell);
        assert_eq!(cell.hand(6, Queued::Timed), Tell::Time);
        assert_eq!(cell.hand(7, Queued::Timed), Tell::Nothing);
        assert_eq!(cell.pick_up(), (7, Run::GoesOn));
        assert_eq!(cell.hand(8, Queued::Timed), Tell::Cell);
        cell.stored(7);
        assert_eq!(cell.stored_position(), 7);
        assert_eq!(cell.requeue(), Tell::Time);
    }

    #[test]
    fn no_older_position_follows_one_that_was_stored_with_a_letter() {
        let cell = CursorCell::new("ledger".into(), 1, 4);
        assert_eq!(cell.hand(5, Queued::Timed), Tell::Cell);
        cell.stored(9);
        assert_eq!(cell.pick_up(), (9, Run::GoesOn));
        assert_eq!(cell.hand(7, Queued::Timed), Tell::Nothing);
    }

    #[test]
    fn the_end_of_a_run_is_stored_once_and_not_after_a_failure() {
        let cell = CursorCell::new("ledger".into(), 1, 4);
        assert_eq!(cell.pick_up(), (4, Run::GoesOn));
        assert_eq!(cell.hand_last(4), Tell::Cell);
        assert_eq!(cell.pick_up(), (4, Run::Ended));
        assert_eq!(cell.hand_last(4), Tell::Nothing);
        let lost = CursorCell::new("ledger".into(), 1, 4);
        lost.fail(CursorFailure::OwnershipLost);
        assert_eq!(lost.hand_last(5), Tell::Nothing);
    }
}

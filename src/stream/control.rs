//! The handle with which a durable stream is steered, wherever it runs.

use std::fmt;
use std::sync::Arc;

use crate::error::{ReadError, SteerError, StopCause, StorageError, WaitError};
use crate::log::cursor::StoredCursor;
use crate::log::steer::{Command, ExpectedCursor, Obeyed, Order, Reset, Skipped};
use crate::stream::core::StreamCore;
use crate::stream::hub::Hub;
use crate::stream::nearest::nearest;
use crate::stream::options::check_name;
use crate::stream::status::StreamStatus;
use crate::stream::survey;
use crate::stream::wait::Until;

/// Steers one durable stream: got with [`Store::stream`](crate::Store::stream).
///
/// What it is told is stored with the stream's cursor, in one transaction, and holds from then on: whether the stream runs in
/// this store, in another process or nowhere, and after restarts. A stream of this store heeds it at once, one of another
/// process within that store's poll interval. A handler call under way is not interrupted: it ends first.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::{DurableStream, HandleStream, NewEvent, Reset, Store};
///
/// let store = Store::in_memory()?;
/// let handle = HandleStream::new(|_batch| async { Ok::<_, std::io::Error>(()) });
/// let stream = store.stream_all_durable(&DurableStream::new("ledger"), handle).await?;
/// let appended = store.append([NewEvent::new("greeted", "hello")]).await?;
///
/// let ledger = store.stream("ledger").await?;
/// ledger.wait_for(appended).await?;
/// ledger.pause("anna, migration of the ledger").await?;
/// // The stored cursor is 1, and is moved only if it still is.
/// ledger.reset(Reset::Beginning, 1).await?;
/// ledger.resume().await?;
/// ledger.wait_for(appended).await?;
/// assert_eq!(stream.status().handled_events, 2);
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// Of all methods that change something: once the future was polled, what it asks for is done, whatever becomes of it; only the
/// answer is lost.
#[derive(Clone)]
pub struct StreamControl {
    pub(crate) hub: Arc<Hub>,
    pub(crate) name: Arc<str>,
}

impl StreamControl {
    /// The handle of a stream that the log knows.
    pub(crate) async fn find(hub: Arc<Hub>, name: &str) -> Result<Self, SteerError> {
        let control = Self {
            hub,
            name: name.into(),
        };
        match control.row().await? {
            Some(_) => Ok(control),
            None => Err(control.unknown().await),
        }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream as it is now.
    ///
    /// # Errors
    /// The stream was deleted meanwhile; the store is closed; the storage fails.
    pub async fn status(&self) -> Result<StreamStatus, SteerError> {
        match survey::one(&self.hub, &self.name).await.map_err(read)? {
            Some(status) => Ok(status),
            None => Err(self.unknown().await),
        }
    }

    /// Lets no handler call start any more, until [`resume`](Self::resume). The call under way ends, and the cursor is stored;
    /// the stream keeps its name and says [`StreamState::Paused`](crate::StreamState::Paused). It stays paused when it is
    /// registered again, also by another process. A stream that is paused already stays so, in the name of who was first.
    ///
    /// `by` says who did it and why, for those who look at the status: 1 to 255 bytes without control characters.
    ///
    /// # Errors
    /// `by` is refused; the stream does not exist; the store is closed; the storage fails.
    pub async fn pause(&self, by: impl Into<String>) -> Result<(), SteerError> {
        let by = text("who pauses a stream", by.into())?;
        self.order(Command::Pause { by }).await?;
        Ok(())
    }

    /// Lets a paused stream go on where it stopped. A batch that failed before is tried anew. A stream that is not paused
    /// stays as it is.
    ///
    /// # Errors
    /// The stream does not exist; the store is closed; the storage fails.
    pub async fn resume(&self) -> Result<(), SteerError> {
        self.order(Command::Resume).await?;
        Ok(())
    }

    /// Moves the stored cursor, back or forth, if it stands where it is expected, and says where it stands now. What comes after
    /// is delivered, again if need be.
    ///
    /// A stream that runs ends the handler call under way and begins a new run there; nothing of the earlier run is stored any
    /// more. The stored cursor of a stream that runs moves: pause it first, look at its
    /// [status](Self::status), or say [`ExpectedCursor::anywhere`].
    ///
    /// # Errors
    /// [`SteerError::CursorMoved`] when the cursor stands elsewhere; the target is ahead of the log, or was pruned; the stream
    /// does not exist; the store is closed; the storage fails.
    pub async fn reset(&self, to: Reset, expected: impl Into<ExpectedCursor>) -> Result<u64, SteerError> {
        let expected = expected.into();
        Ok(self.order(Command::Reset { to, expected }).await?.cursor)
    }

    /// Passes over the one batch that the stream is given next, which is the one that fails, if the stored cursor still is the
    /// one expected. What the batch holds is not delivered to the stream; a [dead letter](crate::DeadLetter) in the state
    /// [`Skipped`](crate::DeadLetterState::Skipped) records which events that were, and who did it.
    ///
    /// `by` says who did it and why: 1 to 255 bytes without control characters.
    ///
    /// A stream that runs tries the batch after it at once. One that has stopped is registered again.
    ///
    /// # Errors
    /// [`SteerError::CursorMoved`] when the cursor stands elsewhere; `by` is refused; there is nothing to skip; the stream does not exist; the
    /// store is closed; the storage fails.
    pub async fn skip_batch(&self, expected: u64, by: impl Into<String>) -> Result<Skipped, SteerError> {
        let by = text("who skips a batch", by.into())?;
        let obeyed = self.order(Command::SkipBatch { expected, by }).await?;
        let skipped = obeyed.skipped.expect("a batch was skipped, or refused to be");
        tracing::warn!(
            stream = &*self.name,
            first_sequence = skipped.first_sequence,
            last_sequence = skipped.last_sequence,
            "a batch was skipped, and is not handled by the stream"
        );
        Ok(skipped)
    }

    /// Gives the stream another name, under which it is to be registered from now on, and gives the handle of that. Cursor and
    /// pause go with it. A stream that runs stops with [`StopCause::Renamed`]: whoever registered it knows it by its old name.
    ///
    /// # Errors
    /// The name is refused, or taken; the stream does not exist; the store is closed; the storage fails.
    pub async fn rename(&self, to: impl Into<String>) -> Result<Self, SteerError> {
        let to = text("the name of a stream", to.into())?;
        let command = Command::Rename { to: Arc::clone(&to) };
        self.order(command).await?;
        self.forget();
        Ok(Self {
            hub: Arc::clone(&self.hub),
            name: to,
        })
    }

    /// Removes the stream: its cursor is gone, and holds no prune any more. A stream that runs stops with
    /// [`StopCause::Deleted`]. Registered again, it is a new one.
    ///
    /// # Errors
    /// The stream does not exist; the store is closed; the storage fails.
    pub async fn delete(&self) -> Result<(), SteerError> {
        self.order(Command::Delete).await?;
        self.forget();
        Ok(())
    }

    /// Waits until the stream has handled what was appended, or passed it because its query does not select it, and until that is
    /// stored. A sequence that is yet to be appended is waited for.
    ///
    /// A stream that runs in another process, or nowhere, is asked for by its stored cursor at the poll interval. Whether
    /// anybody runs it is not known: use a timeout.
    ///
    /// # Errors
    /// At once when the stream is paused, has stopped in this store, or does not exist; inside the stream's own handler; the
    /// store is closed; the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, appended: impl Into<Until>) -> Result<(), WaitError> {
        let Until(sequence) = appended.into();
        loop {
            survey::check_open(&self.hub)?;
            let core = survey::here(&self.hub, &self.name);
            let runs_here = |core: &&Arc<StreamCore>| core.stop_cause().is_none() && !core.stands_by();
            if let Some(core) = core.as_ref().filter(runs_here) {
                return core.wait_stored(sequence).await;
            }
            let row = self.hub.source.log.cursor(&self.name).await?;
            let Some(row) = row else {
                let name = self.name.to_string();
                return Err(WaitError::NoSuchStream { name });
            };
            if row.position >= sequence {
                return Ok(());
            }
            if let Some(error) = halted(&self.name, &row, core.and_then(|core| core.stop_cause())) {
                return Err(error);
            }
            tokio::time::sleep(self.hub.poll_interval).await;
        }
    }

    pub(crate) async fn order(&self, command: Command) -> Result<Obeyed, SteerError> {
        tracing::info!(stream = &*self.name, ?command, "a stream is steered");
        let order = Order {
            name: Arc::clone(&self.name),
            command,
        };
        match self.hub.source.log.steer(order).await {
            Err(SteerError::NoSuchStream { .. }) => Err(self.unknown().await),
            obeyed => obeyed,
        }
    }

    pub(crate) async fn row(&self) -> Result<Option<StoredCursor>, SteerError> {
        survey::check_open(&self.hub).map_err(read)?;
        self.hub.source.log.cursor(&self.name).await.map_err(read)
    }

    /// Says that there is no such stream, and which one may have been meant.
    pub(crate) async fn unknown(&self) -> SteerError {
        let rows = match self.hub.source.log.cursors().await {
            Ok(rows) => rows,
            Err(error) => return read(error),
        };
        let nearest = nearest(&self.name, rows.iter().map(|row| &*row.name));
        SteerError::NoSuchStream {
            name: self.name.to_string(),
            nearest: nearest.map(str::to_owned),
        }
    }

    /// A stream that ended here with an error is remembered by its name, which it has no longer.
    fn forget(&self) {
        if let Some(core) = self.hub.registry.named(&self.name)
            && core.stop_cause().is_some()
        {
            self.hub.registry.forget(core.id);
        }
    }
}

impl fmt::Debug for StreamControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("StreamControl").field(&self.name).finish()
    }
}

/// What those are told who wait for a stream that nobody runs here.
fn halted(name: &str, row: &StoredCursor, cause: Option<StopCause>) -> Option<WaitError> {
    let position = row.position;
    if let Some(cause) = cause {
        return Some(WaitError::Stopped {
            name: Some(name.to_owned()),
            position,
            cause,
        });
    }
    let pause = row.paused.as_ref()?;
    if let Some(by) = pause.successor() {
        let by = by.to_string();
        return Some(WaitError::Stopped {
            name: Some(name.to_owned()),
            position,
            cause: StopCause::TakenOver { by },
        });
    }
    Some(WaitError::Paused {
        name: name.to_owned(),
        position,
        by: pause.by.to_string(),
    })
}

pub(crate) fn text(what: &'static str, value: String) -> Result<Arc<str>, SteerError> {
    match check_name(&value) {
        Ok(()) => Ok(value.into()),
        Err(problem) => Err(SteerError::InvalidText { what, value, problem }),
    }
}

fn read(error: ReadError) -> SteerError {
    match error {
        ReadError::Closed => SteerError::Closed,
        ReadError::Storage(error) => SteerError::Storage(error),
        error => SteerError::Storage(StorageError::new("read the streams", error)),
    }
}

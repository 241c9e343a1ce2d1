//! What the rest of the crate holds of a log: bounded ways in and out of it.

pub(crate) mod owner;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::{Clock, Timestamp};
use crate::error::{AppendError, PruneError, ReadError, SteerError, StorageError, StreamError};
use crate::event::evolution::Evolution;
use crate::event::fingerprint::Fingerprint;
use crate::event::intake;
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
#[cfg(feature = "sqlite")]
use crate::log::beside::refuse_inside;
use crate::log::cursor::{CursorClaim, NamedCursor, Opened, StoredCursor};
use crate::log::letter::{LetterChange, LetterDone, LetterRequest};
use crate::log::once::{AppendedOnce, Once};
use crate::log::page::{More, Page, PageBounds, Range};
#[cfg(feature = "postgres")]
use crate::log::postgres::beside::ServerDesk;
use crate::log::prune::{PruneStep, StepDone};
use crate::log::queue::Queue;
use crate::log::request::{
    AppendRequest, Appended, Condition, OpenCursorRequest, PruneRequest, Request, SteerRequest,
};
use crate::log::shared::SharedPages;
use crate::log::statistics::LogStatistics;
use crate::log::steer::{Obeyed, Order};
use crate::log::survey::Survey;
use crate::log::tempo::Tempo;
use crate::log::{Extent, LogReader};

/// The queue to the committer and the readers, each with its bound.
pub(crate) struct LogHandle {
    pub(crate) reader: Arc<dyn LogReader>,
    pub(crate) queue: Arc<Queue<Request>>,
    pub(crate) limits: Limits,
    /// What older events are brought up to date with.
    pub(crate) evolution: Option<Arc<Evolution>>,
    pub(crate) tempo: Arc<Tempo>,
    /// All of `room_requests`.
    pub(crate) room_requests_max: usize,
    /// Requests that may be queued or in commit.
    pub(crate) room_requests: Arc<Semaphore>,
    /// Bytes that may be queued or in commit.
    pub(crate) room_bytes: Arc<Semaphore>,
    /// Reads that may be under way at once.
    pub(crate) read_slots: Arc<Semaphore>,
    /// The pages that streams read together.
    pub(crate) shared: Arc<SharedPages>,
    pub(crate) clock: Clock,
    /// The server that the log lies on. Nothing: it lies on none.
    #[cfg(feature = "postgres")]
    pub(crate) desk: Option<ServerDesk>,
}

impl LogHandle {
    /// Queues an append and waits for its answer. Once queued it is committed, whatever becomes of this future.
    pub(crate) async fn append(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
        condition: Option<Condition>,
    ) -> Result<Appended, AppendError> {
        let (events, bytes) = intake::check(events, &self.limits, self.evolution.as_deref())?;
        let appended = self.queue_append(events, bytes, condition, None).await;
        appended.map(|once| once.appended)
    }

    /// The same, once for each key.
    pub(crate) async fn append_once(
        &self,
        key: &str,
        events: impl IntoIterator<Item = NewEvent>,
        condition: Option<Condition>,
    ) -> Result<AppendedOnce, AppendError> {
        self.limits.check_key(key).map_err(AppendError::InvalidKey)?;
        let (events, bytes) = intake::check(events, &self.limits, self.evolution.as_deref())?;
        let once = Once {
            key: key.into(),
            fingerprint: Fingerprint::of(&events),
        };
        self.queue_append(events, bytes, condition, Some(Box::new(once)))
            .await
    }

    async fn queue_append(
        &self,
        events: Vec<EventRecord>,
        bytes: usize,
        condition: Option<Condition>,
        once: Option<Box<Once>>,
    ) -> Result<AppendedOnce, AppendError> {
        #[cfg(feature = "sqlite")]
        refuse_inside()?;
        let bytes = u32::try_from(bytes).expect("the builder keeps a batch below the queue's bytes");
        let room = [
            take_room(&self.room_requests, 1).await?,
            take_room(&self.room_bytes, bytes).await?,
        ];
        let (reply, answer) = oneshot::channel();
        let request = Request::Append(AppendRequest {
            events,
            condition,
            once,
            reply,
            room,
        });
        if self.queue.push(request).is_err() {
            return Err(match self.is_closed() {
                true => AppendError::Closed,
                false => committer_gone().into(),
            });
        }
        // Callers who are under way together share a commit, and are better put to sleep.
        let is_alone = self.room_requests.available_permits() + 1 >= self.room_requests_max;
        let outcome = if is_alone {
            self.tempo.answer(answer).await
        } else {
            answer.await.ok()
        };
        outcome.unwrap_or_else(|| Err(committer_gone().into()))
    }

    /// Claims a durable stream's cursor and finds out where it stands.
    pub(crate) async fn open_cursor(&self, claim: CursorClaim) -> Result<Opened, StreamError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::OpenCursor(OpenCursorRequest { claim, reply });
        self.queue.push(request).map_err(|_| StreamError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(committer_gone().into()))
    }

    /// Prunes one step. Once queued it is done, whatever becomes of this future.
    pub(crate) async fn prune_step(&self, step: PruneStep) -> Result<StepDone, PruneError> {
        if self.is_closed() {
            return Err(PruneError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let request = Request::Prune(PruneRequest { step, reply });
        self.queue.push(request).map_err(|_| PruneError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(committer_gone().into()))
    }

    /// Changes the dead letters of a stream. Once queued it is done, whatever becomes of this future.
    pub(crate) async fn change_letters(&self, change: LetterChange) -> Result<LetterDone, StorageError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Letter(LetterRequest { change, reply });
        self.queue.push(request).map_err(|_| committer_gone())?;
        answer.await.unwrap_or_else(|_| Err(committer_gone()))
    }

    /// Has an order carried out. Once queued it is, whatever becomes of this future.
    pub(crate) async fn steer(&self, order: Order) -> Result<Obeyed, SteerError> {
        if self.is_closed() {
            return Err(SteerError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let request = Request::Steer(SteerRequest { order, reply });
        self.queue.push(request).map_err(|_| SteerError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(committer_gone().into()))
    }

    /// The rows of all durable streams, sorted by name.
    pub(crate) async fn cursors(&self) -> Result<Vec<NamedCursor>, ReadError> {
        self.read(|reader| Ok(reader.cursors()?)).await
    }

    /// What is stored of all durable streams.
    pub(crate) async fn survey(&self) -> Result<Survey, ReadError> {
        self.read(|reader| Ok(reader.survey()?)).await
    }

    /// For each position, when the first event after it was recorded, if that is known.
    pub(crate) async fn recorded_after(
        &self,
        positions: Vec<u64>,
    ) -> Result<Vec<Option<Timestamp>>, ReadError> {
        self.read(move |reader| Ok(reader.recorded_after(&positions)?))
            .await
    }

    /// What is stored under a durable stream's name.
    pub(crate) async fn cursor(&self, name: &Arc<str>) -> Result<Option<StoredCursor>, ReadError> {
        let name = Arc::clone(name);
        self.read(move |reader| Ok(reader.cursor(&name)?)).await
    }

    /// Reads one page, on a thread where waiting for the disk hurts nobody; without a runtime, right here.
    pub(crate) async fn page(
        &self,
        query: &Arc<EventQuery>,
        range: Range,
        bounds: PageBounds,
    ) -> Result<Page, ReadError> {
        let query = Arc::clone(query);
        self.read(move |reader| reader.page(&query, range, bounds)).await
    }

    /// Begins to read some pages on another thread; nothing, when all readers are at work or reading does not block anyway.
    pub(crate) fn pages_ahead(
        &self,
        query: &Arc<EventQuery>,
        range: Range,
        bounds: PageBounds,
    ) -> Option<PagesAhead> {
        let runtime = Handle::try_current().ok()?;
        if !self.reader.is_blocking() {
            return None;
        }
        let slot = Arc::clone(&self.read_slots).try_acquire_owned().ok()?;
        let (reader, query) = (Arc::clone(&self.reader), Arc::clone(query));
        let (give, pages) = mpsc::channel(PAGES_AHEAD_MAX);
        let mut left = PAGES_PER_READ_MAX;
        runtime.spawn_blocking(move || {
            let outcome = reader.pages(&query, range, bounds, &mut |page| {
                let is_taken = give.try_send(Ok(page)).is_ok();
                left -= 1;
                if is_taken && left > 0 && give.capacity() > 0 {
                    More::Yes
                } else {
                    More::No
                }
            });
            drop(slot);
            if let Err(error) = outcome {
                // There is room: after a page that found none, nothing more was read.
                let _ = give.try_send(Err(error));
            }
        });
        Some(PagesAhead {
            after: range.after,
            left: PAGES_PER_READ_MAX,
            pages,
        })
    }

    /// The last committed sequence, as the log itself knows it.
    pub(crate) async fn head(&self) -> Result<u64, ReadError> {
        self.read(|reader| Ok(reader.head()?)).await
    }

    /// What the log holds, as it knows itself.
    pub(crate) async fn extent(&self) -> Result<Extent, ReadError> {
        self.read(|reader| Ok(reader.extent()?)).await
    }

    /// What the log holds, as it knows itself, and the first page of that.
    pub(crate) async fn first_page(
        &self,
        query: &Arc<EventQuery>,
        bounds: PageBounds,
    ) -> Result<(Extent, Result<Page, ReadError>), ReadError> {
        let query = Arc::clone(query);
        self.read(move |reader| {
            let extent = reader.extent()?;
            let range = Range {
                after: extent.pruned_through,
                through: extent.head,
            };
            Ok((extent, reader.page(&query, range, bounds)))
        })
        .await
    }

    /// The end of the batch that `sequence` lies in, or `sequence` itself, when it lies in none.
    pub(crate) async fn batch_end(&self, sequence: u64) -> Result<u64, ReadError> {
        self.read(move |reader| Ok(reader.batch_end(sequence)?)).await
    }

    /// The last sequence before the first event that was recorded at `time` or later, and not before what pruning left.
    pub(crate) async fn position_at(&self, time: Timestamp) -> Result<u64, ReadError> {
        self.read(move |reader| {
            let position = reader.position_at(time)?;
            Ok(position.max(reader.extent()?.pruned_through))
        })
        .await
    }

    /// What the log holds, counted.
    pub(crate) async fn statistics(&self) -> Result<LogStatistics, ReadError> {
        self.read(|reader| Ok(reader.statistics()?)).await
    }

    /// Reads something, on a thread where waiting for the disk hurts nobody.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn LogReader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let slot = Arc::clone(&self.read_slots)
            .acquire_owned()
            .await
            .map_err(|_| ReadError::Closed)?;
        let runtime = match Handle::try_current() {
            Ok(runtime) if self.reader.is_blocking() => runtime,
            _ => return read(&*self.reader),
        };
        let reader = Arc::clone(&self.reader);
        let task = runtime.spawn_blocking(move || {
            let _slot = slot;
            read(&*reader)
        });
        outcome(task).await
    }

    /// Lets no append in any more. Cursors are still stored.
    pub(crate) fn refuse(&self) {
        self.room_requests.close();
        self.room_bytes.close();
    }

    /// Waits until everything that is queued now is committed and published.
    pub(crate) async fn drained(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.push(Request::Barrier(reply)).is_ok() {
            // A committer that has ended has nothing left.
            let _ = answer.await;
        }
    }

    /// Ends the committer, after what is queued.
    pub(crate) fn close(&self) {
        self.refuse();
        self.queue.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.room_requests.is_closed()
    }
}

/// How many pages may wait to be handled.
pub(crate) const PAGES_AHEAD_MAX: usize = 4;
/// How many pages one read transaction yields at the most, to one who takes them as fast as they come.
const PAGES_PER_READ_MAX: usize = 16;

/// Pages that are being read while the ones before them are handled.
pub(crate) struct PagesAhead {
    /// Where the next of them begins.
    after: u64,
    left: usize,
    pages: mpsc::Receiver<Result<Page, ReadError>>,
}

impl PagesAhead {
    /// The page that begins after this sequence, if it is among them. Cancel safe.
    pub(crate) async fn page(&mut self, after: u64) -> Option<Result<Page, ReadError>> {
        if self.after != after {
            return None;
        }
        let page = self.pages.recv().await?;
        self.left -= 1;
        if let Ok(page) = &page {
            self.after = page.through;
        }
        Some(page)
    }

    /// Whether no more of them are to come.
    pub(crate) fn are_over(&self) -> bool {
        self.left == 0 || (self.pages.is_closed() && self.pages.is_empty())
    }
}

/// What a thread read. A runtime that is being shut down reads nothing.
pub(crate) async fn outcome<T>(task: JoinHandle<Result<T, ReadError>>) -> Result<T, ReadError> {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ReadError::Closed),
    }
}

pub(super) async fn take_room(
    room: &Arc<Semaphore>,
    permits: u32,
) -> Result<OwnedSemaphorePermit, AppendError> {
    Arc::clone(room)
        .acquire_many_owned(permits)
        .await
        .map_err(|_| AppendError::Closed)
}

pub(super) fn committer_gone() -> StorageError {
    let problem = "the committer stopped because something it relies on was broken; reopen the store";
    StorageError::new("answer", std::io::Error::other(problem))
}

//! What is shared by the loop of a stream, its handles, and whoever wakes or ends it.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::bus::SeatKey;
use crate::error::{StopCause, WaitError};
use crate::event::query::EventQuery;
use crate::fault::Faults;
use crate::log::cursor::CursorCell;
use crate::log::letter::LetterCounts;
use crate::log::queue::Due;
use crate::stream::board::{Board, News};
use crate::stream::checkpoint::SWEEP_EVENTS;
use crate::stream::crowd;
use crate::stream::feed::{self, Feed, Found, Source};
use crate::stream::gate::Gate;
use crate::stream::handler::WeakHandle;
use crate::stream::pump::{self, Pump};
use crate::stream::registry::Registry;
use crate::stream::status::{Phase, Progress, StreamStatus};

pub(crate) struct StreamCore {
    pub(crate) id: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) query: Arc<EventQuery>,
    pub(crate) started_after: u64,
    pub(crate) seat: SeatKey,
    pub(crate) source: Arc<Source>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cursor: Option<Arc<CursorCell>>,
    pub(crate) faults: Faults,
    pub(crate) gate: Gate<Box<Pump>, StopCause>,
    /// Interrupts the loop where it waits, to let it see that the gate is closed.
    pub(crate) interrupt: Notify,
    /// Interrupts a handler call: the drain limit is over.
    pub(crate) abort: Notify,
    /// Whose turn it is to call the handler: the loop's, or that of one who retries a dead letter (S2).
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// How letters are retried, if the stream is durable and has not ended.
    pub(crate) handler: Option<WeakHandle>,
    pub(crate) runtime: Handle,
    pub(crate) board: Board,
}

/// The parts that a core is made of.
pub(crate) struct NewCore {
    pub(crate) id: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) query: Arc<EventQuery>,
    pub(crate) position: u64,
    pub(crate) source: Arc<Source>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cursor: Option<Arc<CursorCell>>,
    pub(crate) faults: Faults,
    pub(crate) runtime: Handle,
    pub(crate) handler: Option<WeakHandle>,
}

impl StreamCore {
    pub(crate) fn new(parts: NewCore, feed: &Feed) -> Self {
        Self {
            id: parts.id,
            name: parts.name,
            query: parts.query,
            started_after: parts.position,
            seat: feed.seat(),
            source: parts.source,
            registry: parts.registry,
            cursor: parts.cursor,
            faults: parts.faults,
            gate: Gate::new(),
            interrupt: Notify::new(),
            abort: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            handler: parts.handler,
            runtime: parts.runtime,
            board: Board::new(parts.position),
        }
    }

    /// Begins to deliver.
    pub(crate) fn begin(self: &Arc<Self>, pump: Box<Pump>) {
        if let Some(cell) = &self.cursor {
            let waker = WakeIfThere(Arc::downgrade(self));
            cell.wake_on_failure(Arc::new(waker).into());
        }
        if let Some(pump) = pump::rest_at_once(self, pump) {
            self.runtime.spawn(pump::run(Arc::clone(self), pump));
        }
    }

    /// Looks at the bus, and leaves the waker there when there is nothing.
    pub(crate) fn look(&self, after: u64, waker: &Waker) -> Found {
        feed::look(&self.source, self.seat, &self.query, after, Some(waker))
    }

    /// Lets no handler call start any more. A loop at rest is ended here, one at work ends itself.
    pub(crate) fn stop(self: &Arc<Self>, cause: StopCause) {
        match self.gate.close(cause.clone()) {
            Some(pump) => {
                self.runtime.spawn(pump::end(Arc::clone(self), pump, cause));
            }
            None => self.interrupt.notify_one(),
        }
    }

    pub(crate) fn note_letters(&self, counts: LetterCounts) {
        self.board.report(|progress| {
            progress.parked = counts.parked;
            progress.skipped = counts.skipped;
            News::Yes
        });
    }

    /// Moves the position, and lets those know for whom it is news.
    pub(crate) fn report_position(&self, position: u64) {
        self.board.report(|progress| {
            let is_news = position > progress.position;
            progress.position = progress.position.max(position);
            if is_news { News::Yes } else { News::No }
        });
    }

    /// The last sequence that is settled, as far as is known now.
    pub(crate) fn position(&self) -> u64 {
        let handled = self.board.read(|progress| progress.position);
        self.source
            .bus
            .settled(self.seat)
            .map_or(handled, |settled| settled.max(handled))
    }

    pub(crate) fn status(&self) -> StreamStatus {
        let progress = self.board.read(Progress::clone);
        let position = match progress.phase {
            Phase::Stopped(_) => progress.position,
            _ => self.position().max(progress.position),
        };
        let head = self.source.bus.head().max(position);
        StreamStatus {
            name: self.name.as_deref().map(str::to_owned),
            state: progress.state(),
            position,
            head,
            lag: head - position,
            oldest_unhandled: progress.call.map(|call| call.recorded_at.age()),
            started_after: self.started_after,
            cursor: self.cursor.as_ref().map(|cell| cell.stored_position()),
            handled_batches: progress.handled_batches,
            handled_events: progress.handled_events,
            failures: progress.failures,
            last_error: progress.last_error,
            parked: progress.parked,
            skipped: progress.skipped,
            call_running_for: progress
                .call
                .and_then(|call| call.running_since)
                .map(|since| Instant::now().saturating_duration_since(since)),
        }
    }

    /// Waits until everything up to `sequence` is settled; fails at once when the stream has stopped before that.
    pub(crate) async fn wait_for(&self, sequence: u64) -> Result<(), WaitError> {
        self.committed(sequence).await;
        let mut reached = self.board.wait();
        loop {
            reached.mark_unchanged();
            let (position, cause) = self.want(sequence);
            if position >= sequence {
                return Ok(());
            }
            if let Some(cause) = cause {
                return Err(WaitError::Stopped {
                    name: self.name.as_deref().map(str::to_owned),
                    position,
                    cause,
                });
            }
            // A stream at rest is settled up to the head without saying so.
            if self.position() >= sequence {
                return Ok(());
            }
            if reached.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    /// Says that somebody waits for a position, and looks how far it is.
    fn want(&self, sequence: u64) -> (u64, Option<StopCause>) {
        self.board.note(|progress| {
            progress.wanted = progress.wanted.min(sequence);
            (progress.position, progress.stop_cause().cloned())
        })
    }

    /// Waits until `sequence` is published, or the stream has stopped: a seat of its own is woken by that.
    async fn committed(&self, sequence: u64) {
        if self.source.bus.head() >= sequence || sequence == 0 {
            return;
        }
        let everything = Arc::new(EventQuery::all());
        let mut feed = Feed::new(Arc::clone(&self.source), everything, sequence - 1);
        let published =
            std::future::poll_fn(|context| match feed.look(sequence - 1, Some(context.waker())) {
                Found::Nothing { .. } => std::task::Poll::Pending,
                Found::Page(_) | Found::Behind { .. } | Found::Closed => std::task::Poll::Ready(()),
            });
        tokio::select! {
            () = published => {}
            _ = self.stopped() => {}
        }
    }

    pub(crate) async fn stopped(&self) -> StopCause {
        let mut reached = self.board.wait();
        loop {
            reached.mark_unchanged();
            if let Some(cause) = self.stop_cause() {
                return cause;
            }
            if reached.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.board.read(|progress| progress.stop_cause().cloned())
    }

    /// Lets the cursor of a stream at rest ride along with the next append group, when it is far behind the head (D4).
    pub(crate) fn sweep(&self) {
        let Some(cell) = &self.cursor else { return };
        let Some(settled) = self.source.bus.settled(self.seat) else {
            return;
        };
        if settled.saturating_sub(cell.stored_position()) >= SWEEP_EVENTS {
            self.source.log.queue.hand_cursor(cell, settled, Due::WithGroup);
        }
    }
}

impl Drop for StreamCore {
    fn drop(&mut self) {
        self.registry.unshare(&self.query);
    }
}

/// Wakes a stream, if it is still there.
struct WakeIfThere(Weak<StreamCore>);

impl Wake for WakeIfThere {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.0.upgrade() {
            core.wake();
        }
    }
}

impl Wake for StreamCore {
    /// A stream that rests has no task, and gets one when it is woken. Of several wake-ups one gets hold of the loop.
    fn wake(self: Arc<Self>) {
        if let Some(pump) = self.gate.rouse() {
            crowd::start(self, pump);
        }
    }
}

//! What is shared by the loop of a stream, its handles, and whoever wakes or ends it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::bus::SeatKey;
use crate::clock::Timestamp;
use crate::error::{Instance, StopCause};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::fault::Faults;
use crate::log::cursor::{CursorCell, Pause, RollCall, StoredCursor};
use crate::log::letter::LetterCounts;
use crate::log::owner::InstanceId;
use crate::log::queue::Due;
use crate::log::steer::{Stands, Word};
use crate::meter::StreamMeter;
use crate::stream::board::{Board, News};
use crate::stream::checkpoint::SWEEP_EVENTS;
use crate::stream::crowd;
use crate::stream::failure::Failure;
use crate::stream::feed::{self, Feed, Found, Source};
use crate::stream::gate::Gate;
use crate::stream::handler::{HandleStream, WeakHandle};
use crate::stream::heed;
use crate::stream::policy::Verdict;
use crate::stream::pump::{self, Pump};
use crate::stream::registry::Registry;
use crate::stream::retry_request;
use crate::stream::standby::{self, Candidacy};
use crate::stream::status::{Phase, Progress, StreamStatus};
use crate::stream::steering::{Asked, Consequence, Hearing, Standing};
use crate::stream::trace;
use crate::sync::Mutex;

pub(crate) struct StreamCore {
    pub(crate) id: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) query: Arc<EventQuery>,
    pub(crate) started_after: u64,
    /// The head when the run began.
    history_through: AtomicU64,
    pub(crate) seat: SeatKey,
    pub(crate) source: Arc<Source>,
    pub(crate) registry: Arc<Registry>,
    durable: Option<Box<Durable>>,
    pub(crate) faults: Faults,
    pub(crate) meter: Arc<StreamMeter>,
    pub(crate) gate: Gate<Box<Pump>, StopCause, Box<Standing>>,
    /// Interrupts the loop where it waits, to let it see that the gate is closed.
    pub(crate) interrupt: Notify,
    /// Interrupts a handler call: the drain limit is over.
    pub(crate) abort: Notify,
    pub(crate) runtime: Handle,
    pub(crate) board: Board,
}

/// What a durable stream has beside the others, of which there may be very many.
struct Durable {
    /// The cell of the run's epoch.
    cell: Mutex<Arc<CursorCell>>,
    /// Held while a word is passed on to the gate, so that words arrive there in order.
    hearing: Mutex<Hearing>,
    /// Whose turn it is to call the handler: the loop's, or that of one who retries a dead letter (S2).
    turn: Arc<Turn>,
    /// The stream was woken while its loop was at work.
    roused: Notify,
    /// How many calls of the stream itself are under way at once, when they can be several.
    calls: AtomicU32,
    /// How letters are retried, as long as the stream has not ended.
    handler: WeakHandle,
    /// What it takes over with, if it may stand by.
    candidacy: Option<Box<Candidacy>>,
}

/// What a durable stream is made with beside the others.
pub(crate) struct DurableParts {
    pub(crate) cell: Arc<CursorCell>,
    pub(crate) hearing: Hearing,
    pub(crate) handler: WeakHandle,
    pub(crate) candidacy: Option<Box<Candidacy>>,
    /// Who runs it, when that is somebody else.
    pub(crate) owner: Option<Instance>,
}

/// Held by whoever calls the handler: shared by the stream's own calls, and alone by one who retries a dead letter. Who waits for it
/// alone goes before calls that have yet to begin.
pub(crate) type Turn = tokio::sync::RwLock<()>;

/// The parts that a core is made of.
pub(crate) struct NewCore {
    pub(crate) meter: Arc<StreamMeter>,
    pub(crate) id: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) query: Arc<EventQuery>,
    pub(crate) position: u64,
    /// The head when the run began.
    pub(crate) history_through: u64,
    pub(crate) source: Arc<Source>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) durable: Option<DurableParts>,
    pub(crate) faults: Faults,
    pub(crate) runtime: Handle,
}

impl StreamCore {
    pub(crate) fn new(parts: NewCore, feed: &Feed) -> Self {
        let epoch = parts.durable.as_ref().map_or(0, |durable| durable.cell.epoch);
        let owner = parts.durable.as_ref().and_then(|durable| durable.owner.clone());
        let board = Board::new(parts.position, epoch);
        if let Some(owner) = owner {
            board.note(|progress| progress.phase = Phase::Standby(Box::new(owner)));
        }
        Self {
            id: parts.id,
            name: parts.name,
            query: parts.query,
            started_after: parts.position,
            history_through: AtomicU64::new(parts.history_through),
            seat: feed.seat(),
            source: parts.source,
            registry: parts.registry,
            durable: parts.durable.map(|durable| {
                Box::new(Durable {
                    cell: Mutex::new(durable.cell),
                    hearing: Mutex::new(durable.hearing),
                    turn: Arc::new(Turn::new(())),
                    roused: Notify::new(),
                    calls: AtomicU32::new(0),
                    handler: durable.handler,
                    candidacy: durable.candidacy,
                })
            }),
            faults: parts.faults,
            meter: parts.meter,
            gate: Gate::new(),
            interrupt: Notify::new(),
            abort: Notify::new(),
            runtime: parts.runtime,
            board,
        }
    }

    /// Begins to deliver.
    pub(crate) fn begin(self: &Arc<Self>, pump: Box<Pump>) {
        if let Some(cell) = self.cursor() {
            self.wake_on_failure(&cell);
        }
        let busy = match self.heard_pause() {
            _ if pump.stands_by() => standby::rest(self, pump),
            Some(pause) => heed::rest_paused(self, pump, pause),
            None => pump::rest_at_once(self, pump),
        };
        if let Some(pump) = busy {
            self.runtime.spawn(pump::run(Arc::clone(self), pump));
        }
    }

    fn wake_on_failure(self: &Arc<Self>, cell: &CursorCell) {
        let waker = WakeIfThere(Arc::downgrade(self));
        cell.wake_on_failure(Arc::new(waker).into());
    }

    /// The cursor's cell under the epoch of now. Whoever hands it a position takes it first, and reads the position then.
    pub(crate) fn cursor(&self) -> Option<Arc<CursorCell>> {
        let durable = self.durable.as_ref()?;
        Some(Arc::clone(&durable.cell.lock()))
    }

    /// The run goes on under another epoch.
    pub(crate) fn change_cursor(self: &Arc<Self>, cell: &Arc<CursorCell>) {
        self.wake_on_failure(cell);
        if let Some(durable) = &self.durable {
            let earlier = std::mem::replace(&mut *durable.cell.lock(), Arc::clone(cell));
            drop(earlier);
        }
    }

    /// Whose turn it is to call the handler. Nothing: the stream is not durable, and has no letters that somebody could retry.
    pub(crate) fn turn(&self) -> Option<&Arc<Turn>> {
        self.durable.as_ref().map(|durable| &durable.turn)
    }

    /// Waits until the stream is woken while its loop is at work.
    pub(crate) async fn roused(&self) {
        match &self.durable {
            Some(durable) => durable.roused.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until nobody retries a dead letter.
    pub(crate) async fn turn_is_free(&self) {
        if let Some(turn) = self.turn() {
            drop(turn.read().await);
        }
    }

    /// Shows how many calls are under way.
    pub(crate) fn show_calls(&self, count: usize) {
        if let Some(durable) = &self.durable {
            // Relaxed: nothing else is said with it.
            durable.calls.store(count as u32, Ordering::Relaxed);
        }
    }

    fn calls(&self, progress: &Progress) -> u32 {
        let call = progress.running_since();
        let others = self
            .durable
            .as_ref()
            .map_or(0, |durable| durable.calls.load(Ordering::Relaxed));
        others.max(u32::from(call.is_some()))
    }

    /// The handler of a durable stream that has not ended.
    pub(crate) fn handler(&self) -> Option<HandleStream> {
        self.durable.as_ref()?.handler.upgrade()
    }

    /// The epoch under which the stream is to run, as far as it has heard. The loop may yet have to begin there.
    pub(crate) fn heard_epoch(&self) -> u64 {
        let durable = self.durable.as_ref();
        durable.map_or(0, |durable| durable.hearing.lock().epoch())
    }

    /// Who paused the stream, as far as it has heard.
    pub(crate) fn heard_pause(&self) -> Option<Pause> {
        let durable = self.durable.as_ref()?;
        durable.hearing.lock().paused().cloned()
    }

    /// What the rows of all streams say to this one.
    pub(crate) fn word(&self, name: &Arc<str>, roll_call: &RollCall) -> Option<Word> {
        let durable = self.durable.as_ref()?;
        let hearing = durable.hearing.lock().clone();
        Some(hearing.word(name, roll_call))
    }

    /// What the row of this stream asks for that was not heard before.
    pub(crate) fn asked(&self, row: &StoredCursor) -> Option<Asked> {
        self.durable.as_ref()?.hearing.lock().asked(row)
    }

    /// Hears a word from outside, and lets the loop heed it.
    pub(crate) fn hear(self: &Arc<Self>, word: Word) {
        if let Stands::At(row) = &word.stands {
            retry_request::hear(self, row);
        }
        let Some(durable) = &self.durable else { return };
        self.follow(durable, |hearing| hearing.hear(word));
    }

    /// Lets the loop heed what follows from something that was heard.
    fn follow(self: &Arc<Self>, durable: &Durable, hear: impl FnOnce(&mut Hearing) -> Option<Consequence>) {
        let mut hearing = durable.hearing.lock();
        match hear(&mut hearing) {
            None => {}
            Some(Consequence::Stand(standing)) => {
                let resting = self.gate.tell(Box::new(standing));
                drop(hearing);
                match resting {
                    Some(pump) => crowd::start(Arc::clone(self), pump),
                    None => self.interrupt.notify_one(),
                }
            }
            Some(Consequence::End(cause)) => {
                drop(hearing);
                self.stop(cause);
            }
        }
    }

    /// What the stream takes over with, if it may stand by.
    pub(crate) fn candidacy(&self) -> Option<&Candidacy> {
        self.durable.as_ref()?.candidacy.as_deref()
    }

    /// Nobody runs the stream, or it was given to this store.
    pub(crate) fn is_vacant(self: &Arc<Self>) {
        if let Some(durable) = &self.durable {
            self.follow(durable, |hearing| hearing.vacant().map(Consequence::Stand));
        }
    }

    /// The stream is to be given to another store. One that would not stand by afterwards stays.
    pub(crate) fn yields(self: &Arc<Self>, heir: InstanceId) {
        if let Some(durable) = &self.durable
            && durable.candidacy.is_some()
        {
            self.follow(durable, |hearing| hearing.yields(heir).map(Consequence::Stand));
        }
    }

    /// This one runs the stream. Nothing follows for who runs it himself.
    pub(crate) fn is_owned_by(&self, owner: &Instance) {
        self.board.report(|progress| match &mut progress.phase {
            Phase::Standby(known) if **known != *owner => {
                owner.clone_into(known);
                News::Yes
            }
            _ => News::No,
        });
    }

    /// It was not given away.
    pub(crate) fn keeps(&self) {
        if let Some(durable) = &self.durable {
            durable.hearing.lock().keeps();
        }
    }

    /// It was given away.
    pub(crate) fn gave_away(&self) {
        if let Some(durable) = &self.durable {
            durable.hearing.lock().gave_away();
        }
    }

    /// It was registered anew.
    pub(crate) fn takes_over(self: &Arc<Self>, row: &StoredCursor) {
        if let Some(durable) = &self.durable {
            self.follow(durable, |hearing| hearing.takes_over(row));
        }
    }

    /// A batch as it is delivered in this run: it knows whether it is history.
    pub(crate) fn in_this_run(&self, batch: EventBatch) -> EventBatch {
        // Relaxed: nothing else is said with it, and the loop that begins a run is the one that delivers in it.
        batch.delivered_after(self.history_through.load(Ordering::Relaxed))
    }

    /// A run begins: what is committed from now on is news to it.
    pub(crate) fn begin_run(&self) {
        let head = self.source.bus.head();
        self.history_through.store(head, Ordering::Relaxed);
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

    /// Whether a handler call is under way.
    pub(crate) fn is_called(&self) -> bool {
        self.board.read(|progress| progress.running_since().is_some())
    }

    /// What an error calls it.
    pub(crate) fn name_for_people(&self) -> String {
        self.name
            .as_deref()
            .unwrap_or("a stream without a name")
            .to_owned()
    }

    pub(crate) fn note_letters(&self, counts: LetterCounts) {
        self.board.report(|progress| {
            progress.note_letters(counts);
            News::Yes
        });
    }

    /// Moves the position, and lets those know for whom it is news.
    pub(crate) fn report_position(&self, position: u64) {
        let now = Instant::now();
        self.board.report(|progress| {
            let is_news = position > progress.position;
            progress.move_to(position, now);
            if is_news { News::Yes } else { News::No }
        });
    }

    /// Lets a failure be seen: on the board, and in the log of the program, there more and more rarely as it goes on.
    pub(crate) fn report_failure(
        &self,
        failure: &Failure,
        last_sequence: u64,
        attempts: u32,
        verdict: Verdict,
    ) {
        let (stream, category, error) = (self.name.as_deref(), failure.category.as_str(), &failure.text);
        let retry_in_ms = trace::retry_in_ms(verdict);
        if attempts.is_power_of_two() || verdict == Verdict::GiveUp {
            tracing::warn!(stream, last_sequence, attempts, retry_in_ms, category, %error, "a handler failed");
        } else {
            tracing::debug!(stream, last_sequence, attempts, retry_in_ms, category, %error, "a handler failed again");
        }
        let now = Instant::now();
        self.board.report(|progress| {
            progress.beat_at = now;
            progress.failures += 1;
            progress.last_error = Some(Arc::clone(&failure.text));
            if let Some(call) = &mut progress.call {
                call.running_since = None;
            }
            if let Verdict::RetryAfter(delay) = verdict {
                progress.phase = Phase::Retrying {
                    attempt: attempts,
                    next_at: now + delay,
                };
            }
            News::Yes
        });
    }

    /// The window does not reach back to what comes after a position: the log is to be read up to the head.
    pub(crate) fn fell_behind(&self, position: u64, head: u64) {
        self.meter.fell_behind();
        let (now, recorded_now) = (Instant::now(), Timestamp::now());
        let is_news = self.board.note(|progress| {
            progress.phase = Phase::CatchingUp;
            progress.beat_at = now;
            progress.told.fall_behind(recorded_now)
        });
        if is_news {
            trace::fell_behind(self, position, head);
        }
    }

    /// The last sequence that is settled, as far as is known now.
    pub(crate) fn position(&self) -> u64 {
        let handled = self.board.read(|progress| progress.position);
        self.settled().map_or(handled, |settled| settled.max(handled))
    }

    /// How far a stream is settled that has handled everything it was given, and has nothing more to see: the head.
    ///
    /// The bus is asked first: what it had given out by then is handled when the board says so afterwards.
    pub(crate) fn settled(&self) -> Option<u64> {
        let unselected = self.source.bus.unselected(self.seat)?;
        let handled = self.board.read(|progress| progress.position);
        (handled >= unselected.after).then_some(unselected.through)
    }

    pub(crate) fn status(&self) -> StreamStatus {
        let progress = self.board.read(Progress::clone);
        let now = Instant::now();
        let position = match progress.phase {
            Phase::Stopped(_) => progress.position,
            _ => self.position().max(progress.position),
        };
        let head = self.source.bus.head().max(position);
        StreamStatus {
            name: self.name.as_deref().map(str::to_owned),
            head,
            lag: head - position,
            calls_under_way: self.calls(&progress),
            started_after: self.started_after,
            cursor: self.cursor().map(|cell| cell.stored_position()),
            ..StreamStatus::of(progress, position, now, &self.source.log.clock)
        }
    }

    /// Whether another store runs the stream, as far as is known here.
    pub(crate) fn stands_by(&self) -> bool {
        self.board
            .read(|progress| matches!(progress.phase, Phase::Standby(_)))
    }

    /// Who runs it then.
    pub(crate) fn owner_elsewhere(&self) -> Option<Instance> {
        self.board.read(|progress| match &progress.phase {
            Phase::Standby(owner) => Some(Instance::clone(owner)),
            _ => None,
        })
    }

    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.board.read(|progress| progress.stop_cause().cloned())
    }

    /// Lets the cursor of a stream at rest ride along with the next append group, when it is far behind the head (D4).
    pub(crate) fn sweep(&self) {
        let Some(cell) = self.cursor() else { return };
        let Some(settled) = self.settled() else { return };
        if settled.saturating_sub(cell.stored_position()) >= SWEEP_EVENTS {
            self.source.log.queue.hand_cursor(&cell, settled, Due::WithGroup);
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
        match self.gate.rouse() {
            Some(pump) => crowd::start(self, pump),
            // The loop may wait for its calls, or for more to call with.
            None => match &self.durable {
                Some(durable) => durable.roused.notify_one(),
                None => self.interrupt.notify_one(),
            },
        }
    }
}

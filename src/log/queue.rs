//! The queue in front of the committer: requests that wait for the next group, and cursors that wait to be stored.
//!
//! The queue itself holds whatever it is given; `handle` bounds what is given. It is small and without tokio, so that
//! closing it against a push is checked under loom.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::log::crew::Place;
use crate::log::cursor::{CursorCell, CursorFailure, Queued, Tell};
use crate::sync::{Mutex, MutexGuard};

/// When a cursor that was handed over is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// At once.
    Now,
    /// After this time at the latest, and with a group that comes shortly before.
    Within(Duration),
    /// With the next group, whenever that is.
    WithGroup,
}

pub(crate) struct Queue<R> {
    state: Mutex<State<R>>,
    /// Where the committer rests.
    place: Place,
    /// How many requests wait, or 1 for a cursor that is due. Only a hint, for a committer that looks without the lock.
    waiting: AtomicUsize,
}

struct State<R> {
    requests: Vec<R>,
    cursors: Vec<Arc<CursorCell>>,
    /// When the earliest of the cursors is due. It is not put off by those that come later.
    cursors_due: Option<Instant>,
    /// Whether one of them waits for nothing but a group.
    rides_with_group: bool,
    is_closed: bool,
    /// Somebody else is said to have committed.
    has_news: bool,
    /// Nobody takes anything from the queue any more.
    has_ended: bool,
    /// Whether the committer rests and has to be roused, and until when.
    rests_until: Option<Instant>,
}

/// What the committer finds in the queue.
pub(crate) enum Taken<R> {
    Work(Work<R>),
    /// Nothing before this time. Whoever brings something earlier rouses the committer.
    Nothing {
        until: Instant,
    },
}

/// What there is to do. It may be nothing, when the time to be back has come.
pub(crate) struct Work<R> {
    pub(crate) requests: Vec<R>,
    pub(crate) cursors: Vec<Arc<CursorCell>>,
    /// No more requests will come.
    pub(crate) is_closed: bool,
    /// Somebody else is said to have committed.
    pub(crate) has_news: bool,
}

/// How far a group has grown.
#[derive(Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) requests: usize,
    /// How many requests it waits for, as long as they keep coming.
    pub(crate) expected: usize,
    pub(crate) since: Instant,
}

/// A group that grows is taken when no request came for so long, or when it has grown for so long.
const GAP_MAX: Duration = Duration::from_micros(20);
const GROW_MAX: Duration = Duration::from_micros(300);

/// Cursors that are due so soon ride along with a group. Those with more time wait for it, so that a cursor which moves
/// with every group is not written with every group.
const RIDE_WITHIN: Duration = Duration::from_millis(50);

impl<R> Queue<R> {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            state: Mutex::new(State {
                requests: Vec::new(),
                cursors: Vec::new(),
                cursors_due: None,
                rides_with_group: false,
                is_closed: false,
                has_news: false,
                has_ended: false,
                rests_until: None,
            }),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Adds a request, or gives it back when the queue is closed.
    pub(crate) fn push(&self, request: R) -> Result<(), R> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(request);
        }
        state.requests.push(request);
        // Relaxed: whoever acts on the hint takes the lock first.
        self.waiting.store(state.requests.len(), Ordering::Relaxed);
        self.rouse(state);
        Ok(())
    }

    /// Leaves a position in a cell and sees to it that it is stored when it is due.
    pub(crate) fn hand_cursor(&self, cell: &Arc<CursorCell>, position: u64, due: Due) {
        let wanted = match due {
            Due::Now | Due::Within(_) => Queued::Timed,
            Due::WithGroup => Queued::WithGroup,
        };
        match cell.hand(position, wanted) {
            Tell::Nothing if matches!(due, Due::Within(_)) => {}
            tell => self.enqueue_cursor(cell, tell, due),
        }
    }

    /// Leaves the last position of a run, to be stored at once.
    pub(crate) fn hand_last(&self, cell: &Arc<CursorCell>, position: u64) {
        match cell.hand_last(position) {
            Tell::Nothing => {}
            tell => self.enqueue_cursor(cell, tell, Due::Now),
        }
    }

    /// Puts a cell back whose position could not be stored.
    pub(crate) fn retry_cursor(&self, cell: &Arc<CursorCell>, within: Duration) {
        self.enqueue_cursor(cell, cell.requeue(), Due::Within(within));
    }

    fn enqueue_cursor(&self, cell: &Arc<CursorCell>, tell: Tell, due: Due) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.has_ended {
            drop(state);
            cell.fail(CursorFailure::CommitterEnded);
            return;
        }
        if tell == Tell::Cell {
            state.cursors.push(Arc::clone(cell));
        }
        let due = match due {
            Due::Now => {
                self.waiting.fetch_max(1, Ordering::Relaxed);
                now
            }
            Due::Within(delay) => now + delay,
            Due::WithGroup => {
                state.rides_with_group = true;
                return;
            }
        };
        state.cursors_due = Some(state.cursors_due.map_or(due, |earlier| earlier.min(due)));
        if state.rests_until.is_some_and(|until| due < until) {
            self.rouse(state);
        }
    }

    /// How many requests wait, more or less.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Has the committer look at once for what others committed. Many such words before it looks are one.
    pub(crate) fn announce_news(&self) {
        let mut state = self.state.lock();
        state.has_news = true;
        self.rouse(state);
    }

    /// Takes no more requests. What is queued is still worked off.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.rouse(state);
    }

    /// Nobody will take anything any more: requests are dropped, which their callers notice, and cursors fail.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.has_ended = true;
        let requests = mem::take(&mut state.requests);
        let cursors = mem::take(&mut state.cursors);
        drop(state);
        drop(requests);
        for cell in cursors {
            cell.fail(CursorFailure::CommitterEnded);
        }
    }

    /// Takes what there is: requests, cursors that are due, news, the end; or nothing but that it is time to be back.
    pub(crate) fn take(&self, back_at: Instant) -> Taken<R> {
        let mut state = self.state.lock();
        state.rests_until = None;
        let now = Instant::now();
        let until = state.cursors_due.map_or(back_at, |due| due.min(back_at));
        if !state.requests.is_empty() || state.is_closed || state.has_news || until <= now {
            return Taken::Work(self.work(state, now));
        }
        state.rests_until = Some(until);
        Taken::Nothing { until }
    }

    /// All requests; and the cursors, when one of them is due, or nearly so and there is a group to ride along with.
    fn work(&self, mut state: MutexGuard<'_, State<R>>, now: Instant) -> Work<R> {
        self.waiting.store(0, Ordering::Relaxed);
        let cursors_leave = match state.cursors_due {
            _ if state.is_closed => true,
            Some(due) if state.requests.is_empty() => due <= now,
            _ if state.rides_with_group => !state.requests.is_empty(),
            Some(due) => due <= now + RIDE_WITHIN,
            None => false,
        };
        let cursors = if cursors_leave {
            state.cursors_due = None;
            state.rides_with_group = false;
            mem::take(&mut state.cursors)
        } else {
            Vec::new()
        };
        Work {
            requests: mem::take(&mut state.requests),
            cursors,
            is_closed: state.is_closed,
            has_news: mem::take(&mut state.has_news),
        }
    }

    /// What came while the group was applied. When more was expected, waits for it as long as requests keep coming.
    /// Nothing: the group is complete.
    pub(crate) fn more(&self, growth: Growth) -> Vec<R> {
        let until = growth.since + GROW_MAX;
        let now = Instant::now();
        if growth.requests < growth.expected {
            self.look_for_work((now + GAP_MAX).min(until));
        }
        if now >= until || self.waiting.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let cursor_is_due = state.cursors_due.is_some_and(|due| due <= now);
        self.waiting.store(usize::from(cursor_is_due), Ordering::Relaxed);
        mem::take(&mut state.requests)
    }

    /// Looks for work for a short while, and leaves the processor to those who are to bring it.
    fn look_for_work(&self, until: Instant) {
        while self.waiting.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            thread::yield_now();
        }
    }

    fn rouse(&self, mut state: MutexGuard<'_, State<R>>) {
        let rests = state.rests_until.take().is_some();
        drop(state);
        if rests {
            self.place.rouse();
        }
    }
}

//! The queue in front of the committer: requests that wait for the next group, and cursors that wait to be stored.
//!
//! The queue itself holds whatever it is given; `handle` bounds what is given. It is small and without tokio, so that
//! closing it against a push is checked under loom.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::log::cursor::{CursorCell, CursorFailure, Queued, Tell};
use crate::sync::{Condvar, Mutex, MutexGuard};

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
    changed: Condvar,
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
    /// Whether the committer sleeps and has to be notified, and until when.
    sleeps_until: Option<Instant>,
}

/// What the committer finds in the queue.
pub(crate) struct Work<R> {
    pub(crate) requests: Vec<R>,
    pub(crate) cursors: Vec<Arc<CursorCell>>,
    /// No more requests will come.
    pub(crate) is_closed: bool,
    /// Somebody else is said to have committed.
    pub(crate) has_news: bool,
}

/// How the committer waits.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    /// When it wants to be back, although there is nothing to do.
    pub(crate) until: Instant,
    /// How long to look for work before going to sleep: waking up costs more than a short look.
    pub(crate) spin: Duration,
    pub(crate) meanwhile: Meanwhile,
}

/// What becomes of the processor while the committer looks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// It is kept, for the shortest delay.
    Keep,
    /// Those who are to come may need it.
    Yield,
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
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                requests: Vec::new(),
                cursors: Vec::new(),
                cursors_due: None,
                rides_with_group: false,
                is_closed: false,
                has_news: false,
                has_ended: false,
                sleeps_until: None,
            }),
            changed: Condvar::new(),
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
        if state.sleeps_until.is_some_and(|until| due < until) {
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

    /// Waits for work: requests, cursors that are due, news, the end, or the time to be back.
    pub(crate) fn take(&self, wait: Wait) -> Work<R> {
        if !wait.spin.is_zero() {
            self.look_for_work(Instant::now() + wait.spin, wait.meanwhile);
        }
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let until = state.cursors_due.map_or(wait.until, |due| due.min(wait.until));
            if !state.requests.is_empty() || state.is_closed || state.has_news || until <= now {
                return self.work(state, now);
            }
            state.sleeps_until = Some(until);
            state = self.changed.wait_until(state, until);
            state.sleeps_until = None;
        }
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
            self.look_for_work((now + GAP_MAX).min(until), Meanwhile::Yield);
        }
        if now >= until || self.waiting.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let cursor_is_due = state.cursors_due.is_some_and(|due| due <= now);
        self.waiting.store(usize::from(cursor_is_due), Ordering::Relaxed);
        mem::take(&mut state.requests)
    }

    /// Looks for work for a short while without sleeping.
    fn look_for_work(&self, until: Instant, meanwhile: Meanwhile) {
        while self.waiting.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            match meanwhile {
                Meanwhile::Keep => std::hint::spin_loop(),
                Meanwhile::Yield => std::thread::yield_now(),
            }
        }
    }

    fn rouse(&self, mut state: MutexGuard<'_, State<R>>) {
        let sleeps = state.sleeps_until.take().is_some();
        drop(state);
        if sleeps {
            self.changed.notify_one();
        }
    }
}

/// Loom models of the queue. One property each.
#[cfg(all(test, millstream_loom))]
mod models {
    use loom::thread;

    use super::*;

    fn take(queue: &Queue<u8>) -> Work<u8> {
        queue.take(Wait {
            until: Instant::now() + Duration::from_secs(3600),
            spin: Duration::ZERO,
            meanwhile: Meanwhile::Yield,
        })
    }

    /// What a committer does: works until the queue is closed and empty.
    fn work_off(queue: &Queue<u8>) -> (Vec<u8>, Vec<Arc<CursorCell>>) {
        let (mut requests, mut cursors) = (Vec::new(), Vec::new());
        loop {
            let work = take(queue);
            let is_done = work.is_closed && work.requests.is_empty() && work.cursors.is_empty();
            requests.extend(work.requests);
            cursors.extend(work.cursors);
            if is_done {
                return (requests, cursors);
            }
        }
    }

    #[test]
    fn what_was_accepted_before_the_close_is_worked_off() {
        loom::model(|| {
            let queue = Arc::new(Queue::new());
            let pusher = thread::spawn({
                let queue = Arc::clone(&queue);
                move || [1, 2].map(|request| queue.push(request).is_ok())
            });
            let closer = thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.close()
            });
            let (requests, _) = work_off(&queue);
            let accepted = pusher.join().unwrap();
            closer.join().unwrap();
            let expected: Vec<u8> = [1, 2]
                .into_iter()
                .zip(accepted)
                .filter(|(_, ok)| *ok)
                .map(|(n, _)| n)
                .collect();
            assert_eq!(requests, expected);
        });
    }

    #[test]
    fn a_cursor_that_is_due_wakes_the_committer() {
        loom::model(|| {
            let queue = Arc::new(Queue::<u8>::new());
            let cell = Arc::new(CursorCell::new("ledger".into(), 1, 0));
            let stream = thread::spawn({
                let (queue, cell) = (Arc::clone(&queue), Arc::clone(&cell));
                move || queue.hand_cursor(&cell, 5, Due::Now)
            });
            let mut found = Vec::new();
            while found.is_empty() {
                found = take(&queue).cursors;
            }
            assert_eq!(found[0].pick_up().0, 5);
            stream.join().unwrap();
        });
    }
}

//! Waking many streams at once.
//!
//! A task for each would cost more than most handlers do. So a few tasks, one for each thread of the runtime, take one
//! stream after the other and run its loop themselves, as far as it goes without waiting; from there on it has a task of
//! its own. Each thread begins with the same part of the streams every time, whose state is in its processor's cache, and
//! goes on with those of the others when it is done. A handler that blocks its thread holds up the one task that called it, and the others go on with the rest
//! (S4). Should all of them be blocked, the streams that are left are woken again after the poll interval (D8).

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use tokio::runtime::Handle;

use crate::stream::core::StreamCore;
use crate::stream::pump::{self, Pump};
use crate::sync::{Mutex, let_others};

/// A batch that concerns no more streams than this wakes them one by one.
const FEW: usize = 32;
/// After so many streams a task lets others of the runtime have their turn.
const TURN: usize = 16;

/// Wakes a few at once, and leaves many to tasks of a runtime that has threads of its own, if there is one.
pub(crate) fn wake(wakers: Vec<Waker>, threads: Option<&Handle>) {
    let Some(threads) = threads.filter(|_| wakers.len() > FEW) else {
        return drop(Crowd::new(wakers, 1));
    };
    let tasks = threads.metrics().num_workers();
    let crowd = Arc::new(Crowd::new(wakers, tasks));
    for _ in 0..tasks {
        threads.spawn(run(Arc::clone(&crowd)));
    }
}

/// Streams that are to be woken. Those who are left when this is dropped are woken then, so that a runtime which is shut
/// down and runs no task any more loses nobody.
struct Crowd {
    parts: Box<[Mutex<Vec<Waker>>]>,
}

impl Crowd {
    fn new(mut wakers: Vec<Waker>, parts: usize) -> Self {
        let share = wakers.len().div_ceil(parts);
        let mut parts: Vec<_> = (1..parts)
            .map(|_| Mutex::new(wakers.split_off(wakers.len().saturating_sub(share))))
            .collect();
        parts.push(Mutex::new(wakers));
        Self { parts: parts.into() }
    }

    /// One that is left, from this part if possible.
    fn next(&self, part: usize) -> Option<Waker> {
        let parts = self.parts.len();
        (0..parts).find_map(|other| self.parts[(part + other) % parts].lock().pop())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        while let Some(waker) = self.next(0) {
            waker.wake();
        }
    }
}

/// The number of this thread among those that have woken crowds.
fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        // Relaxed: any numbers will do, as long as they differ.
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

async fn run(crowd: Arc<Crowd>) {
    let here = Handle::current();
    let mut count = 0;
    while let Some(waker) = crowd.next(thread_number()) {
        let Some((core, pump)) = catch(waker) else {
            continue;
        };
        if core.runtime.id() == here.id() {
            run_here(core, pump, &here).await;
        } else {
            spawn(core, pump);
        }
        count += 1;
        if count % TURN == 0 {
            let_others().await;
        }
    }
}

/// Runs a loop until it rests, ends, or has to wait.
async fn run_here(core: Arc<StreamCore>, pump: Box<Pump>, here: &Handle) {
    let mut running = Box::pin(pump::run(core, pump));
    let polled = std::future::poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await;
    if polled.is_pending() {
        here.spawn(running);
    }
}

/// A loop that was woken.
type Woken = (Arc<StreamCore>, Box<Pump>);

/// What becomes of a loop that is woken on this thread.
enum Net {
    /// It gets a task.
    Folded,
    /// It is caught.
    Open,
    Caught(Woken),
}

thread_local! {
    /// Open for no longer than one waker is called.
    static NET: RefCell<Net> = const { RefCell::new(Net::Folded) };
}

/// Calls a waker, and gives back the loop that it woke, if it woke one.
fn catch(waker: Waker) -> Option<Woken> {
    /// Folds the net also when somebody's waker panics.
    struct Fold;
    impl Drop for Fold {
        fn drop(&mut self) {
            NET.set(Net::Folded);
        }
    }
    NET.set(Net::Open);
    let _fold = Fold;
    waker.wake();
    match NET.replace(Net::Folded) {
        Net::Caught(woken) => Some(woken),
        Net::Open | Net::Folded => None,
    }
}

/// Lets a loop run that was woken: in a task, unless whoever woke it runs it.
pub(crate) fn start(core: Arc<StreamCore>, pump: Box<Pump>) {
    // A thread that ends has no net any more.
    let is_caught = NET.try_with(|net| matches!(*net.borrow(), Net::Open));
    let is_caught = is_caught.unwrap_or(false);
    if is_caught {
        NET.set(Net::Caught((core, pump)));
    } else {
        spawn(core, pump);
    }
}

fn spawn(core: Arc<StreamCore>, pump: Box<Pump>) {
    let runtime = core.runtime.clone();
    runtime.spawn(pump::run(core, pump));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    struct Note(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Note {
        fn wake(self: Arc<Self>) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn every_part_is_taken_and_those_of_others_when_the_own_is_empty() {
        for (wakers, parts) in [(0, 1), (1, 3), (7, 3), (8, 4), (100, 7)] {
            let woken = Arc::new(Mutex::new(Vec::new()));
            let note = |number| Waker::from(Arc::new(Note(number, Arc::clone(&woken))));
            let crowd = Crowd::new((0..wakers).map(note).collect(), parts);
            let share = crowd.parts[1 % parts].lock().len();
            for _ in 0..share {
                crowd.next(1).expect("its own part is not empty").wake();
            }
            assert!(crowd.parts[1 % parts].lock().is_empty());
            if let Some(waker) = crowd.next(1) {
                waker.wake();
            }
            drop(crowd);
            let mut woken = std::mem::take(&mut *woken.lock());
            woken.sort_unstable();
            assert_eq!(woken, (0..wakers).collect::<Vec<_>>());
        }
    }
}

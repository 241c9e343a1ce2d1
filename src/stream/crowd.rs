//! Waking many streams at once.
//!
//! A task for each would cost more than most handlers do. So a few tasks, one for each thread of the runtime, take one
//! stream after the other and run its loop themselves, as far as it goes without waiting; from there on it has a task of
//! its own. A handler that blocks its thread holds up the one task that called it, and the others go on with the rest
//! (S4). Should all of them be blocked, the streams that are left are woken again after the poll interval (D8).

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Poll, Waker};

use tokio::runtime::Handle;

use crate::stream::core::StreamCore;
use crate::stream::pump::{self, Pump};
use crate::sync::Mutex;

/// A batch that concerns no more streams than this wakes them one by one.
const FEW: usize = 32;
/// After so many streams a task lets others of the runtime have their turn.
const TURN: usize = 16;

/// Wakes a few at once, and leaves many to tasks of a runtime that has threads of its own, if there is one.
pub(crate) fn wake(wakers: Vec<Waker>, threads: Option<&Handle>) {
    let crowd = Crowd::new(wakers);
    if let Some(threads) = threads
        && crowd.len() > FEW
    {
        let crowd = Arc::new(crowd);
        for _ in 0..threads.metrics().num_workers() {
            threads.spawn(run(Arc::clone(&crowd)));
        }
    }
}

/// Streams that are to be woken. Those who are left when this is dropped are woken then, so that a runtime which is shut
/// down and runs no task any more loses nobody.
pub(crate) struct Crowd {
    wakers: Mutex<Vec<Waker>>,
}

impl Crowd {
    pub(crate) fn new(wakers: Vec<Waker>) -> Self {
        Self {
            wakers: Mutex::new(wakers),
        }
    }

    fn len(&self) -> usize {
        self.wakers.lock().len()
    }

    fn next(&self) -> Option<Waker> {
        self.wakers.lock().pop()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        while let Some(waker) = self.next() {
            waker.wake();
        }
    }
}

async fn run(crowd: Arc<Crowd>) {
    let here = Handle::current();
    let mut count = 0;
    while let Some(waker) = crowd.next() {
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
            tokio::task::yield_now().await;
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

//! The thread that the connections run on, and how the threads of the log wait for them.
//!
//! The halves of a log are synchronous: the committer's thread, and threads that may block, call them and wait. The connections
//! are asynchronous, and are driven by a runtime of their own on a thread of their own, so they go on whatever the caller's
//! runtime does, and whether it has one. Whoever waits polls its future itself and parks its thread; nothing is nested in a runtime of
//! the caller.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::error::StorageError;
use crate::log::postgres::trouble::Trouble;
use crate::sync::Mutex;

/// How long the thread waits for connections to say good-bye to the server.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The connections' runtime. It ends when the last one drops it.
pub(super) struct Driver {
    handle: Handle,
    is_closing: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Driver {
    pub(super) fn start() -> Result<Arc<Self>, StorageError> {
        let failed = |error| StorageError::new("start the thread of its connections", error);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (is_closing, mut closing) = watch::channel(false);
        let thread = thread::Builder::new()
            .name(String::from("millstream-postgres"))
            .spawn(move || {
                runtime.block_on(async {
                    // The driver has the sender: its end is the same.
                    let _ = closing.wait_for(|is_closing| *is_closing).await;
                    let _ = tokio::time::timeout(FAREWELL_MAX, all_have_ended()).await;
                });
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Arc::new(Self {
            handle,
            is_closing,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Runs a task beside the connections. It is to end when everything does.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Turns true when everything is to end.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.is_closing.subscribe()
    }

    /// Blocks this thread until the future is done, or for so long at the most.
    pub(super) fn wait<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let _context = self.handle.enter();
        let limited = tokio::time::timeout(limit, future);
        // A task of the caller's runtime has a budget, which is not renewed while this blocks.
        let mut limited = pin!(tokio::task::unconstrained(limited));
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match limited.as_mut().poll(&mut context) {
                Poll::Ready(Ok(outcome)) => return outcome,
                Poll::Ready(Err(_)) => return Err(Trouble::NoAnswer { limit }),
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Blocks this thread for so long.
    pub(super) fn pause(&self, pause: Duration) {
        let pausing = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        // It always ends before the limit.
        let _ = self.wait(pause + FAREWELL_MAX, pausing);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.is_closing.send_replace(true);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Nobody uses the connections any more: each of them takes leave of the server and ends.
async fn all_have_ended() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn one_waits_with_and_without_a_runtime_and_not_for_ever() {
        let driver = Driver::start().unwrap();
        let long = Duration::from_secs(25);
        // Whoever waits is woken by a task that runs on the other thread.
        let answer = || {
            let (give, answer) = oneshot::channel();
            driver.spawn(async move { give.send(7).expect("somebody waits") });
            async { answer.await.map_err(|_| Trouble::TransactionIsGone) }
        };
        assert!(matches!(driver.wait(long, answer()), Ok(7)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let nested = runtime.block_on(async { driver.wait(long, answer()) });
        assert!(matches!(nested, Ok(7)));
        let short = Duration::from_millis(1);
        let never = driver.wait(short, std::future::pending::<Result<(), Trouble>>());
        assert!(matches!(never, Err(Trouble::NoAnswer { limit }) if limit == short));
    }
}

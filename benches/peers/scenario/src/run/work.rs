//! Where the work of a peer runs: a task, or a thread for one that blocks.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::peer::{Failure, Peer};

/// Starts it, and gives what it returns.
pub(super) fn start<P, T>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, Failure>>
where
    P: Peer,
    T: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    if P::BLOCKS {
        let runtime = Handle::current();
        thread::spawn(move || {
            let _timers = runtime.enter();
            let _ = sender.send(block_on(work));
        });
    } else {
        tokio::spawn(async move {
            let _ = sender.send(work.await);
        });
    }
    async {
        receiver
            .await
            .map_err(|_| Failure::from("a writer or a stream panicked"))
    }
}

/// Runs a future on this thread, which stays one where a peer may start a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

//! How long a test waits for what does not come.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a wait of the kit may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits, and gives up after so long. The time is real time, because tokio's may stand, and then jumps over a timer whenever nothing
/// but a store's own thread is at work.
pub(crate) async fn within<T>(limit: Duration, waiting: impl Future<Output = T>) -> Option<T> {
    let (expire, expired) = oneshot::channel();
    let (_alive, ended) = mpsc::sync_channel::<()>(0);
    thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // Who waited may just have been served.
            let _ = expire.send(());
        }
    });
    tokio::select! {
        biased;
        outcome = waiting => Some(outcome),
        Ok(()) = expired => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_in_real_time() {
        let never = within(Duration::from_millis(20), std::future::pending::<()>());
        assert_eq!(never.await, None);
        assert_eq!(within(PATIENCE, async { 7 }).await, Some(7));
    }
}

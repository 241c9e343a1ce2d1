//! How long commits take of late, by which a lone caller decides whether to sleep or to stay awake for its answer.
//!
//! Waking a thread takes about as long as a fast disk takes to sync. So a caller that nobody shares the commit with looks
//! for its answer instead: in short turns, between which whatever else is ready on its executor gets on.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use std::{hint, thread};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// The running mean of the time from the begin of a group to its answers.
pub(crate) struct Tempo {
    micros: AtomicU32,
    /// With one processor to share, the committer needs it more than the caller.
    has_processors: bool,
}

/// Through a commit that takes longer a caller sleeps: the wake-up is a small part of it, and staying awake would cost much.
const AWAKE_MAX: Duration = Duration::from_millis(1);
/// What counts of a commit that takes longer still, so that it is soon forgotten.
const TOOK_MAX: Duration = Duration::from_millis(4);
/// How many times the mean a caller stays awake.
const PATIENCE: u32 = 2;
/// How long one turn keeps an executor's thread.
const TURN: Duration = Duration::from_micros(10);
/// A commit counts for one in so many.
const MEMORY: u32 = 8;

impl Tempo {
    pub(crate) fn new() -> Self {
        Self {
            // Unknown: callers sleep until some commits have been seen to be short.
            micros: AtomicU32::new(micros(TOOK_MAX)),
            has_processors: thread::available_parallelism().is_ok_and(|processors| processors.get() > 1),
        }
    }

    /// Takes another commit into the mean. Only the committer calls it.
    pub(crate) fn note(&self, took: Duration) {
        // Relaxed: a guess, which stands for itself.
        let mean = self.micros.load(Ordering::Relaxed);
        let mean = mean - mean / MEMORY + micros(took.min(TOOK_MAX)) / MEMORY;
        self.micros.store(mean, Ordering::Relaxed);
    }

    /// How long to stay awake for an answer; nothing, when it is better to sleep.
    pub(crate) fn stay_awake(&self) -> Option<Duration> {
        let mean = Duration::from_micros(self.micros.load(Ordering::Relaxed).into());
        (self.has_processors && mean <= AWAKE_MAX).then(|| mean * PATIENCE)
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Stays awake for the answer, and sleeps when it does not come in time. `None`: nobody will give one.
pub(crate) async fn awake<T>(mut answer: oneshot::Receiver<T>, patience: Duration) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < patience {
        let turn = Instant::now();
        while turn.elapsed() < TURN {
            match answer.try_recv() {
                Ok(answer) => return Some(answer),
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) => hint::spin_loop(),
            }
        }
        let_others().await;
    }
    answer.await.ok()
}

/// Comes up again behind what else is ready. The waker is called at once: tokio's own `yield_now` keeps it until the worker
/// is free, which never happens when another executor blocks that worker, as `append_blocking` does.
async fn let_others() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if there were processors enough.
    fn tempo(took: Duration) -> Tempo {
        let tempo = Tempo {
            has_processors: true,
            ..Tempo::new()
        };
        (0..100).for_each(|_| tempo.note(took));
        tempo
    }

    #[test]
    fn callers_sleep_until_commits_are_known_to_be_short() {
        let unknown = Tempo {
            has_processors: true,
            ..Tempo::new()
        };
        assert_eq!(unknown.stay_awake(), None);
        assert_eq!(tempo(Duration::from_secs(100)).stay_awake(), None);
        let patience = tempo(Duration::from_micros(160)).stay_awake().unwrap();
        assert!(
            (300..400).contains(&patience.as_micros()),
            "about twice the mean, not {patience:?}"
        );
    }

    #[tokio::test]
    async fn who_stays_awake_leaves_the_executor_to_others() {
        let (give, answer) = oneshot::channel();
        // The answer comes from a task that needs the very thread on which the caller stays awake.
        tokio::spawn(async move { give.send(7) });
        assert_eq!(awake(answer, Duration::from_secs(3600)).await, Some(7));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_executor_inside_a_worker_gets_its_turns() {
        let (give, answer) = oneshot::channel();
        let worker = tokio::spawn(async move {
            let answerer = std::thread::spawn(move || give.send(7));
            let answer = futures::executor::block_on(awake(answer, 20 * TURN));
            answerer.join().unwrap().unwrap();
            answer
        });
        assert_eq!(worker.await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn an_answer_that_is_late_is_slept_for() {
        let (give, answer) = oneshot::channel();
        let waiting = tokio::spawn(awake(answer, Duration::ZERO));
        give.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(7));
    }
}

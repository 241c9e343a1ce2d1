//! How a lone caller waits for its answer: asleep, or awake for as long as commits take of late.
//!
//! Waking a thread takes about as long as a fast disk takes to sync. So a caller that nobody shares the commit with may look
//! for its answer instead: in short turns, between which whatever else is ready on its executor gets on.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{hint, thread};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::log::trial::{Manner, Trial};
use crate::sync::{Mutex, let_others};

pub(crate) struct Tempo {
    /// The running median of the time from the begin of a group to its answers. A mean would tell of the few commits that had to wait
    /// until another process was done with the file, and callers would sleep through all those in between.
    micros: AtomicU32,
    /// How many requests the last group had. Callers of a larger group come back together, and need the threads that they would
    /// keep each other from.
    last_group: AtomicUsize,
    /// With one processor to share, the committer needs it more than the caller.
    has_processors: bool,
    trial: Mutex<Trial>,
}

/// Through a commit that takes longer a caller sleeps: the wake-up is a small part of it, and staying awake would cost much. Where
/// another process holds the file meanwhile, that process needs the processor.
const AWAKE_MAX: Duration = Duration::from_micros(500);
/// The median goes no further, so that it soon comes back.
const TOOK_MAX: Duration = Duration::from_millis(4);
/// How many times the median a caller stays awake.
const PATIENCE: u32 = 2;
/// How long one turn keeps an executor's thread.
const TURN: Duration = Duration::from_micros(10);
/// By what part of itself the median moves towards a commit.
const STEP_PART: u32 = 8;

impl Tempo {
    pub(crate) fn new() -> Self {
        Self {
            // Unknown: callers sleep until some commits have been seen to be short.
            micros: AtomicU32::new(micros(TOOK_MAX)),
            last_group: AtomicUsize::new(0),
            has_processors: thread::available_parallelism().is_ok_and(|processors| processors.get() > 1),
            trial: Mutex::new(Trial::new()),
        }
    }

    /// Takes another commit, of so many requests, into the median. Of two that end at once, one may be lost.
    pub(crate) fn note(&self, took: Duration, requests: usize) {
        // Relaxed: a guess, which stands for itself.
        let median = self.micros.load(Ordering::Relaxed);
        let step = (median / STEP_PART).max(1);
        let median = if micros(took) > median {
            (median + step).min(micros(TOOK_MAX))
        } else {
            median.saturating_sub(step)
        };
        self.micros.store(median, Ordering::Relaxed);
        self.last_group.store(requests, Ordering::Relaxed);
    }

    /// Waits for the answer to a lone request, in the manner that is faster of late. `None`: nobody will give one.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Option<T> {
        let Some(patience) = self.patience() else {
            return answer.await.ok();
        };
        let manner = self.trial.lock().manner();
        let started = Instant::now();
        let answer = match manner {
            Manner::Awake => awake(answer, patience).await,
            Manner::Asleep => answer.await.ok(),
        };
        self.trial.lock().note(manner, started.elapsed());
        answer
    }

    /// How long it may be worth staying awake; nothing, when it is better to sleep.
    fn patience(&self) -> Option<Duration> {
        let median = Duration::from_micros(self.micros.load(Ordering::Relaxed).into());
        let is_alone = self.last_group.load(Ordering::Relaxed) <= 1;
        (self.has_processors && is_alone && median <= AWAKE_MAX).then(|| median * PATIENCE)
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Stays awake for the answer, and sleeps when it does not come in time. `None`: nobody will give one.
async fn awake<T>(mut answer: oneshot::Receiver<T>, patience: Duration) -> Option<T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As if there were processors enough.
    fn tempo(took: Duration) -> Tempo {
        let tempo = Tempo {
            has_processors: true,
            ..Tempo::new()
        };
        (0..100).for_each(|_| tempo.note(took, 1));
        tempo
    }

    #[test]
    fn callers_sleep_until_commits_are_known_to_be_short() {
        let unknown = Tempo {
            has_processors: true,
            ..Tempo::new()
        };
        assert_eq!(unknown.patience(), None);
        assert_eq!(tempo(Duration::from_secs(100)).patience(), None);
        let shared = tempo(Duration::from_micros(160));
        shared.note(Duration::from_micros(160), 2);
        assert_eq!(shared.patience(), None);
        let patience = tempo(Duration::from_micros(160)).patience().unwrap();
        assert!(
            (270..380).contains(&patience.as_micros()),
            "about twice the median, not {patience:?}"
        );
    }

    #[test]
    fn a_few_commits_that_had_to_wait_do_not_put_the_others_to_sleep() {
        let tempo = tempo(Duration::from_micros(300));
        for commit in 0..1_000 {
            let waits = commit % 5 == 0;
            tempo.note(Duration::from_micros(if waits { 3_000 } else { 300 }), 1);
            assert!(tempo.patience().is_some());
        }
        for commit in 0..100 {
            let waits = commit % 3 > 0;
            tempo.note(Duration::from_micros(if waits { 3_000 } else { 300 }), 1);
        }
        assert_eq!(tempo.patience(), None, "most of them wait");
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

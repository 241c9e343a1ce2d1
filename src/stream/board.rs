//! What the loop of a stream writes down, and who is told when it changes.
//!
//! It changes with every batch, and mostly nobody is there to be told: the channels for that come into being with the
//! first one who listens.

use tokio::sync::watch;

use crate::stream::status::Progress;
use crate::sync::Mutex;

pub(crate) struct Board {
    state: Mutex<State>,
}

struct State {
    progress: Progress,
    /// Those who follow every change.
    followers: Option<watch::Sender<()>>,
    /// Those who wait for a position: told when what one of them waits for is reached, or never will be.
    waiters: Option<watch::Sender<()>>,
}

/// Whether a change is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Yes,
    No,
}

impl Board {
    pub(crate) fn new(position: u64, epoch: u64) -> Self {
        Self {
            state: Mutex::new(State {
                progress: Progress::new(position, epoch),
                followers: None,
                waiters: None,
            }),
        }
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Progress) -> T) -> T {
        read(&self.state.lock().progress)
    }

    /// Changes the progress for those who ask, and tells nobody.
    pub(crate) fn note<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.state.lock().progress)
    }

    /// Changes the progress, and tells those for whom it is news.
    pub(crate) fn report(&self, change: impl FnOnce(&mut Progress) -> News) {
        let mut state = self.state.lock();
        let news = change(&mut state.progress);
        let reaches = state.progress.reaches();
        // Whoever listens from now on has seen the change itself.
        let followers = state.followers.as_ref().filter(|_| news == News::Yes).cloned();
        let waiters = state.waiters.as_ref().filter(|_| reaches).cloned();
        drop(state);
        for listeners in [followers, waiters].into_iter().flatten() {
            listeners.send_replace(());
        }
    }

    /// Listens for every change from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        listen(&mut self.state.lock().followers)
    }

    /// Listens for what is reached from now on.
    pub(crate) fn wait(&self) -> watch::Receiver<()> {
        listen(&mut self.state.lock().waiters)
    }
}

fn listen(listeners: &mut Option<watch::Sender<()>>) -> watch::Receiver<()> {
    listeners
        .get_or_insert_with(|| watch::Sender::new(()))
        .subscribe()
}

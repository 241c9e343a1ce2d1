//! Waiting for a stream: until it has settled a position, stored it, or stopped.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::error::{StopCause, WaitError};
use crate::event::query::EventQuery;
use crate::log::cursor::CursorCell;
use crate::log::once::AppendedOnce;
use crate::log::queue::Due;
use crate::log::request::Appended;
use crate::stream::board::News;
use crate::stream::core::StreamCore;
use crate::stream::feed::{Feed, Found};
use crate::stream::inside;

/// What `wait_for` waits for: that a stream has passed what an append came to, or a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until(pub(crate) u64);

impl From<u64> for Until {
    fn from(sequence: u64) -> Self {
        Self(sequence)
    }
}

impl From<Appended> for Until {
    fn from(appended: Appended) -> Self {
        Self(appended.last_sequence)
    }
}

impl From<AppendedOnce> for Until {
    fn from(once: AppendedOnce) -> Self {
        Self(once.appended.last_sequence)
    }
}

impl From<&Appended> for Until {
    fn from(appended: &Appended) -> Self {
        Self(appended.last_sequence)
    }
}

impl StreamCore {
    /// Waits until everything up to `sequence` is settled; fails at once when the stream has stopped, or was paused, before
    /// that.
    pub(crate) async fn wait_for(&self, sequence: u64) -> Result<(), WaitError> {
        inside::refuse(self)?;
        self.committed(sequence).await;
        let mut reached = self.board.wait();
        loop {
            reached.mark_unchanged();
            if self.has_reached(sequence) {
                return Ok(());
            }
            if let Some(halted) = self.halted() {
                return Err(halted);
            }
            if reached.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    /// Waits until everything up to `sequence` is settled, and stored when the stream is durable.
    pub(crate) async fn wait_stored(&self, sequence: u64) -> Result<(), WaitError> {
        loop {
            self.wait_for(sequence).await?;
            // The cell first: a position that is read afterwards belongs to it, or to a run after it.
            let Some(cell) = self.cursor() else { return Ok(()) };
            if cell.epoch != self.heard_epoch() || !self.has_reached(sequence) {
                continue;
            }
            let position = self.position();
            self.source.log.queue.hand_cursor(&cell, position, Due::Now);
            let stored = poll_fn(|context| cell.poll_stored(sequence, context)).await;
            if stored.is_ok() {
                return Ok(());
            }
            self.replaced(&cell).await?;
        }
    }

    /// A cell that failed is replaced, when the cursor was moved from outside; otherwise the stream stops.
    async fn replaced(&self, failed: &Arc<CursorCell>) -> Result<(), WaitError> {
        let mut changes = self.board.follow();
        loop {
            changes.mark_unchanged();
            if !self.cursor().is_some_and(|cell| Arc::ptr_eq(&cell, failed)) {
                return Ok(());
            }
            if let Some(halted) = self.halted() {
                return Err(halted);
            }
            if changes.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    /// Whether the position is there, after saying that somebody waits for it. A position from before a reset is none: the loop
    /// has yet to begin at the new one.
    fn has_reached(&self, sequence: u64) -> bool {
        // What somebody waited for before, and what is reached, hides nothing that is waited for now.
        self.board.report(|_| News::No);
        let (position, epoch) = self.board.note(|progress| {
            progress.wanted = progress.wanted.min(sequence);
            (progress.position, progress.epoch)
        });
        // A stream at rest is settled up to the head without saying so.
        let has_reached =
            epoch == self.heard_epoch() && (position >= sequence || self.position() >= sequence);
        if !has_reached {
            // A group that waits for more batches is not to keep anybody waiting.
            self.interrupt.notify_one();
        }
        has_reached
    }

    /// What those are told who wait for a stream that does not go on. One that was told to rest, and whose handler has not
    /// returned yet, counts as paused.
    fn halted(&self) -> Option<WaitError> {
        let name = || self.name.as_deref().map(str::to_owned);
        let (position, cause) = self
            .board
            .read(|progress| (progress.position, progress.stop_cause().cloned()));
        if let Some(cause) = cause {
            return Some(WaitError::Stopped {
                name: name(),
                position,
                cause,
            });
        }
        if let Some(owner) = self.owner_elsewhere() {
            let name = name().unwrap_or_default();
            return Some(WaitError::StandsBy { name, owner });
        }
        let pause = self.heard_pause()?;
        Some(WaitError::Paused {
            name: name().unwrap_or_default(),
            position,
            by: pause.by.to_string(),
        })
    }

    /// Waits until `sequence` is published, or the stream goes on no more: a seat of its own is woken by that.
    async fn committed(&self, sequence: u64) {
        if self.source.bus.head() >= sequence || sequence == 0 {
            return;
        }
        let everything = Arc::new(EventQuery::all());
        let mut feed = Feed::new(Arc::clone(&self.source), everything, sequence - 1);
        let published = poll_fn(|context| match feed.look(sequence - 1, Some(context.waker())) {
            Found::Nothing { .. } => Poll::Pending,
            Found::Page(_) | Found::Behind { .. } | Found::Closed => Poll::Ready(()),
        });
        tokio::select! {
            () = published => {}
            () = self.halts() => {}
        }
    }

    /// Waits until the stream is paused or has stopped.
    async fn halts(&self) {
        let mut reached = self.board.wait();
        loop {
            reached.mark_unchanged();
            if self.halted().is_some() {
                return;
            }
            if reached.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    /// Waits until the stream is run here; fails when it stops before that.
    pub(crate) async fn owned(&self) -> Result<(), WaitError> {
        let mut changes = self.board.follow();
        loop {
            changes.mark_unchanged();
            match self.halted() {
                None | Some(WaitError::Paused { .. }) => return Ok(()),
                Some(stopped @ WaitError::Stopped { .. }) => return Err(stopped),
                Some(_) => {}
            }
            if changes.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }

    pub(crate) async fn stopped(&self) -> StopCause {
        let mut reached = self.board.wait();
        loop {
            reached.mark_unchanged();
            if let Some(cause) = self.stop_cause() {
                return cause;
            }
            if reached.changed().await.is_err() {
                unreachable!("the sender lives as long as this stream");
            }
        }
    }
}

//! What is written into the log's file beside the log itself: read models that are kept there.
//!
//! Each piece of work has a transaction of its own on the committer's thread, between two groups. It is never part of a group: SQLite
//! rolls back the whole transaction, and not to a savepoint, when it interrupts a statement that writes or when the disk is full, and the
//! appends of the group would be gone with it (S4). It asks for no sync: what a power cut takes is the rows together with
//! their position, and they are made again.

use std::cell::Cell;
use std::time::Duration;

use crate::error::StorageError;
use crate::log::handle::{LogHandle, committer_gone};
use crate::log::queue::Queue;
use crate::log::request::Request;
use crate::log::sqlite::beside::Desk;

/// Something that is to be written beside the log.
pub(crate) trait BesideWork: Send {
    /// Writes inside the transaction. An error, or anything but [`Written::Commit`], rolls it back.
    fn write(&mut self, desk: &Desk<'_>) -> Result<Written, StorageError>;

    /// It is over: whoever waits is told. No code of the user may be called here, because a panic would end the committer.
    fn done(self: Box<Self>, end: End);
}

/// What a piece of work came to inside its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All of it is to be kept.
    Commit,
    /// Nothing is to be kept. The work knows why.
    RollBack,
    /// Somebody else owns the name that it writes for (D6). Nothing is kept.
    OwnershipLost,
}

/// How a piece of work ended.
pub(crate) struct End {
    /// Whether it was committed, as far as is known.
    pub(crate) outcome: Result<Written, StorageError>,
    /// How long the committer did nothing else.
    pub(crate) took: Duration,
}

thread_local! {
    /// Foreign code runs on this thread, which is the committer's.
    static IS_COMMITTER: Cell<bool> = const { Cell::new(false) };
}

/// Calls foreign code on the committer's thread.
pub(crate) fn on_the_committers_thread<T>(call: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            IS_COMMITTER.set(false);
        }
    }
    IS_COMMITTER.set(true);
    let _leave = Leave;
    call()
}

/// Refuses to wait for the committer on its own thread, where that would never end.
pub(crate) fn refuse_inside() -> Result<(), StorageError> {
    if !IS_COMMITTER.get() {
        return Ok(());
    }
    let problem = "this is inside a projection in the log's own file, for which appends wait; use a reactor (`Store::react`) to answer events with events";
    Err(StorageError::new("append", std::io::Error::other(problem)))
}

/// Hands work to the committer. Once queued it is done, whatever becomes of who asked for it.
///
/// It takes no room in the queue that appends wait for: a read model has one piece of work under way at the most.
pub(crate) fn push(queue: &Queue<Request>, work: Box<dyn BesideWork>) -> Result<(), StorageError> {
    queue.push(Request::Beside(work)).map_err(|_| committer_gone())
}

impl LogHandle {
    /// Hands work to the committer.
    pub(crate) fn push_beside(&self, work: Box<dyn BesideWork>) -> Result<(), StorageError> {
        push(&self.queue, work)
    }
}

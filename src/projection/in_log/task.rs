//! What is asked of the committer once, such as to make a model's tables.

use tokio::sync::oneshot;

use crate::error::{ReadModelError, StorageError};
use crate::log::beside::{BesideWork, End, Written};
use crate::log::sqlite::beside::Desk;
use crate::store::Store;

type Answer<T> = Result<T, ReadModelError>;

/// A closure, and whoever waits for what it says.
struct Task<T, F> {
    task: Option<F>,
    answer: Option<Answer<T>>,
    reply: oneshot::Sender<Answer<T>>,
}

/// Has the committer do something in one transaction, which is kept when the closure returns `Ok`. Once asked for it is done, whatever
/// becomes of this future.
pub(super) async fn ask<T: Send + 'static>(
    store: &Store,
    task: impl FnOnce(&Desk<'_>) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    store.check_open()?;
    let (reply, answer) = oneshot::channel();
    store.log().push_beside(Box::new(Task {
        task: Some(task),
        answer: None,
        reply,
    }))?;
    answer.await.unwrap_or_else(|_| Err(unanswered().into()))
}

impl<T, F> BesideWork for Task<T, F>
where
    T: Send,
    F: FnOnce(&Desk<'_>) -> Answer<T> + Send,
{
    fn write(&mut self, desk: &Desk<'_>) -> Result<Written, StorageError> {
        let answer = match self.task.take() {
            Some(task) => task(desk),
            None => Err(unanswered().into()),
        };
        let written = match answer {
            Ok(_) => Written::Commit,
            Err(_) => Written::RollBack,
        };
        self.answer = Some(answer);
        Ok(written)
    }

    fn done(self: Box<Self>, end: End) {
        let answer = match (end.outcome, self.answer) {
            (Ok(_), Some(answer)) => answer,
            (Ok(_), None) => Err(unanswered().into()),
            (Err(error), _) => Err(error.into()),
        };
        // Who has gone does not need the answer.
        let _ = self.reply.send(answer);
    }
}

/// The committer has ended without an answer.
pub(super) fn unanswered() -> StorageError {
    let problem = "the committer stopped because something it relies on was broken; reopen the store";
    StorageError::new("write beside the log", std::io::Error::other(problem))
}

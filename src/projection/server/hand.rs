//! The projection between its transactions: what of its state counts.

use tokio_postgres::Transaction;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::projection::server::link::Link;
use crate::projection::server::projection::ServerProjection;

/// The projection and its connection, with one at a time at work on them.
pub(super) struct Hand<P> {
    registered: P,
    kept: P,
    attempt: Option<P>,
    stage: Stage,
    /// Nobody has looked yet whether the last transaction was committed.
    is_in_doubt: bool,
    /// Whoever uses it takes it out, so that it is closed with a call that is dropped.
    pub(super) link: Option<Link>,
}

/// What is known of the last transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Settled,
    /// It was not committed.
    Applying,
    /// It may have been.
    Committing,
}

impl<P: ServerProjection> Hand<P> {
    pub(super) fn new(projection: P) -> Self {
        Self {
            kept: projection.anew(),
            registered: projection,
            attempt: None,
            stage: Stage::Settled,
            is_in_doubt: false,
            link: None,
        }
    }

    /// Forgets what a transaction left that did not come to its end: one that failed, or a call that was dropped or panicked.
    pub(super) fn settle(&mut self) {
        self.attempt = None;
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => {}
            Stage::Applying => self.kept.rolled_back(),
            // Neither what it was before nor what it is after can be relied upon.
            Stage::Committing => {
                self.kept = self.registered.anew();
                self.is_in_doubt = true;
            }
        }
    }

    /// The position was read: it says what became of every transaction before.
    pub(super) fn knows(&mut self) {
        self.is_in_doubt = false;
    }

    /// Whether a transaction may have been committed of which the position was not read since.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.settle();
        self.stage = Stage::Applying;
    }

    /// Applies a batch to a clone, the same for all batches of a transaction.
    pub(super) async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let attempt = self.attempt.get_or_insert_with(|| self.kept.clone());
        attempt.apply(tx, batch).await
    }

    /// There is no further batch in the transaction.
    pub(super) async fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        match &mut self.attempt {
            Some(attempt) => attempt.before_commit(tx).await,
            None => Ok(()),
        }
    }

    /// From here on nobody knows whether it is committed, until the server says so.
    pub(super) fn commits(&mut self) {
        self.stage = Stage::Committing;
    }

    /// The transaction has committed: the clone takes the place.
    pub(super) fn keep(&mut self) {
        self.stage = Stage::Settled;
        if let Some(attempt) = self.attempt.take() {
            self.kept = attempt;
        }
    }
}

//! A build and its projection between two transactions: what of the projection's state counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use tokio_postgres::Transaction;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::projection::server::link::Link;
use crate::projection::server::projection::ServerProjection;
use crate::projection::server::rows::Opened;
use crate::projection::standing::BuildRow;

/// A projection of any type, with what its transactions make of it.
pub(super) trait Kept: Send {
    /// Applies a batch to a clone, the same for all batches of a transaction.
    fn attempt<'a>(
        &'a mut self,
        tx: &'a Transaction<'_>,
        batch: &'a EventBatch,
    ) -> BoxFuture<'a, Result<(), BoxError>>;
    /// There is no further batch in the transaction.
    fn before_commit<'a>(&'a mut self, tx: &'a Transaction<'_>) -> BoxFuture<'a, Result<(), BoxError>>;
    /// The transaction has committed: the clone takes the place.
    fn keep(&mut self);
    /// The clone is gone, if there was one.
    fn drop_attempt(&mut self);
    /// The transaction was rolled back.
    fn rolled_back(&mut self);
    /// Neither what it was before a transaction nor what it is after can be relied upon.
    fn begin_anew(&mut self);
    /// The same projection as it was registered.
    fn anew(&self) -> Box<dyn Kept>;
}

/// What the user registered, and what became of it.
struct Projected<P> {
    registered: P,
    kept: P,
    attempt: Option<P>,
}

impl<P: ServerProjection> Projected<P> {
    fn new(projection: P) -> Self {
        Self {
            kept: projection.anew(),
            registered: projection,
            attempt: None,
        }
    }
}

impl<P: ServerProjection> Kept for Projected<P> {
    fn attempt<'a>(
        &'a mut self,
        tx: &'a Transaction<'_>,
        batch: &'a EventBatch,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        let attempt = self.attempt.get_or_insert_with(|| self.kept.clone());
        Box::pin(attempt.apply(tx, batch))
    }

    fn before_commit<'a>(&'a mut self, tx: &'a Transaction<'_>) -> BoxFuture<'a, Result<(), BoxError>> {
        match &mut self.attempt {
            Some(attempt) => Box::pin(attempt.before_commit(tx)),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn keep(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.kept = attempt;
        }
    }

    fn drop_attempt(&mut self) {
        self.attempt = None;
    }

    fn rolled_back(&mut self) {
        self.kept.rolled_back();
    }

    fn begin_anew(&mut self) {
        self.kept = self.registered.anew();
    }

    fn anew(&self) -> Box<dyn Kept> {
        Box::new(Self::new(self.registered.clone()))
    }
}

/// A build, its projection and its connection, with one at a time at work on them.
pub(super) struct Hand {
    pub(super) row: BuildRow,
    /// Who may write the build.
    pub(super) owner: i64,
    /// There is nothing to apply up to here, whatever the build's row says.
    begins_at: u64,
    position: u64,
    /// The same, for those who only look.
    shown: Arc<AtomicU64>,
    kept: Box<dyn Kept>,
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

impl Hand {
    /// What was opened, and what is to apply to it from a position on.
    pub(super) fn new<P: ServerProjection>(opened: Opened, projection: P, position: u64) -> Self {
        Self::of(opened, Box::new(Projected::new(projection)), position)
    }

    fn of(opened: Opened, kept: Box<dyn Kept>, position: u64) -> Self {
        Self {
            row: opened.row,
            owner: opened.owner,
            begins_at: position,
            position,
            shown: Arc::new(AtomicU64::new(position)),
            kept,
            stage: Stage::Settled,
            is_in_doubt: false,
            link: None,
        }
    }

    /// The same projection, as it was registered, for another build that is thrown away when it does not come to its end.
    pub(super) fn beside(&self, opened: Opened) -> Self {
        let position = opened.position;
        Self::of(opened, self.kept.anew(), position)
    }

    /// Goes on with the build that another one has made, and that serves now.
    pub(super) fn go_on_with(&mut self, rebuilt: Self) {
        self.row = rebuilt.row;
        self.begins_at = rebuilt.begins_at;
        self.kept = rebuilt.kept;
        self.stage = rebuilt.stage;
        self.is_in_doubt = rebuilt.is_in_doubt;
        // It is a connection to the tables of before.
        self.link = None;
        self.is_at(rebuilt.position);
    }

    /// How far it is, as far as anybody knows.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How far it is, whoever is at work on it.
    pub(super) fn shown(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shown)
    }

    /// The build's row says that it is there, which says what became of every transaction before. Gives from where on there is something to
    /// apply.
    pub(super) fn knows(&mut self, position: u64) -> u64 {
        self.is_in_doubt = false;
        self.is_at(position.max(self.begins_at));
        self.position
    }

    fn is_at(&mut self, position: u64) {
        self.position = position;
        // Relaxed: nothing else is said with it.
        self.shown.store(position, Ordering::Relaxed);
    }

    /// Forgets what a transaction left that did not come to its end: one that failed, or a call that was dropped or panicked.
    pub(super) fn settle(&mut self) {
        self.kept.drop_attempt();
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => {}
            Stage::Applying => self.kept.rolled_back(),
            Stage::Committing => {
                self.kept.begin_anew();
                self.is_in_doubt = true;
            }
        }
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

    /// Applies a batch, as part of the transaction.
    pub(super) async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        self.kept.attempt(tx, batch).await
    }

    /// There is no further batch in the transaction.
    pub(super) async fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        self.kept.before_commit(tx).await
    }

    /// From here on nobody knows whether it is committed, until the server says so.
    pub(super) fn commits(&mut self) {
        self.stage = Stage::Committing;
    }

    /// The transaction has committed, and the build is at a position.
    pub(super) fn keep(&mut self, position: u64) {
        self.stage = Stage::Settled;
        self.kept.keep();
        self.is_at(position);
    }
}

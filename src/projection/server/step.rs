//! One transaction of a projection on the log's server.

use std::sync::Arc;
use std::time::Duration;

use futures::future;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Transaction};

use crate::clock::Timestamp;
use crate::error::{BoxError, ReadModelError, ServerModelError, StorageError, causes};
use crate::event::batch::EventBatch;
use crate::fault::{FaultPoint, Faults};
use crate::log::postgres::beside::{ServerDesk, quoted};
use crate::projection::server::hand::Hand;
use crate::projection::server::link::{Link, Statements};
use crate::projection::server::tables::IS_UNDER_WAY;
use crate::projection::spec::{Applied, Spec, TransactionLimits};

/// What is the same for all transactions of a version, whatever build they are of.
pub(super) struct Plan {
    pub(super) spec: Spec,
    pub(super) stream: Arc<str>,
    pub(super) desk: ServerDesk,
    pub(super) limits: TransactionLimits,
    pub(super) batch_timeout: Duration,
    pub(super) faults: Faults,
}

/// Why a transaction was not committed, or not that anybody knew.
pub(super) enum Stumble {
    /// The server could not be reached, or somebody else was in the way. The position says what became of the transaction.
    Storage(StorageError),
    /// The projection failed on one of the batches.
    Projection(BoxError),
    Model(ReadModelError),
}

/// What is done, for whoever reads an error.
const WRITE: &str = "write a read model";
/// A letter is applied as a whole.
const WHOLE: TransactionLimits = TransactionLimits {
    events_max: usize::MAX,
    within: Duration::MAX,
};

/// What a transaction is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order<'a> {
    /// To apply the next batches of the log.
    Next(&'a [EventBatch]),
    /// To apply a dead letter.
    Letter(&'a EventBatch),
    /// To move the position to where there is nothing to apply.
    Pass(u64),
}

/// What it has to do.
enum Work {
    /// All of it was done before.
    Nothing,
    Next(Vec<EventBatch>),
    Letter(EventBatch),
    Pass(u64),
}

/// What a transaction has done that is about to be committed.
struct Closed {
    position: u64,
    /// Of the batches, what was applied of them.
    last_sequence: u64,
    is_all: bool,
}

/// Does what is ordered, and moves the position behind it, in one transaction. Gives how many batches need not be given again. Without an epoch
/// the build belongs to no stream, and its own row says whose it is.
pub(super) async fn step(
    plan: &Plan,
    hand: &mut Hand,
    epoch: Option<u64>,
    order: Order<'_>,
) -> Result<usize, Stumble> {
    let mut link = match hand.link.take().filter(|link| !link.client.is_closed()) {
        Some(link) => link,
        None => Link::connect(&plan.desk, &hand.row.place)
            .await
            .map_err(Stumble::Storage)?,
    };
    let Link { client, statements } = &mut link;
    let tx = plan
        .answer(client.build_transaction().read_only(false).start())
        .await?;
    let transaction = Under {
        plan,
        statements,
        epoch,
        build: hand.row.build,
    };
    let done = transaction.run(tx, hand, order).await;
    // What did not come to its end leaves nothing in the memory either.
    hand.settle();
    if done.is_ok() {
        hand.link = Some(link);
    }
    done
}

impl Plan {
    fn storage(&self, error: Error) -> Stumble {
        Stumble::Storage(self.desk.failed(WRITE)(error))
    }

    /// Somebody else writes the build.
    pub(super) fn lost(&self) -> ReadModelError {
        ReadModelError::OwnershipLost {
            name: self.spec.name.clone(),
            version: self.spec.version,
        }
    }

    /// What the server says to one of millstream's own statements.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Stumble> {
        let answer = self.desk.answer(WRITE, asked).await.map_err(Stumble::Storage)?;
        answer.map_err(|error| self.storage(error))
    }
}

/// A transaction under way.
struct Under<'a> {
    plan: &'a Plan,
    statements: &'a Statements,
    epoch: Option<u64>,
    build: i64,
}

impl Under<'_> {
    async fn run(&self, tx: Transaction<'_>, hand: &mut Hand, order: Order<'_>) -> Result<usize, Stumble> {
        let position = self.open(&tx, hand).await?;
        let given = match order {
            Order::Next(batches) => batches,
            Order::Letter(letter) => std::slice::from_ref(letter),
            Order::Pass(_) => &[],
        };
        let work = self.work(&tx, position, order).await?;
        let (new, limits) = match &work {
            Work::Nothing => {
                self.plan.answer(tx.rollback()).await?;
                return Ok(given.len());
            }
            Work::Next(new) => (new.as_slice(), self.plan.limits),
            Work::Letter(letter) => (std::slice::from_ref(letter), WHOLE),
            Work::Pass(_) => (&[][..], WHOLE),
        };
        hand.begin();
        let written = match self.apply(&tx, hand, new, limits).await {
            Ok(applied) => self.close(&tx, position, &work, &applied).await,
            Err(error) => Err(Stumble::Projection(as_ended(error))),
        };
        let closed = match written {
            Ok(closed) => closed,
            Err(stumble) => return Err(self.roll_back(tx, stumble).await),
        };
        hand.commits();
        let committed = self.plan.desk.answer(WRITE, tx.commit()).await;
        let committed = committed.map_err(Stumble::Storage)?;
        committed.map_err(|error| self.refused_commit(error))?;
        hand.keep(closed.position);
        self.plan.faults.hit(FaultPoint::AfterModel);
        let is_done = |batch: &&EventBatch| closed.is_all || batch.last_sequence() <= closed.last_sequence;
        Ok(given.iter().take_while(is_done).count())
    }

    /// Locks the build's row. Gives how far the build is.
    async fn open(&self, tx: &Transaction<'_>, hand: &mut Hand) -> Result<u64, Stumble> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.build, &hand.owner];
        let opening = tx.query_opt(&self.statements.open, &parameters);
        let opened = self.plan.answer(opening).await?;
        let Some(row) = opened else {
            return Err(self.not_ours(tx).await);
        };
        let position: i64 = row.try_get(0).map_err(|error| self.plan.storage(error))?;
        Ok(hand.knows(position as u64))
    }

    /// Why the build cannot be written.
    async fn not_ours(&self, tx: &Transaction<'_>) -> Stumble {
        let log = quoted(self.plan.desk.schema());
        let sql = format!("SELECT true FROM {log}.millstream_model WHERE build = $1");
        match self.plan.answer(tx.query_opt(&sql, &[&self.build])).await {
            Ok(None) => Stumble::Projection(Box::new(ServerModelError::Removed)),
            Ok(Some(_)) => Stumble::Model(self.plan.lost()),
            Err(stumble) => stumble,
        }
    }

    async fn work(&self, tx: &Transaction<'_>, position: u64, order: Order<'_>) -> Result<Work, Stumble> {
        let letter = match order {
            Order::Next(batches) => {
                let new = batches.iter().filter_map(|batch| new_part(batch, position));
                let new: Vec<EventBatch> = new.collect();
                return Ok(match new.is_empty() {
                    true => Work::Nothing,
                    false => Work::Next(new),
                });
            }
            Order::Pass(through) => {
                return Ok(match through <= position {
                    true => Work::Nothing,
                    false => Work::Pass(through),
                });
            }
            Order::Letter(letter) => letter,
        };
        let (first, last) = (letter.first_sequence() as i64, letter.last_sequence() as i64);
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.build, &first, &last];
        let asked = tx.query_opt(&self.statements.has_applied, &parameters);
        Ok(match self.plan.answer(asked).await? {
            Some(_) => Work::Nothing,
            None => Work::Letter(letter.clone()),
        })
    }

    /// Lets the projection apply batches until one of the limits is reached: at least one.
    async fn apply(
        &self,
        tx: &Transaction<'_>,
        hand: &mut Hand,
        batches: &[EventBatch],
        limits: TransactionLimits,
    ) -> Result<Applied, BoxError> {
        let limit = self.plan.batch_timeout;
        let too_long = |_| ServerModelError::TookTooLong { limit };
        let begun = Instant::now();
        let mut applied = Applied {
            batches: 0,
            last_sequence: 0,
        };
        let mut events = 0;
        for batch in batches {
            events += batch.len();
            let is_over = events > limits.events_max || begun.elapsed() > limits.within;
            if is_over && applied.batches > 0 {
                break;
            }
            applied.last_sequence = batch.last_sequence();
            timeout(limit, hand.apply(tx, batch)).await.map_err(too_long)??;
            applied.batches += 1;
        }
        timeout(limit, hand.before_commit(tx)).await.map_err(too_long)??;
        Ok(applied)
    }

    /// Writes the position, and makes sure that the transaction is the one that was begun, and the owner the one that there is.
    async fn close(
        &self,
        tx: &Transaction<'_>,
        position: u64,
        work: &Work,
        applied: &Applied,
    ) -> Result<Closed, Stumble> {
        let through = match work {
            Work::Pass(through) => *through,
            _ => applied.last_sequence.max(position),
        };
        let (stored, now) = (through as i64, Timestamp::now().as_micros());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.build, &stored, &now];
        let closing = tx.execute(&self.statements.close, &parameters);
        let closed = self
            .plan
            .desk
            .answer(WRITE, closing)
            .await
            .map_err(Stumble::Storage)?;
        if closed.map_err(|error| self.not_closed(error))? == 0 {
            return Err(Stumble::Projection(Box::new(ServerModelError::EndedTransaction)));
        }
        if let Work::Letter(letter) = work {
            let first = letter.first_sequence() as i64;
            let parameters: [&(dyn ToSql + Sync); 2] = [&self.build, &first];
            let noted = tx.execute(&self.statements.note_applied, &parameters);
            self.plan.answer(noted).await?;
        }
        if let Some(epoch) = self.epoch {
            self.check_owner(tx, epoch).await?;
        }
        match self.plan.faults.hit(FaultPoint::BeforeModel) {
            true => {
                let injected = std::io::Error::other("a fault was injected");
                let error = StorageError::new(WRITE, injected);
                Err(Stumble::Storage(error.busy()))
            }
            false => Ok(Closed {
                position: through,
                last_sequence: applied.last_sequence,
                is_all: match work {
                    Work::Next(new) => applied.batches == new.len(),
                    _ => true,
                },
            }),
        }
    }

    /// Keeps everybody from taking the stream over until the commit, and refuses who lost it before.
    async fn check_owner(&self, tx: &Transaction<'_>, epoch: u64) -> Result<(), Stumble> {
        let (stream, epoch) = (&*self.plan.stream, epoch as i64);
        let parameters: [&(dyn ToSql + Sync); 2] = [&stream, &epoch];
        // Whoever moves that row waits from then on, and the appends beside it: not for long, should this process stop before the commit.
        let bound = tx.batch_execute("SET LOCAL idle_in_transaction_session_timeout = '2s'");
        let owner = tx.query_opt(&self.statements.fence, &parameters);
        let (_, owner) = self.plan.answer(future::try_join(bound, owner)).await?;
        match owner {
            Some(_) => Ok(()),
            None => Err(Stumble::Model(self.plan.lost())),
        }
    }

    /// Why the end of the transaction could not be written.
    fn not_closed(&self, error: Error) -> Stumble {
        let what = match error.code() {
            Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => ServerModelError::BrokenTransaction,
            // It is not in a transaction any more.
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => ServerModelError::EndedTransaction,
            _ => return self.plan.storage(error),
        };
        Stumble::Projection(Box::new(what))
    }

    /// Ends a transaction that is not to be kept. That the projection was the cause is believed only when the connection is there still.
    async fn roll_back(&self, tx: Transaction<'_>, stumble: Stumble) -> Stumble {
        match (self.plan.answer(tx.rollback()).await, stumble) {
            (Ok(()), stumble) => stumble,
            (Err(_), Stumble::Projection(error)) if is_too_late(&*error) => Stumble::Projection(error),
            (Err(lost), Stumble::Projection(_)) => lost,
            (Err(_), stumble) => stumble,
        }
    }

    /// A constraint of the model's tables may have been put off until the commit.
    fn refused_commit(&self, error: Error) -> Stumble {
        match error.as_db_error().is_some() && !ServerDesk::is_lost(&error) {
            true => Stumble::Projection(Box::new(error)),
            false => self.plan.storage(error),
        }
    }
}

/// What the projection says is what the server told it, when it wanted to commit.
fn as_ended(error: BoxError) -> BoxError {
    let is_told = |cause: &(dyn std::error::Error + 'static)| {
        let code = cause.downcast_ref::<Error>().and_then(Error::code);
        code.is_some_and(|code| code.code() == IS_UNDER_WAY)
    };
    let has_ended = causes(&*error).any(is_told);
    match has_ended {
        true => Box::new(ServerModelError::EndedTransaction),
        false => error,
    }
}

/// A call that was dropped may have left a statement behind that the server is still at.
fn is_too_late(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ServerModelError::TookTooLong { .. }))
}

/// What of a batch is behind the position.
fn new_part(batch: &EventBatch, position: u64) -> Option<EventBatch> {
    match batch.first_sequence() > position {
        true => Some(batch.clone()),
        false => batch.rest(position),
    }
}

//! Steering: what the person on duty may do with a durable stream, decided on its row and inside a transaction.
//!
//! A word from outside changes the row under a number of its own. When it moves the cursor, the row gets a new epoch with it,
//! so that nothing of the earlier run can be written any more (D6); who runs the stream reads the row and goes on under
//! the new epoch. Where nobody runs it, the row is all there is.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Timestamp;
use crate::error::{Instance, ReadError, SteerError, StorageError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::cursor::{Pause, PauseKind, RollCall, StoredCursor};
use crate::log::letter::{Attempt, DeadLetter, DeadLetterState};
use crate::log::owner::InstanceId;
use crate::log::page::{PageBounds, Range};
use crate::log::retry_request::{self, NewRequest};
use crate::log::{LogWriter, Tail};

/// Where [`reset`](crate::StreamControl::reset) moves a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Before the first event of the log, or of what pruning left of it.
    Beginning,
    /// To the head: what is committed later is delivered.
    Now,
    /// To this sequence: what comes strictly after it is delivered.
    To(u64),
    /// Before the first event that was recorded at this time or later.
    At(SystemTime),
}

/// Where a stream has to stand for its cursor to be moved. A plain number is the stored cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedCursor(Option<u64>);

impl ExpectedCursor {
    /// The stored cursor is this sequence, and no other.
    pub fn at(sequence: u64) -> Self {
        Self(Some(sequence))
    }

    /// Wherever it stands.
    pub fn anywhere() -> Self {
        Self(None)
    }
}

impl From<u64> for ExpectedCursor {
    fn from(sequence: u64) -> Self {
        Self::at(sequence)
    }
}

/// What [`skip_batch`](crate::StreamControl::skip_batch) passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The first of the batch's events that the query selects after the cursor.
    pub first_sequence: u64,
    /// The last sequence of the batch: where the cursor stands now.
    pub last_sequence: u64,
}

/// A word from outside, as it travels to the committer.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) name: Arc<str>,
    pub(crate) command: Command,
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Pause { by: Arc<str> },
    Resume,
    Reset { to: Reset, expected: ExpectedCursor },
    SkipBatch { expected: u64, by: Arc<str> },
    AskForRetry(NewRequest),
    WithdrawRetry { number: u64 },
    Rename { to: Arc<str> },
    Delete,
}

/// What an order came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Obeyed {
    /// Where the cursor stands now.
    pub(crate) cursor: u64,
    pub(crate) skipped: Option<Skipped>,
    /// The request to retry letters that was made, or withdrawn.
    pub(crate) request: Option<u64>,
}

/// What whoever runs a stream is told after the commit.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) name: Arc<str>,
    /// Its number. An older word says nothing any more.
    pub(crate) number: u64,
    pub(crate) stands: Stands,
}

/// What became of a stream's row.
#[derive(Clone, Debug)]
pub(crate) enum Stands {
    At(StoredCursor),
    Renamed { to: Arc<str> },
    Gone,
}

/// What the committer lets the streams know.
pub(crate) enum Heard {
    /// These streams were steered through this store.
    Words(Vec<Word>),
    /// Some stream was steered elsewhere: this is how all of them stand.
    All(RollCall),
    /// This store stands by for these streams, and nobody runs them, or they were given to it.
    Vacant(Vec<Arc<str>>),
    /// These streams, which this store runs, are to be given to others.
    Gifts(Vec<(Arc<str>, InstanceId)>),
    /// Who runs these streams, for which somebody stands by.
    Owners(Vec<(Arc<str>, Instance)>),
}

/// Carries an order out inside the transaction. There is no word when nothing changed.
pub(crate) fn obey<W: LogWriter>(
    writer: &mut W,
    order: &Order,
    tail: &Tail,
    log_id: &str,
) -> Result<(Obeyed, Option<Word>), SteerError> {
    let stored = writer.cursor(&order.name)?;
    let stored = stored.ok_or_else(|| SteerError::NoSuchStream {
        name: order.name.to_string(),
        nearest: None,
    })?;
    if let (
        Some(by),
        Command::Pause { .. } | Command::Resume | Command::Reset { .. } | Command::SkipBatch { .. },
    ) = (stored.successor(), &order.command)
    {
        return Err(SteerError::TakenOver {
            name: order.name.to_string(),
            by: by.to_string(),
        });
    }
    let mut obeyed = Obeyed {
        cursor: stored.position,
        skipped: None,
        request: None,
    };
    let changed = match &order.command {
        Command::Pause { .. } if stored.paused.is_some() => None,
        Command::Resume if stored.paused.is_none() => None,
        Command::Pause { by } => {
            let since = Timestamp::now();
            let by = Arc::clone(by);
            let kind = PauseKind::ByHand;
            let paused = Some(Pause { by, since, kind });
            Some(put(writer, order, with_pause(&stored, paused))?)
        }
        Command::Resume => Some(put(writer, order, with_pause(&stored, None))?),
        Command::Reset { to, expected } => {
            expected.check(order, stored.position)?;
            let position = target(writer, order, *to, tail)?;
            discard_after(writer, order, position)?;
            Some(put(writer, order, moved(&stored, position, log_id))?)
        }
        Command::SkipBatch { expected, by } => {
            ExpectedCursor::at(*expected).check(order, stored.position)?;
            let skipped = skip(writer, order, &stored, by)?;
            obeyed.skipped = Some(skipped);
            Some(put(writer, order, moved(&stored, skipped.last_sequence, log_id))?)
        }
        Command::AskForRetry(asked) => {
            let row = retry_request::ask(writer, &order.name, &stored, asked)?;
            writer.put_cursor(&order.name, &row)?;
            obeyed.request = row.retry.as_ref().map(|request| request.number);
            Some(word(order, row.steering, Stands::At(row)))
        }
        Command::WithdrawRetry { number } => {
            if let Some(row) = retry_request::withdraw(&stored, *number) {
                writer.put_cursor(&order.name, &row)?;
                obeyed.request = Some(*number);
            }
            None
        }
        Command::Rename { to } => Some(rename(writer, order, &stored, to)?),
        Command::Delete => {
            writer.remove_cursor(&order.name)?;
            Some(word(order, writer.next_epoch()?, Stands::Gone))
        }
    };
    if let Some(Stands::At(row)) = changed.as_ref().map(|word| &word.stands) {
        obeyed.cursor = row.position;
    }
    Ok((obeyed, changed))
}

/// The dead letters after a position that a stream is moved back to are gone: their events come again.
fn discard_after<W: LogWriter>(writer: &mut W, order: &Order, position: u64) -> Result<(), StorageError> {
    let discarded = writer.remove_letters_after(&order.name, position)?;
    if discarded > 0 {
        tracing::warn!(stream = %order.name, position, discarded, "a stream was reset, its dead letters from there on are gone");
    }
    Ok(())
}

impl ExpectedCursor {
    fn check(self, order: &Order, found: u64) -> Result<(), SteerError> {
        match self.0 {
            Some(expected) if expected != found => Err(SteerError::CursorMoved {
                name: order.name.to_string(),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }
}

/// How a row is changed: in what it says, or also in where the stream stands, which needs a new epoch.
struct Change {
    row: StoredCursor,
    epoch: Epoch,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Epoch {
    Stays,
    IsRaised,
}

fn with_pause(stored: &StoredCursor, paused: Option<Pause>) -> Change {
    Change {
        row: StoredCursor {
            paused,
            ..stored.clone()
        },
        epoch: Epoch::Stays,
    }
}

/// The position counts for this log from now on, whatever log the cursor came from.
fn moved(stored: &StoredCursor, position: u64, log_id: &str) -> Change {
    Change {
        row: StoredCursor {
            position,
            log_id: log_id.to_owned(),
            // What is noted of an attempt is about a position.
            attempt: match stored.attempt.count {
                0 => Attempt::ENDED,
                _ => Attempt::RUNNING,
            },
            ..stored.clone()
        },
        epoch: Epoch::IsRaised,
    }
}

fn put<W: LogWriter>(writer: &mut W, order: &Order, change: Change) -> Result<Word, StorageError> {
    let number = writer.next_epoch()?;
    let mut row = change.row;
    row.steering = number;
    if change.epoch == Epoch::IsRaised {
        row.epoch = number;
    }
    writer.put_cursor(&order.name, &row)?;
    Ok(word(order, number, Stands::At(row)))
}

fn rename<W: LogWriter>(
    writer: &mut W,
    order: &Order,
    stored: &StoredCursor,
    to: &Arc<str>,
) -> Result<Word, SteerError> {
    if writer.cursor(to)?.is_some() {
        return Err(SteerError::NameTaken {
            name: order.name.to_string(),
            to: to.to_string(),
        });
    }
    writer.rename_cursor(&order.name, to)?;
    let number = writer.next_epoch()?;
    let row = StoredCursor {
        epoch: number,
        steering: number,
        ..stored.clone()
    };
    writer.put_cursor(to, &row)?;
    Ok(word(order, number, Stands::Renamed { to: Arc::clone(to) }))
}

fn word(order: &Order, number: u64, stands: Stands) -> Word {
    Word {
        name: Arc::clone(&order.name),
        number,
        stands,
    }
}

/// Where a reset moves the cursor.
fn target<W: LogWriter>(writer: &mut W, order: &Order, to: Reset, tail: &Tail) -> Result<u64, SteerError> {
    let Tail {
        head, pruned_through, ..
    } = *tail;
    let name = || order.name.to_string();
    let position = match to {
        Reset::Beginning => 0,
        Reset::Now => head,
        Reset::To(position) if position > head => {
            return Err(SteerError::Ahead {
                name: name(),
                position,
                head,
            });
        }
        Reset::To(position) if position < pruned_through => {
            return Err(SteerError::Pruned {
                name: name(),
                position,
                pruned_through,
            });
        }
        Reset::To(position) => position,
        Reset::At(time) => writer.position_at(time.into())?,
    };
    Ok(position.max(pruned_through))
}

/// Leaves out the committed batch that the stream is given next. A letter records which events that were, and by whom.
fn skip<W: LogWriter>(
    writer: &mut W,
    order: &Order,
    stored: &StoredCursor,
    by: &str,
) -> Result<Skipped, SteerError> {
    let query = EventQuery::from_canonical_text(&stored.query)
        .map_err(|error| StorageError::new("read the query of a stream", error))?;
    let nothing = || SteerError::NothingToSkip {
        name: order.name.to_string(),
        position: stored.position,
    };
    let found = writer.first_match(&query, stored.position);
    let first_sequence = found.map_err(storage)?.ok_or_else(nothing)?;
    // What was appended in the same transaction was given to nobody yet.
    let batch = writer.batch_at(first_sequence)?;
    let batch = batch.filter(|batch| batch.through >= first_sequence);
    let range = Range {
        after: first_sequence - 1,
        ..batch.ok_or_else(nothing)?
    };
    let page = writer.page(range, ONE_BATCH).map_err(storage)?;
    let batch = page.batches.into_iter().next();
    let selected = batch.and_then(|batch| EventBatch::select(batch, &query, range.after));
    let sequences: Vec<u64> = selected.iter().flatten().map(EventRecord::sequence).collect();
    let letter = DeadLetter {
        cause: Some(format!("skipped by {by}")),
        ..DeadLetter::set_aside(&sequences, DeadLetterState::Skipped, Timestamp::now().into())
            .ok_or_else(nothing)?
    };
    writer.put_letter(&order.name, &letter)?;
    Ok(Skipped {
        first_sequence,
        last_sequence: range.through,
    })
}

/// A batch, however large it is.
const ONE_BATCH: PageBounds = PageBounds {
    batches_max: 1,
    bytes_max: usize::MAX,
};

fn storage(error: ReadError) -> StorageError {
    match error {
        ReadError::Storage(error) => error,
        error => StorageError::new("find the batch to skip", error),
    }
}

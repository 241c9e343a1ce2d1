//! Logs that break one promise each, to show that the conformance suite notices.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::log::cursor::{CursorWrite, NamedCursor, RollCall, StoredCursor};
use crate::log::letter::{AttemptWrite, DeadLetter, LetterCounts, LetterRange, LetterReader, LetterWriter};
use crate::log::once::{KeyWriter, StoredKey};
use crate::log::owner::{Claim, ClaimWriter, InstanceId, Sign};
use crate::log::page::{Page, PageBounds, Range};
use crate::log::prune::HeldBy;
use crate::log::statistics::LogStatistics;
use crate::log::{Extent, LogReader, LogWriter, Pace, Sync, Tail};

/// What a broken log does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Every third batch of a page is missing.
    Loses,
    /// Every batch of a page is followed by itself, under the sequences that come next.
    Doubles,
    /// The batches of a page come last first.
    Reorders,
    /// Commits become visible with the next commit, after they were published.
    PublishesEarly,
    /// Conditions of appends always hold.
    IgnoresConditions,
    /// Cursors are not stored.
    ForgetsCursors,
    /// Dead letters are not stored, and the cursor passes what they stand for.
    LosesLetters,
    /// Idempotency keys are never found again.
    ForgetsKeys,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Loses,
        Self::Doubles,
        Self::Reorders,
        Self::PublishesEarly,
        Self::IgnoresConditions,
        Self::ForgetsCursors,
        Self::LosesLetters,
        Self::ForgetsKeys,
    ];

    /// The number of the promise that is not kept on such a log, so that a proof of it has to fail.
    pub fn promise(self) -> &'static str {
        match self {
            Self::Loses | Self::Doubles => "S3",
            Self::Reorders => "S2",
            Self::PublishesEarly => "L2",
            Self::IgnoresConditions => "L3",
            Self::ForgetsCursors => "D1",
            Self::LosesLetters => "D5",
            Self::ForgetsKeys => "L6",
        }
    }
}

/// Lets a sound log break a promise.
pub(crate) fn wrap<W, R>(writer: W, reader: R, sabotage: Sabotage) -> (BrokenWriter<W>, BrokenReader<R>) {
    let writer = BrokenWriter {
        inner: writer,
        sabotage,
        withheld: Vec::new(),
        staged: Vec::new(),
    };
    let reader = BrokenReader {
        inner: reader,
        sabotage,
    };
    (writer, reader)
}

pub(crate) struct BrokenWriter<W> {
    inner: W,
    sabotage: Sabotage,
    staged: Vec<Arc<CommittedBatch>>,
    withheld: Vec<Arc<CommittedBatch>>,
}

impl<W: LogWriter> LogWriter for BrokenWriter<W> {
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError> {
        self.inner.begin(sync)
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        self.inner.tail()
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        if self.sabotage == Sabotage::PublishesEarly {
            self.staged.push(Arc::clone(batch));
            return Ok(());
        }
        self.inner.append(batch)
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        if self.sabotage == Sabotage::IgnoresConditions {
            return Ok(None);
        }
        self.inner.first_match(query, after)
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        if self.sabotage == Sabotage::IgnoresConditions {
            return Ok(true);
        }
        self.inner.matches_at(query, sequence)
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        self.inner.position_at(time)
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.inner.cursor(name)
    }

    fn newest_epoch(&mut self) -> Result<u64, StorageError> {
        self.inner.newest_epoch()
    }

    fn next_epoch(&mut self) -> Result<u64, StorageError> {
        self.inner.next_epoch()
    }

    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        self.inner.rename_cursor(name, to)
    }

    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError> {
        self.inner.remove_cursor(name)
    }

    fn roll_call(&mut self) -> Result<RollCall, StorageError> {
        self.inner.roll_call()
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        self.inner.put_cursor(name, cursor)
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        if self.sabotage == Sabotage::ForgetsCursors {
            return Ok(true);
        }
        self.inner.move_cursor(write)
    }

    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError> {
        self.inner.slowest_cursor(log_id)
    }

    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError> {
        self.inner.oldest_batch()
    }

    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError> {
        self.inner.batch_at(sequence)
    }

    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError> {
        self.inner.remove_through(through)
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        let now_visible = std::mem::replace(&mut self.withheld, std::mem::take(&mut self.staged));
        for batch in now_visible {
            self.inner.append(&batch)?;
        }
        self.inner.commit()
    }

    fn rollback(&mut self) {
        self.staged.clear();
        self.inner.rollback();
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        self.inner.page(range, bounds)
    }

    fn has_chore(&mut self, pace: Pace) -> bool {
        self.inner.has_chore(pace)
    }

    fn do_chore(&mut self) -> Result<(), StorageError> {
        self.inner.do_chore()
    }

    fn tidy(&mut self) {
        self.inner.tidy();
    }

    fn tidy_at(&self) -> Option<Instant> {
        self.inner.tidy_at()
    }

    fn data_version(&mut self) -> Result<i64, StorageError> {
        self.inner.data_version()
    }

    fn call_on_news(&mut self, call: Arc<dyn Fn() + Send + std::marker::Sync>) {
        self.inner.call_on_news(call);
    }
}

impl<W: LogWriter> KeyWriter for BrokenWriter<W> {
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError> {
        if self.sabotage == Sabotage::ForgetsKeys {
            return Ok(None);
        }
        self.inner.idempotency_key(key)
    }

    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError> {
        self.inner.put_idempotency_key(key, stored)
    }
}

impl<W: LogWriter> ClaimWriter for BrokenWriter<W> {
    fn enter(&mut self) -> Result<InstanceId, StorageError> {
        self.inner.enter()
    }

    fn beat(&mut self) -> Result<(), StorageError> {
        self.inner.beat()
    }

    fn sign(&mut self, instance: &str) -> Result<Sign, StorageError> {
        self.inner.sign(instance)
    }

    fn leave(&mut self) {
        self.inner.leave();
    }

    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError> {
        self.inner.claims_of(stream)
    }

    fn contested(&mut self) -> Result<Vec<Claim>, StorageError> {
        self.inner.contested()
    }

    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError> {
        self.inner.put_claim(claim)
    }

    fn remove_claim(&mut self, stream: &str, instance: &str) -> Result<bool, StorageError> {
        self.inner.remove_claim(stream, instance)
    }

    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError> {
        self.inner.remove_claims(stream)
    }

    fn may_come_back(&self) -> bool {
        self.inner.may_come_back()
    }

    fn strike(&mut self, instance: &str) -> Result<bool, StorageError> {
        self.inner.strike(instance)
    }
}

impl<W: LogWriter> LetterWriter for BrokenWriter<W> {
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError> {
        self.inner.letter(name, first_sequence)
    }

    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError> {
        if self.sabotage == Sabotage::LosesLetters {
            return Ok(());
        }
        self.inner.put_letter(name, letter)
    }

    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError> {
        self.inner.remove_letter(name, first_sequence)
    }

    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        self.inner.give_letters(name, to)
    }

    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError> {
        self.inner.remove_letters_after(name, position)
    }

    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError> {
        self.inner.has_key(name, key)
    }

    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError> {
        self.inner.letter_counts(name)
    }

    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError> {
        self.inner.oldest_letter()
    }

    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError> {
        if self.sabotage == Sabotage::ForgetsCursors {
            return Ok(true);
        }
        self.inner.put_attempt(write)
    }
}

pub(crate) struct BrokenReader<R> {
    inner: R,
    sabotage: Sabotage,
}

impl<R: LogReader> LogReader for BrokenReader<R> {
    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let mut page = self.inner.page(query, range, bounds)?;
        match self.sabotage {
            Sabotage::Loses => {
                page.batches.retain(|batch| batch.first_sequence % 3 != 0);
            }
            Sabotage::Doubles => {
                page.batches = page
                    .batches
                    .iter()
                    .flat_map(|batch| [Arc::clone(batch), again(batch)])
                    .collect();
                page.through = page
                    .batches
                    .last()
                    .map_or(page.through, |batch| batch.last_sequence.max(page.through));
            }
            Sabotage::Reorders => page.batches.reverse(),
            Sabotage::PublishesEarly
            | Sabotage::IgnoresConditions
            | Sabotage::ForgetsCursors
            | Sabotage::LosesLetters
            | Sabotage::ForgetsKeys => {}
        }
        Ok(page)
    }

    fn head(&self) -> Result<u64, StorageError> {
        self.inner.head()
    }

    fn extent(&self) -> Result<Extent, StorageError> {
        self.inner.extent()
    }

    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError> {
        self.inner.position_at(time)
    }

    fn statistics(&self) -> Result<LogStatistics, StorageError> {
        self.inner.statistics()
    }

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        self.inner.cursors()
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.inner.cursor(name)
    }

    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError> {
        self.inner.claims(of)
    }

    fn log_id(&self) -> &str {
        self.inner.log_id()
    }

    fn release(&self) {
        self.inner.release();
    }

    fn is_blocking(&self) -> bool {
        self.inner.is_blocking()
    }
}

impl<R: LogReader> LetterReader for BrokenReader<R> {
    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError> {
        self.inner.letters(range)
    }

    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError> {
        self.inner.first_of_key(name, key)
    }

    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError> {
        self.inner.counts(name)
    }

    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError> {
        self.inner.keys(name)
    }
}

/// The batch once more, as if it had been appended twice.
fn again(batch: &CommittedBatch) -> Arc<CommittedBatch> {
    Arc::new(CommittedBatch::stamp(
        batch.events.clone(),
        batch.last_sequence + 1,
        batch.recorded_at,
    ))
}

//! A log that lives in memory and ends with the process: for tests, and for programs that need no history.

mod claim;
#[cfg(feature = "sqlite")]
mod copy;
mod letter;
mod once;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::query::EventQuery;
#[cfg(feature = "sqlite")]
use crate::log::copy::CopySource;
use crate::log::cursor::{CursorWrite, NamedCursor, RollCall, StoredCursor};
use crate::log::letter::LetterWriter;
use crate::log::memory::letter::Letters;
use crate::log::memory::once::Keys;
use crate::log::owner::{Claim, ClaimWriter};
use crate::log::page::{More, Page, PageBounds, PageBuilder, Range};
use crate::log::prune::{HeldBy, furthest_behind};
use crate::log::statistics::LogStatistics;
use crate::log::{Extent, LogReader, LogWriter, Sync, Tail};
use crate::sync::Mutex;

/// Makes an empty log and gives its two halves.
pub(crate) fn open() -> (MemoryWriter, MemoryReader) {
    let shared = Arc::new(Mutex::new(Contents::default()));
    let writer = MemoryWriter {
        shared: Arc::clone(&shared),
        staged: Contents::default(),
    };
    let reader = MemoryReader {
        shared,
        log_id: log_id(),
    };
    (writer, reader)
}

/// A random id, as a log in a file has one: a log in memory may become a file.
fn log_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[derive(Default)]
struct Contents {
    batches: VecDeque<Arc<CommittedBatch>>,
    /// In what is staged: all letters, once the transaction has changed one.
    letters: Option<Letters>,
    /// In `staged`, those that the transaction used first.
    keys: Keys,
    /// In `staged`, those that the transaction changed: nothing stands for one that it removed.
    cursors: HashMap<String, Option<StoredCursor>>,
    /// Who runs the streams, of which there is one at the most: nobody else has a log in memory open. In `staged` as the cursors.
    claims: HashMap<Arc<str>, Option<Claim>>,
    /// The newest number that was given; in `staged` 0, if none was.
    epoch: u64,
    /// Everything up to here was pruned, and the newest of it was recorded at this time.
    pruned: Option<(u64, Timestamp)>,
}

impl Contents {
    fn tail(&self) -> Tail {
        let pruned = self.pruned.unwrap_or((0, Timestamp::EPOCH));
        let newest = self.batches.back();
        let (head, recorded_at) = newest.map_or(pruned, |batch| (batch.last_sequence, batch.recorded_at));
        Tail {
            head,
            recorded_at,
            pruned_through: pruned.0,
        }
    }

    fn extent(&self) -> Extent {
        let Tail {
            head, pruned_through, ..
        } = self.tail();
        Extent { pruned_through, head }
    }

    fn pruned_through(&self) -> u64 {
        self.pruned.map_or(0, |(through, _)| through)
    }

    /// The batches that reach beyond `after`.
    fn beyond(&self, after: u64) -> impl Iterator<Item = &Arc<CommittedBatch>> {
        let index = self.batches.partition_point(|batch| batch.last_sequence <= after);
        self.batches.range(index..)
    }

    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Page {
        let mut page = PageBuilder::new(query, range, bounds);
        for batch in self.beyond(range.after) {
            if page.take(batch) == More::No {
                break;
            }
        }
        page.finish()
    }

    fn stored(&self, name: &str) -> Option<StoredCursor> {
        self.cursors.get(name).cloned().flatten()
    }

    fn all_cursors(&self) -> Vec<NamedCursor> {
        let rows = self.cursors.iter().filter_map(|(name, cursor)| {
            Some(NamedCursor {
                name: name.as_str().into(),
                cursor: cursor.clone()?,
            })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        rows
    }

    fn first_match(&self, query: &EventQuery, after: u64) -> Option<u64> {
        let batch = self
            .beyond(after)
            .find_map(|batch| EventBatch::select(Arc::clone(batch), query, after))?;
        batch.iter().map(|event| event.sequence()).next()
    }
}

/// The stretch of the log that a batch is.
fn range(batch: &CommittedBatch) -> Range {
    Range {
        after: batch.first_sequence - 1,
        through: batch.last_sequence,
    }
}

/// The last sequence before the first of these batches that was recorded at `time` or later.
fn position_at<'a>(batches: impl Iterator<Item = &'a Arc<CommittedBatch>>, time: Timestamp) -> u64 {
    let mut position = 0;
    for batch in batches {
        if batch.recorded_at >= time {
            return batch.first_sequence - 1;
        }
        position = batch.last_sequence;
    }
    position
}

/// The writing half. What the transaction changes stands in `staged` until the commit.
pub(crate) struct MemoryWriter {
    shared: Arc<Mutex<Contents>>,
    staged: Contents,
}

impl LogWriter for MemoryWriter {
    fn begin(&mut self, _: Sync) -> Result<Tail, StorageError> {
        self.tail()
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        Ok(self.shared.lock().tail())
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        self.staged.batches.push_back(Arc::clone(batch));
        Ok(())
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        let after = after.max(self.staged.pruned_through());
        let committed = self.shared.lock().first_match(query, after);
        Ok(committed.or_else(|| self.staged.first_match(query, after)))
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        let first = self.first_match(query, sequence - 1)?;
        Ok(first == Some(sequence))
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        let shared = self.shared.lock();
        let left = shared.beyond(self.staged.pruned_through());
        Ok(position_at(left.chain(&self.staged.batches), time))
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        match self.staged.cursors.get(name) {
            Some(staged) => Ok(staged.clone()),
            None => Ok(self.shared.lock().stored(name)),
        }
    }

    fn newest_epoch(&mut self) -> Result<u64, StorageError> {
        Ok(self.shared.lock().epoch.max(self.staged.epoch))
    }

    fn next_epoch(&mut self) -> Result<u64, StorageError> {
        self.staged.epoch = self.newest_epoch()? + 1;
        Ok(self.staged.epoch)
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        let cursor = StoredCursor {
            updated_at: Timestamp::now(),
            ..cursor.clone()
        };
        self.staged.cursors.insert(name.to_owned(), Some(cursor));
        Ok(())
    }

    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        let cursor = self.cursor(name)?;
        self.staged.cursors.insert(to.to_owned(), cursor);
        self.staged.cursors.insert(name.to_owned(), None);
        self.rename_letters(name, to);
        self.remove_claims(name)
    }

    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError> {
        self.staged.cursors.insert(name.to_owned(), None);
        self.remove_letters_after(name, 0)?;
        self.remove_claims(name)
    }

    fn roll_call(&mut self) -> Result<RollCall, StorageError> {
        let shared = self.shared.lock();
        Ok(RollCall {
            number: shared.epoch,
            rows: shared.all_cursors(),
        })
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        match self.cursor(write.name)? {
            Some(mut cursor) if cursor.epoch == write.epoch => {
                cursor.position = write.position;
                cursor.attempt = write.run.into();
                self.put_cursor(write.name, &cursor)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError> {
        let shared = self.shared.lock();
        let is_staged = |name: &String| self.staged.cursors.contains_key(name);
        let committed = shared.cursors.iter().filter(|(name, _)| !is_staged(name));
        let cursors = committed.chain(&self.staged.cursors);
        let stored = cursors.filter_map(|(name, cursor)| Some((name, cursor.as_ref()?)));
        let holders = stored.filter(|(_, cursor)| cursor.log_id == log_id && cursor.successor().is_none());
        let holders = holders.map(|(name, cursor)| HeldBy {
            stream: Some(name.clone()),
            position: cursor.position,
            dead_letter: None,
        });
        Ok(holders.fold(None, |slowest, holder| furthest_behind(slowest, Some(holder))))
    }

    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError> {
        let shared = self.shared.lock();
        let oldest = shared.beyond(self.staged.pruned_through()).next();
        Ok(oldest.map(|batch| range(batch)))
    }

    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError> {
        let shared = self.shared.lock();
        let behind = shared
            .batches
            .partition_point(|batch| batch.first_sequence <= sequence);
        let newest = behind.checked_sub(1).map(|index| range(&shared.batches[index]));
        Ok(newest.filter(|batch| batch.through > self.staged.pruned_through()))
    }

    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError> {
        let shared = self.shared.lock();
        let left = shared.beyond(self.staged.pruned_through());
        let (mut events, mut recorded_at) = (0, Timestamp::EPOCH);
        for batch in left.take_while(|batch| batch.last_sequence <= through) {
            events += batch.events.len() as u64;
            recorded_at = batch.recorded_at;
        }
        self.staged.pruned = Some((through, recorded_at));
        Ok(events)
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        let mut shared = self.shared.lock();
        if let Some(pruned) = self.staged.pruned.take() {
            let kept = shared
                .batches
                .partition_point(|batch| batch.last_sequence <= pruned.0);
            shared.batches.drain(..kept);
            shared.keys.remove_through(pruned.0);
            shared.pruned = Some(pruned);
        }
        shared.batches.append(&mut self.staged.batches);
        shared.keys.take(&mut self.staged.keys);
        for (name, cursor) in self.staged.cursors.drain() {
            match cursor {
                Some(cursor) => shared.cursors.insert(name, Some(cursor)),
                None => shared.cursors.remove(&name),
            };
        }
        for (stream, claim) in self.staged.claims.drain() {
            match claim {
                Some(claim) => shared.claims.insert(stream, Some(claim)),
                None => shared.claims.remove(&stream),
            };
        }
        shared.epoch = shared.epoch.max(std::mem::take(&mut self.staged.epoch));
        if let Some(letters) = self.staged.letters.take() {
            shared.letters = Some(letters);
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.staged = Contents::default();
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        Ok(self.shared.lock().page(&EventQuery::all(), range, bounds))
    }

    fn data_version(&mut self) -> Result<i64, StorageError> {
        Ok(0)
    }
}

/// The reading half.
pub(crate) struct MemoryReader {
    shared: Arc<Mutex<Contents>>,
    log_id: String,
}

impl LogReader for MemoryReader {
    #[cfg(feature = "sqlite")]
    fn copy_source(&self) -> Option<&dyn CopySource> {
        Some(self)
    }

    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let contents = self.shared.lock();
        match contents.pruned_through() {
            pruned_through if range.after < pruned_through => Err(ReadError::Pruned {
                after: range.after,
                pruned_through,
            }),
            _ => Ok(contents.page(query, range, bounds)),
        }
    }

    fn extent(&self) -> Result<Extent, StorageError> {
        Ok(self.shared.lock().extent())
    }

    fn head(&self) -> Result<u64, StorageError> {
        Ok(self.shared.lock().tail().head)
    }

    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError> {
        Ok(position_at(self.shared.lock().batches.iter(), time))
    }

    fn statistics(&self) -> Result<LogStatistics, StorageError> {
        let contents = self.shared.lock();
        let batches = contents.batches.iter();
        let mut statistics = LogStatistics::of(contents.extent());
        let (mut types, mut days) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
        for batch in batches {
            statistics.bytes += batch.weight_bytes() as u64;
            *days.entry(batch.recorded_at.day()).or_default() += batch.events.len() as u64;
            for event in &batch.events {
                *types.entry(&**event.stored_type()).or_default() += 1;
            }
        }
        let times = |batch: &Arc<CommittedBatch>| batch.recorded_at.into();
        statistics.idempotency_keys = contents.keys.len() as u64;
        statistics.first_recorded_at = contents.batches.front().map(times);
        statistics.last_recorded_at = contents.batches.back().map(times);
        statistics.take_types(types);
        statistics.take_days(days);
        Ok(statistics)
    }

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        Ok(self.shared.lock().all_cursors())
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        Ok(self.shared.lock().stored(name))
    }

    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError> {
        let contents = self.shared.lock();
        let all = contents.claims.values().flatten();
        let mut claims: Vec<_> = match of {
            Some(stream) => contents
                .claims
                .get(stream)
                .cloned()
                .flatten()
                .into_iter()
                .collect(),
            None => all.cloned().collect(),
        };
        claims.sort_unstable_by(|one, other| one.stream.cmp(&other.stream));
        Ok(claims)
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn release(&self) {}

    fn is_blocking(&self) -> bool {
        false
    }
}

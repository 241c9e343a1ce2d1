//! The half that writes: what the contract asks for, as changes of a transaction.

use std::sync::Arc;

use millstream::contract::{
    AttemptWrite, Claim, ClaimWriter, CommitSync, CommittedBatch, CursorWrite, Decoder, InstanceId,
    KeyWriter, LetterCounts, LetterWriter, LogWriter, NamedCursor, Page, PageBounds, Range, RollCall, Sign,
    StoredCursor, StoredKey, Tail, Timestamp,
};
use millstream::{DeadLetter, DeadLetterState, EventQuery, HeldBy, ReadError, StorageError};

use crate::file::{JsonLines, Transaction};
use crate::reader;
use crate::state::{Batch, Change, State};

pub(crate) struct Writer {
    log: Arc<JsonLines>,
    decoder: Decoder,
    transaction: Option<Transaction>,
    instance: Option<InstanceId>,
    /// How many of the commits are its own.
    own_commits: i64,
}

impl Writer {
    pub(crate) fn new(log: Arc<JsonLines>, decoder: Decoder) -> Self {
        Self {
            log,
            decoder,
            transaction: None,
            instance: None,
            own_commits: 0,
        }
    }

    /// As the transaction shows it, or the newest commit when there is none.
    fn state(&self) -> Arc<State> {
        match &self.transaction {
            Some(transaction) => Arc::clone(&transaction.state),
            None => self.log.state(),
        }
    }

    fn make(&mut self, change: Change) -> Result<(), StorageError> {
        let transaction = self.transaction.as_mut().expect("called inside a transaction");
        transaction.make(change);
        Ok(())
    }

    fn put_if_owner(&mut self, name: &str, row: Option<StoredCursor>) -> Result<bool, StorageError> {
        match row {
            Some(row) => self.put_cursor(name, &row).map(|()| true),
            None => Ok(false),
        }
    }
}

/// The store is gone: what it had not committed is not to be, and it lives no more.
impl Drop for Writer {
    fn drop(&mut self) {
        self.rollback();
        self.leave();
    }
}

impl LogWriter for Writer {
    fn begin(&mut self, _: CommitSync) -> Result<Tail, StorageError> {
        let transaction = self.log.begin();
        let tail = transaction.state.tail();
        self.transaction = Some(transaction);
        Ok(tail)
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        Ok(self.state().tail())
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        self.make(Change::Append(Batch::of(batch)))
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        for batch in self.state().beyond(after) {
            let batch = batch.decode(&self.decoder)?;
            if let Some(first) = batch.first_selected(query, after)? {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        let state = self.state();
        let Some(batch) = state.beyond(sequence - 1).first() else {
            return Ok(false);
        };
        let first = batch.decode(&self.decoder)?.first_selected(query, sequence - 1)?;
        Ok(first == Some(sequence))
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        Ok(self.state().position_at(time))
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        reader::cursor(&self.state(), name)
    }

    fn newest_epoch(&mut self) -> Result<u64, StorageError> {
        Ok(self.state().epoch)
    }

    fn next_epoch(&mut self) -> Result<u64, StorageError> {
        let epoch = self.state().epoch + 1;
        self.make(Change::GiveEpoch(epoch))?;
        Ok(epoch)
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        self.make(Change::PutCursor {
            name: name.to_owned(),
            row: cursor.written().to_text(),
        })
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        let row = self.cursor(write.name)?;
        self.put_if_owner(write.name, row.and_then(|row| row.moved(write)))
    }

    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        let (name, to) = (name.to_owned(), to.to_owned());
        self.make(Change::RenameCursor { name, to })
    }

    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError> {
        self.make(Change::RemoveCursor {
            name: name.to_owned(),
        })
    }

    fn roll_call(&mut self) -> Result<RollCall, StorageError> {
        let state = self.state();
        Ok(RollCall {
            number: state.epoch,
            rows: reader::cursors(&state)?,
        })
    }

    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError> {
        let rows = reader::cursors(&self.state())?;
        let held = |row: &NamedCursor| row.cursor.holds(&row.name, log_id);
        Ok(rows.iter().filter_map(held).min_by_key(|held| held.position))
    }

    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError> {
        Ok(self.state().batches.first().map(|batch| batch.range()))
    }

    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError> {
        let state = self.state();
        let newest = state.batches.iter().rfind(|batch| batch.after < sequence);
        Ok(newest.map(|batch| batch.range()))
    }

    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError> {
        let state = self.state();
        let removed = state.batches.iter().take_while(|batch| batch.through <= through);
        let events = removed.map(|batch| batch.events.len() as u64).sum();
        self.make(Change::RemoveThrough { through })?;
        Ok(events)
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        let transaction = self.transaction.take().expect("called inside a transaction");
        self.own_commits += self.log.commit(transaction)?;
        Ok(())
    }

    fn rollback(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.log.roll_back(transaction);
        }
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        reader::page(&self.state(), &self.decoder, &EventQuery::all(), range, bounds)
    }

    fn data_version(&mut self) -> Result<i64, StorageError> {
        Ok(self.log.commits() - self.own_commits)
    }
}

impl LetterWriter for Writer {
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError> {
        let key = (name.to_owned(), first_sequence);
        let state = self.state();
        let text = state.letters.get(&key);
        text.map(|text| DeadLetter::from_text(text)).transpose()
    }

    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError> {
        self.make(Change::PutLetter {
            name: name.to_owned(),
            first_sequence: letter.first_sequence,
            row: letter.to_text(),
        })
    }

    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError> {
        let is_there = self.letter(name, first_sequence)?.is_some();
        let name = name.to_owned();
        self.make(Change::RemoveLetter { name, first_sequence })?;
        Ok(is_there)
    }

    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        let (name, to) = (name.to_owned(), to.to_owned());
        self.make(Change::GiveLetters { name, to })
    }

    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError> {
        let count = self.state().letters_of(name, position)?.len() as u64;
        let name = name.to_owned();
        self.make(Change::RemoveLettersAfter { name, position })?;
        Ok(count)
    }

    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError> {
        Ok(self.state().letter_keys(name)?.contains(key))
    }

    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError> {
        Ok(LetterCounts::of(&self.state().letters_of(name, 0)?))
    }

    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError> {
        let mut oldest: Option<(String, u64)> = None;
        for ((name, first), text) in &self.state().letters {
            let is_older = oldest.as_ref().is_none_or(|(_, oldest)| first < oldest);
            if is_older && DeadLetter::from_text(text)?.state != DeadLetterState::Skipped {
                oldest = Some((name.clone(), *first));
            }
        }
        Ok(oldest)
    }

    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError> {
        let row = self.cursor(write.name)?;
        self.put_if_owner(write.name, row.and_then(|row| row.attempted(write)))
    }
}

impl KeyWriter for Writer {
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError> {
        let state = self.state();
        let text = state.keys.get(key).map(|(_, text)| text);
        text.map(|text| StoredKey::from_text(text)).transpose()
    }

    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError> {
        self.make(Change::PutKey {
            key: key.to_owned(),
            last_sequence: stored.range().through,
            row: stored.to_text(),
        })
    }
}

impl ClaimWriter for Writer {
    fn enter(&mut self) -> Result<InstanceId, StorageError> {
        let log = &self.log;
        let instance = self.instance.get_or_insert_with(|| log.enter());
        Ok(Arc::clone(instance))
    }

    fn beat(&mut self) -> Result<(), StorageError> {
        if let Some(instance) = &self.instance {
            self.log.beat(instance);
        }
        Ok(())
    }

    fn sign(&mut self, instance: &str) -> Result<Sign, StorageError> {
        Ok(self.log.sign(instance))
    }

    fn leave(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.log.leave(&instance);
        }
    }

    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError> {
        let mut claims = reader::claims(&self.state())?;
        claims.retain(|claim| claim.stream() == stream);
        Ok(claims)
    }

    fn contested(&mut self) -> Result<Vec<Claim>, StorageError> {
        let claims = reader::claims(&self.state())?;
        let waiting = claims.iter().filter(|claim| claim.is_waiting());
        let streams: Vec<String> = waiting.map(|claim| claim.stream().to_owned()).collect();
        let is_contested = |claim: &Claim| streams.iter().any(|stream| stream == claim.stream());
        Ok(claims.into_iter().filter(is_contested).collect())
    }

    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError> {
        self.make(Change::PutClaim {
            stream: claim.stream().to_owned(),
            instance: claim.instance().to_owned(),
            row: claim.to_text(),
        })
    }

    fn remove_claim(&mut self, stream: &str, instance: &str) -> Result<bool, StorageError> {
        let key = (stream.to_owned(), instance.to_owned());
        let is_there = self.state().claims.contains_key(&key);
        let (stream, instance) = key;
        self.make(Change::RemoveClaim { stream, instance })?;
        Ok(is_there)
    }

    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError> {
        self.make(Change::RemoveClaims {
            stream: stream.to_owned(),
        })
    }

    fn strike(&mut self, instance: &str) -> Result<bool, StorageError> {
        let has_any = self.state().claims.keys().any(|(_, of)| of == instance);
        self.make(Change::Strike {
            instance: instance.to_owned(),
        })?;
        Ok(has_any)
    }
}

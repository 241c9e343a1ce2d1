//! What the log holds, and every change of it. A line of the file is the changes of one transaction, so reading the file makes them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream::contract::{CommittedBatch, Decoder, Range, StoredEvent, Tail, Timestamp};
use millstream::{DeadLetter, StorageError};
use serde::{Deserialize, Serialize};

/// A batch as it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) after: u64,
    pub(crate) through: u64,
    pub(crate) recorded_at: Timestamp,
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) event_type: String,
    pub(crate) schema_version: u32,
    pub(crate) tags: Vec<String>,
    pub(crate) payload: String,
    pub(crate) metadata: Option<String>,
}

/// One change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    Make {
        log_id: String,
    },
    Append(Batch),
    RemoveThrough {
        through: u64,
    },
    /// Done by hand alone.
    RemoveEventsAfter(u64),
    GiveEpoch(u64),
    PutCursor {
        name: String,
        row: String,
    },
    RenameCursor {
        name: String,
        to: String,
    },
    RemoveCursor {
        name: String,
    },
    PutLetter {
        name: String,
        first_sequence: u64,
        row: String,
    },
    RemoveLetter {
        name: String,
        first_sequence: u64,
    },
    GiveLetters {
        name: String,
        to: String,
    },
    RemoveLettersAfter {
        name: String,
        position: u64,
    },
    PutKey {
        key: String,
        last_sequence: u64,
        row: String,
    },
    PutClaim {
        stream: String,
        instance: String,
        row: String,
    },
    RemoveClaim {
        stream: String,
        instance: String,
    },
    RemoveClaims {
        stream: String,
    },
    Strike {
        instance: String,
    },
}

/// Rows are kept as the texts that the contract makes of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) log_id: String,
    pub(crate) batches: Vec<Arc<Batch>>,
    pub(crate) tail: Option<Tail>,
    pub(crate) epoch: u64,
    pub(crate) cursors: BTreeMap<String, String>,
    pub(crate) letters: BTreeMap<(String, u64), String>,
    /// With the last sequence of the batch, by which they leave.
    pub(crate) keys: BTreeMap<String, (u64, String)>,
    /// By stream and instance.
    pub(crate) claims: BTreeMap<(String, String), String>,
}

impl Batch {
    pub(crate) fn of(batch: &CommittedBatch) -> Self {
        let Range { after, through } = batch.range();
        let event = |event: StoredEvent<'_>| Event {
            sequence: event.sequence,
            event_type: event.event_type.to_owned(),
            schema_version: event.schema_version,
            tags: event.tags.into_iter().map(str::to_owned).collect(),
            payload: event.payload.to_owned(),
            metadata: event.metadata.map(str::to_owned),
        };
        Self {
            after,
            through,
            recorded_at: batch.recorded_at(),
            events: batch.stored_events().map(event).collect(),
        }
    }

    pub(crate) fn range(&self) -> Range {
        Range {
            after: self.after,
            through: self.through,
        }
    }

    pub(crate) fn decode(&self, decoder: &Decoder) -> Result<Arc<CommittedBatch>, StorageError> {
        let events = self.events.iter().map(|event| {
            let mut stored = StoredEvent::new(event.sequence, &event.event_type, &event.payload);
            stored.schema_version = event.schema_version;
            stored.tags = event.tags.iter().map(String::as_str).collect();
            stored.metadata = event.metadata.as_deref();
            stored
        });
        decoder.batch(self.range(), self.recorded_at, events)
    }
}

impl State {
    pub(crate) fn tail(&self) -> Tail {
        self.tail.unwrap_or(Tail {
            head: 0,
            recorded_at: Timestamp::EPOCH,
            pruned_through: 0,
        })
    }

    /// The batches that reach beyond `after`.
    pub(crate) fn beyond(&self, after: u64) -> &[Arc<Batch>] {
        &self.batches[self.batches.partition_point(|batch| batch.through <= after)..]
    }

    /// The last sequence before the first event that was recorded at `time` or later.
    pub(crate) fn position_at(&self, time: Timestamp) -> u64 {
        let later = self.batches.iter().find(|batch| batch.recorded_at >= time);
        let newest = || self.batches.last().map_or(0, |batch| batch.through);
        later.map_or_else(newest, |batch| batch.after)
    }

    /// The letters of a stream that begin after a sequence.
    pub(crate) fn letters_of(&self, name: &str, after: u64) -> Result<Vec<DeadLetter>, StorageError> {
        let range = (name.to_owned(), after.saturating_add(1))..=(name.to_owned(), u64::MAX);
        let texts = self.letters.range(range).map(|(_, text)| text);
        texts.map(|text| DeadLetter::from_text(text)).collect()
    }

    /// The keys of a stream's letters.
    pub(crate) fn letter_keys(&self, name: &str) -> Result<BTreeSet<String>, StorageError> {
        Ok(self
            .letters_of(name, 0)?
            .into_iter()
            .filter_map(|letter| letter.key)
            .collect())
    }

    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Make { log_id } => self.log_id = log_id,
            Change::Append(batch) => {
                self.tail = Some(Tail {
                    head: batch.through,
                    recorded_at: batch.recorded_at,
                    ..self.tail()
                });
                self.batches.push(Arc::new(batch));
            }
            Change::RemoveThrough { through } => {
                self.tail = Some(Tail {
                    pruned_through: through,
                    ..self.tail()
                });
                self.batches.retain(|batch| batch.through > through);
                self.keys.retain(|_, (last_sequence, _)| *last_sequence > through);
            }
            Change::RemoveEventsAfter(after) => self.batches.retain(|batch| batch.through <= after),
            Change::GiveEpoch(epoch) => self.epoch = epoch,
            change => self.apply_to_rows(change),
        }
    }

    fn apply_to_rows(&mut self, change: Change) {
        match change {
            Change::PutCursor { name, row } => {
                self.cursors.insert(name, row);
            }
            Change::RenameCursor { name, to } => {
                if let Some(row) = self.cursors.remove(&name) {
                    self.cursors.insert(to.clone(), row);
                }
                self.give_letters(&name, &to);
                self.claims.retain(|(stream, _), _| *stream != name);
            }
            Change::RemoveCursor { name } => {
                self.cursors.remove(&name);
                self.letters.retain(|(stream, _), _| *stream != name);
                self.claims.retain(|(stream, _), _| *stream != name);
            }
            Change::PutLetter {
                name,
                first_sequence,
                row,
            } => {
                self.letters.insert((name, first_sequence), row);
            }
            Change::RemoveLetter { name, first_sequence } => {
                self.letters.remove(&(name, first_sequence));
            }
            Change::GiveLetters { name, to } => self.give_letters(&name, &to),
            Change::RemoveLettersAfter { name, position } => {
                let is_kept = |stream: &str, first: u64| stream != name || first <= position;
                self.letters.retain(|(stream, first), _| is_kept(stream, *first));
            }
            Change::PutKey {
                key,
                last_sequence,
                row,
            } => {
                self.keys.insert(key, (last_sequence, row));
            }
            Change::PutClaim {
                stream,
                instance,
                row,
            } => {
                self.claims.insert((stream, instance), row);
            }
            Change::RemoveClaim { stream, instance } => {
                self.claims.remove(&(stream, instance));
            }
            Change::RemoveClaims { stream } => self.claims.retain(|(of, _), _| *of != stream),
            Change::Strike { instance } => self.claims.retain(|(_, of), _| *of != instance),
            Change::Make { .. }
            | Change::Append(_)
            | Change::RemoveThrough { .. }
            | Change::RemoveEventsAfter(_)
            | Change::GiveEpoch(_) => unreachable!("applied to the events"),
        }
    }

    fn give_letters(&mut self, name: &str, to: &str) {
        let (given, kept) = std::mem::take(&mut self.letters)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|((stream, _), _)| stream == name);
        self.letters = kept;
        let renamed = given
            .into_iter()
            .map(|((_, first), row)| ((to.to_owned(), first), row));
        self.letters.extend(renamed);
    }
}

//! Idempotency keys: an append that names one is made once, however often it is asked for.
//!
//! A key stands in the log with the batch that was appended under it and with the fingerprint of its events, written in the
//! transaction that appended them. It is looked up inside a transaction, before any condition is, so requests of one group and of
//! all processes see each other. It is remembered as long as its batch is in the log: pruning takes both. What is decided is
//! decided here, for every log alike.

use crate::error::{AppendError, StorageError};
use crate::event::fingerprint::Fingerprint;
#[cfg(feature = "sqlite")]
use crate::log::page::Range;
use crate::log::request::Appended;

/// What an append with an idempotency key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendedOnce {
    /// What the append that was made came to, now or when the key was used first.
    pub appended: Appended,
    /// Whether the key was used before: this call appended nothing.
    pub is_repetition: bool,
}

impl From<AppendedOnce> for Appended {
    fn from(once: AppendedOnce) -> Self {
        once.appended
    }
}

/// The key of an append that is queued, and what its events say.
pub(crate) struct Once {
    pub(crate) key: Box<str>,
    pub(crate) fingerprint: Fingerprint,
}

/// What is stored under a key: the batch that was appended, and what its events said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredKey {
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    pub(crate) fingerprint: Fingerprint,
}

/// A key with what is stored under it.
#[cfg(feature = "sqlite")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedKey {
    pub(crate) key: Box<str>,
    pub(crate) stored: StoredKey,
}

/// The half of a log's writer that knows idempotency keys. Called inside a transaction, and sees what that has written.
/// [`remove_through`](crate::log::LogWriter::remove_through) removes the keys of the batches that it removes.
pub trait KeyWriter {
    /// What is stored under a key.
    fn idempotency_key(&mut self, key: &str) -> Result<Option<StoredKey>, StorageError>;

    /// Stores a key that is not there yet, for a batch that the same transaction appends. A batch has one key at the most.
    fn put_idempotency_key(&mut self, key: &str, stored: &StoredKey) -> Result<(), StorageError>;
}

/// The half of a log's reader that knows idempotency keys.
#[cfg(feature = "sqlite")]
pub(crate) trait KeyReader {
    /// The keys of the batches that begin in a range, in the order of the log.
    fn idempotency_keys(&self, range: Range) -> Result<Vec<NamedKey>, StorageError>;
}

impl Once {
    /// What the caller is answered without an append, given what is stored under the key.
    pub(crate) fn answered_by(
        &self,
        stored: Option<&StoredKey>,
    ) -> Option<Result<AppendedOnce, AppendError>> {
        let stored = stored?;
        if stored.fingerprint != self.fingerprint {
            return Some(Err(AppendError::KeyReused {
                key: self.key.clone(),
                first_sequence: stored.first_sequence,
                last_sequence: stored.last_sequence,
            }));
        }
        Some(Ok(AppendedOnce {
            appended: stored.appended(),
            is_repetition: true,
        }))
    }

    /// What is to be stored with the batch.
    pub(crate) fn stored_as(&self, appended: Appended) -> StoredKey {
        StoredKey {
            first_sequence: appended.first_sequence,
            last_sequence: appended.last_sequence,
            fingerprint: self.fingerprint,
        }
    }
}

impl StoredKey {
    fn appended(&self) -> Appended {
        Appended {
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
            committed_count: (self.last_sequence - self.first_sequence + 1) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_answers_for_its_own_events_alone() {
        let once = Once {
            key: "payment:81".into(),
            fingerprint: Fingerprint([7; 16]),
        };
        let appended = Appended {
            first_sequence: 4,
            last_sequence: 6,
            committed_count: 3,
        };
        assert!(once.answered_by(None).is_none());
        let stored = once.stored_as(appended);
        let repeated = once.answered_by(Some(&stored)).unwrap().unwrap();
        assert_eq!((repeated.appended, repeated.is_repetition), (appended, true));
        let other = StoredKey {
            fingerprint: Fingerprint([8; 16]),
            ..stored
        };
        let refused = once.answered_by(Some(&other)).unwrap().unwrap_err();
        assert!(refused.to_string().contains("\"payment:81\""), "{refused}");
    }
}

//! Rows as texts: what a log stores that has no columns for their parts.
//!
//! The texts are JSON objects. What this version of the crate writes, later versions read.

use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{FailureCategory, StorageError};
use crate::event::fingerprint::Fingerprint;
use crate::log::cursor::{Pause, PauseKind, StoredCursor};
use crate::log::letter::{Attempt, DeadLetter, DeadLetterState};
use crate::log::once::StoredKey;
use crate::log::owner::{Claim, Role};
use crate::log::retry_request::RetryRequest;

#[derive(Serialize, Deserialize)]
struct CursorText {
    position: u64,
    query: String,
    log_id: String,
    epoch: u64,
    attempt_at: u64,
    attempt_count: u32,
    owner: u64,
    steering: u64,
    paused: Option<PauseText>,
    retry: Option<Box<RetryRequest>>,
    updated_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct PauseText {
    by: String,
    since: Timestamp,
    is_taken_over: bool,
}

#[derive(Serialize, Deserialize)]
struct LetterText {
    first_sequence: u64,
    last_sequence: u64,
    sequences: Option<Box<[u64]>>,
    key: Option<String>,
    state: String,
    category: Option<String>,
    cause: Option<String>,
    attempts: u32,
    first_failed_at: Option<Timestamp>,
    last_failed_at: Option<Timestamp>,
    parked_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct KeyText {
    first_sequence: u64,
    last_sequence: u64,
    fingerprint: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct ClaimText {
    stream: String,
    instance: String,
    role: String,
    since: Timestamp,
    host: String,
    process: u32,
}

impl StoredCursor {
    /// The row as text.
    pub fn to_text(&self) -> String {
        let paused = self.paused.as_ref().map(|pause| PauseText {
            by: pause.by.to_string(),
            since: pause.since,
            is_taken_over: pause.kind == PauseKind::TakenOver,
        });
        write(&CursorText {
            position: self.position,
            query: self.query.clone(),
            log_id: self.log_id.clone(),
            epoch: self.epoch,
            attempt_at: self.attempt.at,
            attempt_count: self.attempt.count,
            owner: self.owner,
            steering: self.steering,
            paused,
            retry: self.retry.clone(),
            updated_at: self.updated_at,
        })
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_text(text: &str) -> Result<Self, StorageError> {
        let row: CursorText = read("read the cursor of a stream", text)?;
        let pause = |pause: PauseText| Pause {
            by: pause.by.into(),
            since: pause.since,
            kind: match pause.is_taken_over {
                true => PauseKind::TakenOver,
                false => PauseKind::ByHand,
            },
        };
        Ok(Self {
            position: row.position,
            query: row.query,
            log_id: row.log_id,
            epoch: row.epoch,
            attempt: Attempt {
                at: row.attempt_at,
                count: row.attempt_count,
            },
            owner: row.owner,
            steering: row.steering,
            paused: row.paused.map(pause),
            retry: row.retry,
            updated_at: row.updated_at,
        })
    }
}

impl DeadLetter {
    /// The letter as text.
    pub fn to_text(&self) -> String {
        write(&LetterText {
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
            sequences: self.sequences.clone(),
            key: self.key.clone(),
            state: self.state.as_str().to_owned(),
            category: self.category.map(|category| category.as_str().to_owned()),
            cause: self.cause.clone(),
            attempts: self.attempts,
            first_failed_at: self.first_failed_at.map(Timestamp::from),
            last_failed_at: self.last_failed_at.map(Timestamp::from),
            parked_at: self.parked_at.into(),
        })
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_text(text: &str) -> Result<Self, StorageError> {
        const OPERATION: &str = "read a dead letter";
        let row: LetterText = read(OPERATION, text)?;
        let state = DeadLetterState::ALL
            .into_iter()
            .find(|state| state.as_str() == row.state);
        let category = |word: &String| {
            let found = FailureCategory::ALL
                .into_iter()
                .find(|category| category.as_str() == word);
            found.ok_or_else(|| unknown(OPERATION, word))
        };
        Ok(Self {
            first_sequence: row.first_sequence,
            last_sequence: row.last_sequence,
            sequences: row.sequences,
            key: row.key,
            state: state.ok_or_else(|| unknown(OPERATION, &row.state))?,
            category: row.category.as_ref().map(category).transpose()?,
            cause: row.cause,
            attempts: row.attempts,
            first_failed_at: row.first_failed_at.map(SystemTime::from),
            last_failed_at: row.last_failed_at.map(SystemTime::from),
            parked_at: row.parked_at.into(),
        })
    }
}

impl StoredKey {
    /// What is stored under the key, as text.
    pub fn to_text(&self) -> String {
        write(&KeyText {
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
            fingerprint: self.fingerprint.0,
        })
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_text(text: &str) -> Result<Self, StorageError> {
        let row: KeyText = read("read an idempotency key", text)?;
        Ok(Self {
            first_sequence: row.first_sequence,
            last_sequence: row.last_sequence,
            fingerprint: Fingerprint(row.fingerprint),
        })
    }
}

/// The words that stand for roles.
const ROLES: [(Role, &str); 4] = [
    (Role::Owner, "owner"),
    (Role::SoleOwner, "sole-owner"),
    (Role::Heir, "heir"),
    (Role::Standby, "standby"),
];

impl Claim {
    /// The claim as text.
    pub fn to_text(&self) -> String {
        let word = ROLES.iter().find(|(role, _)| *role == self.role);
        let (_, word) = word.expect("every role has a word");
        write(&ClaimText {
            stream: self.stream.to_string(),
            instance: self.instance.to_string(),
            role: (*word).to_owned(),
            since: self.since,
            host: self.host.to_string(),
            process: self.process,
        })
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_text(text: &str) -> Result<Self, StorageError> {
        const OPERATION: &str = "read who runs a stream";
        let row: ClaimText = read(OPERATION, text)?;
        let role = ROLES.iter().find(|(_, word)| *word == row.role);
        let (role, _) = role.ok_or_else(|| unknown(OPERATION, &row.role))?;
        Ok(Self {
            stream: row.stream.into(),
            instance: row.instance.into(),
            role: *role,
            since: row.since,
            host: Arc::from(row.host),
            process: row.process,
        })
    }
}

fn write(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("numbers and texts become JSON")
}

fn read<T: DeserializeOwned>(operation: &'static str, text: &str) -> Result<T, StorageError> {
    serde_json::from_str(text).map_err(|error| StorageError::of_log(operation, error))
}

fn unknown(operation: &'static str, word: &str) -> StorageError {
    let problem = format!("{word:?} stands for nothing that this version knows");
    StorageError::of_log(
        operation,
        std::io::Error::new(std::io::ErrorKind::InvalidData, problem),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let mut cursor = StoredCursor {
            position: 7,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch: 4,
            attempt: Attempt { at: 8, count: 2 },
            owner: 3,
            steering: 5,
            paused: None,
            retry: None,
            updated_at: Timestamp::from_micros(12),
        };
        for kind in [PauseKind::ByHand, PauseKind::TakenOver] {
            assert_eq!(StoredCursor::from_text(&cursor.to_text()).unwrap(), cursor);
            let (by, since) = ("anna".into(), Timestamp::from_micros(9));
            cursor.paused = Some(Pause { by, since, kind });
        }
        assert_eq!(StoredCursor::from_text(&cursor.to_text()).unwrap(), cursor);
        assert!(StoredCursor::from_text("{}").is_err());
    }

    #[test]
    fn a_letter_comes_back_as_it_went() {
        for state in DeadLetterState::ALL {
            let parked_at = Timestamp::from_micros(11).into();
            let mut letter = DeadLetter::set_aside(&[2, 4], state, parked_at).unwrap();
            assert_eq!(DeadLetter::from_text(&letter.to_text()).unwrap(), letter);
            for category in FailureCategory::ALL {
                letter.category = Some(category);
                letter.cause = Some("it \"failed\"".into());
                letter.key = Some("k".into());
                letter.last_failed_at = Some(Timestamp::from_micros(-3).into());
                assert_eq!(DeadLetter::from_text(&letter.to_text()).unwrap(), letter);
            }
        }
        let unknown = r#"{"first_sequence":1,"last_sequence":1,"state":"lost","attempts":0,"parked_at":0}"#;
        let error = DeadLetter::from_text(unknown).unwrap_err();
        assert!(error.to_string().contains("\"lost\""), "{error}");
    }

    #[test]
    fn keys_and_claims_come_back_as_they_went() {
        let key = StoredKey {
            first_sequence: 3,
            last_sequence: 5,
            fingerprint: Fingerprint([9; 16]),
        };
        assert_eq!(StoredKey::from_text(&key.to_text()).unwrap(), key);
        for (role, _) in ROLES {
            let claim = Claim {
                stream: "ledger".into(),
                instance: "one".into(),
                role,
                since: Timestamp::from_micros(7),
                host: "host".into(),
                process: 42,
            };
            assert_eq!(Claim::from_text(&claim.to_text()).unwrap(), claim);
        }
    }
}

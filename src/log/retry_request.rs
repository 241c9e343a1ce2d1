//! Requests to retry dead letters, made by those who do not have the handler: what is asked stands in the stream's row.
//!
//! A stream has one request at a time. It waits until whoever runs the stream begins it, and not longer than it says: nothing
//! is retried weeks later because somebody asked in vain. Whoever begins it writes down what becomes of it, letter by letter, in
//! the transaction that changes the letter. A request that ended is kept until the next one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{SteerError, StorageError};
use crate::log::LogWriter;
use crate::log::cursor::StoredCursor;
use crate::log::letter::LetterDone;

/// Which dead letters are to be retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryLetters {
    /// The one that begins with this event.
    One(u64),
    /// Those of this key, in order, until one fails.
    Key(String),
    /// All that wait, in order. When one fails, the later ones of its key are left.
    All,
}

/// A request, as it stands in the row of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetryRequest {
    /// No two requests of a log have the same.
    pub(crate) number: u64,
    pub(crate) letters: RetryLetters,
    pub(crate) by: String,
    pub(crate) asked_at: Timestamp,
    /// After this nobody begins it.
    pub(crate) begin_before: Timestamp,
    /// The owner who has begun it; 0: nobody has.
    pub(crate) begun_by: u64,
    pub(crate) has_ended: bool,
    /// How many letters the handler took, how many failed again, and how many had to wait for one that failed.
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    pub(crate) waiting: u64,
    /// Where the first of the handled letters began, up to [`LISTED_MAX`].
    pub(crate) handled_first: Vec<u64>,
    /// What ended it before it was done.
    pub(crate) problem: Option<String>,
}

/// Of so many handled letters it is listed where they began.
const LISTED_MAX: usize = 1_000;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct NewRequest {
    pub(crate) letters: RetryLetters,
    pub(crate) by: Arc<str>,
    pub(crate) begin_within: Duration,
}

/// What a request came to when all its letters had been tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestEnd {
    pub(crate) waiting: u64,
    pub(crate) problem: Option<String>,
}

/// What became of one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetterOutcome {
    Handled,
    Failed,
}

impl RetryRequest {
    fn new(number: u64, asked: &NewRequest, now: Timestamp) -> Self {
        Self {
            number,
            letters: asked.letters.clone(),
            by: asked.by.to_string(),
            asked_at: now,
            begin_before: now.after(asked.begin_within),
            begun_by: 0,
            has_ended: false,
            handled: 0,
            failed: 0,
            waiting: 0,
            handled_first: Vec::new(),
            problem: None,
        }
    }

    /// Whether somebody may still begin it.
    pub(crate) fn waits(&self, now: Timestamp) -> bool {
        self.begun_by == 0 && now <= self.begin_before
    }

    /// Whether whoever has begun it can still be at it. After a crash that is not known before the stream runs again.
    pub(crate) fn is_under_way(&self, row: &StoredCursor) -> bool {
        self.begun_by != 0 && !self.has_ended && self.begun_by == row.owner && runs(row)
    }
}

/// Whether somebody runs the stream. After a crash it seems so.
fn runs(row: &StoredCursor) -> bool {
    row.attempt.count > 0
}

/// Decides whether a request may be made, and what the row says then.
pub(crate) fn ask<W: LogWriter>(
    writer: &mut W,
    name: &str,
    stored: &StoredCursor,
    asked: &NewRequest,
) -> Result<StoredCursor, SteerError> {
    let now = Timestamp::now();
    if !runs(stored) {
        return Err(SteerError::NobodyRuns {
            name: name.to_owned(),
        });
    }
    let earlier = stored.retry.as_deref();
    if let Some(earlier) = earlier.filter(|earlier| earlier.waits(now) || earlier.is_under_way(stored)) {
        return Err(SteerError::RetryUnderWay {
            name: name.to_owned(),
            by: earlier.by.clone(),
            since: earlier.asked_at.into(),
        });
    }
    let missing = match &asked.letters {
        RetryLetters::One(first) if writer.letter(name, *first)?.is_none() => {
            Some(format!("begins with event {first}"))
        }
        RetryLetters::Key(key) if !writer.has_key(name, key)? => Some(format!("has the key {key:?}")),
        _ => None,
    };
    if let Some(missing) = missing {
        return Err(SteerError::NoSuchLetter {
            name: name.to_owned(),
            missing,
        });
    }
    let number = writer.next_epoch()?;
    Ok(StoredCursor {
        retry: Some(Box::new(RetryRequest::new(number, asked, now))),
        ..stored.clone()
    })
}

/// Takes a request back that nobody has begun. Nothing: it is not there any more, or was begun.
pub(crate) fn withdraw(stored: &StoredCursor, number: u64) -> Option<StoredCursor> {
    let request = stored.retry.as_deref()?;
    (request.number == number && request.begun_by == 0).then(|| StoredCursor {
        retry: None,
        ..stored.clone()
    })
}

/// Begins a request, if it still waits and the name still belongs to this owner: of all who try it exactly one succeeds.
pub(crate) fn begin<W: LogWriter>(
    writer: &mut W,
    name: &str,
    number: u64,
    owner: u64,
) -> Result<LetterDone, StorageError> {
    let now = Timestamp::now();
    change(writer, name, |row| {
        let is_owner = row.owner == owner;
        let request = row.retry.as_deref_mut();
        let request = request.filter(|request| is_owner && request.number == number && request.waits(now))?;
        request.begun_by = owner;
        Some(())
    })
}

/// Writes down what became of a letter.
pub(crate) fn note<W: LogWriter>(
    writer: &mut W,
    name: &str,
    number: u64,
    first_sequence: u64,
    outcome: LetterOutcome,
) -> Result<LetterDone, StorageError> {
    change(writer, name, |row| {
        let request = row.retry.as_deref_mut();
        let request = request.filter(|request| request.number == number)?;
        match outcome {
            LetterOutcome::Handled => {
                request.handled += 1;
                if request.handled_first.len() < LISTED_MAX {
                    request.handled_first.push(first_sequence);
                }
            }
            LetterOutcome::Failed => request.failed += 1,
        }
        Some(())
    })
}

/// Writes down that a request is over.
pub(crate) fn end<W: LogWriter>(
    writer: &mut W,
    name: &str,
    number: u64,
    end: &RequestEnd,
) -> Result<LetterDone, StorageError> {
    change(writer, name, |row| {
        let request = row.retry.as_deref_mut();
        let request = request.filter(|request| request.number == number)?;
        request.has_ended = true;
        request.waiting = end.waiting;
        request.problem.clone_from(&end.problem);
        Some(())
    })
}

fn change<W: LogWriter>(
    writer: &mut W,
    name: &str,
    change: impl FnOnce(&mut StoredCursor) -> Option<()>,
) -> Result<LetterDone, StorageError> {
    let Some(mut row) = writer.cursor(name)? else {
        return Ok(LetterDone::NotFound);
    };
    if change(&mut row).is_none() {
        return Ok(LetterDone::NotFound);
    }
    writer.put_cursor(name, &row)?;
    Ok(LetterDone::Done(writer.letter_counts(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::letter::Attempt;

    fn request(asked_at: Timestamp) -> RetryRequest {
        let asked = NewRequest {
            letters: RetryLetters::All,
            by: "anna".into(),
            begin_within: Duration::from_secs(10),
        };
        RetryRequest::new(7, &asked, asked_at)
    }

    fn row(owner: u64, attempt: Attempt) -> StoredCursor {
        StoredCursor {
            position: 4,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch: owner,
            attempt,
            owner,
            steering: 0,
            paused: None,
            retry: None,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn a_request_waits_as_long_as_it_says_and_until_somebody_begins_it() {
        let asked_at = Timestamp::EPOCH;
        let mut request = request(asked_at);
        let at = |seconds| asked_at.after(Duration::from_secs(seconds));
        assert!(request.waits(at(10)) && !request.waits(at(11)));
        request.begun_by = 3;
        assert!(!request.waits(at(1)));
    }

    #[test]
    fn a_request_is_under_way_while_its_owner_runs_the_stream() {
        let mut request = request(Timestamp::EPOCH);
        assert!(
            !request.is_under_way(&row(3, Attempt::RUNNING)),
            "nobody began it"
        );
        request.begun_by = 3;
        assert!(request.is_under_way(&row(3, Attempt::RUNNING)));
        assert!(
            !request.is_under_way(&row(4, Attempt::RUNNING)),
            "the stream was registered anew"
        );
        assert!(
            !request.is_under_way(&row(3, Attempt::ENDED)),
            "the run ended in order"
        );
        request.has_ended = true;
        assert!(!request.is_under_way(&row(3, Attempt::RUNNING)));
    }

    #[test]
    fn only_a_request_that_nobody_began_is_withdrawn() {
        let mut stored = row(3, Attempt::RUNNING);
        assert_eq!(withdraw(&stored, 7), None);
        stored.retry = Some(Box::new(request(Timestamp::EPOCH)));
        assert_eq!(withdraw(&stored, 8), None);
        assert_eq!(withdraw(&stored, 7).unwrap().retry, None);
        stored.retry.as_mut().unwrap().begun_by = 3;
        assert_eq!(withdraw(&stored, 7), None);
    }
}

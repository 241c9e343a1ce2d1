//! A dead letter as JSON, and where it lies.

use millstream::DeadLetter;
use serde::Serialize;

use crate::time;

/// A dead letter as a line of JSON.
#[derive(Serialize)]
pub(crate) struct LetterRecord<'a> {
    first_sequence: u64,
    last_sequence: u64,
    events: u64,
    state: &'static str,
    key: Option<&'a str>,
    category: Option<&'static str>,
    cause: Option<&'a str>,
    attempts: u32,
    first_failed_at: Option<String>,
    last_failed_at: Option<String>,
    parked_at: String,
}

impl<'a> LetterRecord<'a> {
    pub(crate) fn new(letter: &'a DeadLetter) -> Self {
        Self {
            first_sequence: letter.first_sequence,
            last_sequence: letter.last_sequence,
            events: letter.event_count(),
            state: letter.state.as_str(),
            key: letter.key.as_deref(),
            category: letter.category.map(|category| category.as_str()),
            cause: letter.cause.as_deref(),
            attempts: letter.attempts,
            first_failed_at: letter.first_failed_at.map(time::exact),
            last_failed_at: letter.last_failed_at.map(time::exact),
            parked_at: time::exact(letter.parked_at),
        }
    }
}

//! Dead letters: what a durable stream set aside, and what the committer does with them.
//!
//! Whatever is done with letters is one [`LetterChange`], which the committer applies in a transaction of its own, so that a
//! letter which cannot be stored fails no append. A letter and the move of the cursor over what it stands for are one change,
//! and the change names the epoch as every move of a cursor does (D6). What is decided inside the transaction is decided in
//! [`apply`], for every log alike: whether a key is still parked, whether there is room, which letter of a key is the first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::error::{FailureCategory, StorageError};
use crate::log::LogWriter;
use crate::log::cursor::{CursorCell, CursorWrite, Run};
use crate::log::retry_request::{self, LetterOutcome, RequestEnd};

/// What a dead letter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterState {
    /// Its handling failed. It waits to be retried or discarded.
    Parked,
    /// It was not handled yet: it waits behind a parked letter of its key.
    Queued,
    /// Its handling failed, and the policy says to leave it; or somebody skipped it. It is a record, and waits for nothing.
    Skipped,
}

impl DeadLetterState {
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub(crate) const ALL: [Self; 3] = [Self::Parked, Self::Queued, Self::Skipped];

    /// The word that stands for it in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Queued => "queued",
            Self::Skipped => "skipped",
        }
    }
}

/// Events of one batch that a durable stream set aside instead of handling them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The first event that it stands for. With the stream's name it tells the letter from all others.
    pub first_sequence: u64,
    /// The last event that it stands for.
    pub last_sequence: u64,
    /// The events that it stands for; nothing: all of that range.
    pub(crate) sequences: Option<Box<[u64]>>,
    /// The key whose later events queue behind it.
    pub key: Option<String>,
    /// What it waits for.
    pub state: DeadLetterState,
    /// In which way the newest call failed; nothing, when there was none.
    pub category: Option<FailureCategory>,
    /// What it failed with, cut off after 4 KiB.
    pub cause: Option<String>,
    /// How often the handler was called for it.
    pub attempts: u32,
    /// When the handler failed for the first time.
    pub first_failed_at: Option<SystemTime>,
    /// When the handler failed last.
    pub last_failed_at: Option<SystemTime>,
    /// When it was set aside.
    pub parked_at: SystemTime,
}

impl DeadLetter {
    /// A letter for events that no handler call failed on, in the order of the log. Nothing: there are none.
    pub(crate) fn set_aside(
        sequences: &[u64],
        state: DeadLetterState,
        parked_at: SystemTime,
    ) -> Option<Self> {
        let (first, last) = (*sequences.first()?, *sequences.last()?);
        let is_range = last - first + 1 == sequences.len() as u64;
        Some(Self {
            first_sequence: first,
            last_sequence: last,
            sequences: (!is_range).then(|| sequences.into()),
            key: None,
            state,
            category: None,
            cause: None,
            attempts: 0,
            first_failed_at: None,
            last_failed_at: None,
            parked_at,
        })
    }

    /// How many events it stands for.
    pub fn event_count(&self) -> u64 {
        match &self.sequences {
            Some(sequences) => sequences.len() as u64,
            None => self.last_sequence - self.first_sequence + 1,
        }
    }

    /// Leaves out the events before one of them.
    fn begin_with(&mut self, first_sequence: u64) {
        if let Some(sequences) = &mut self.sequences {
            let left = sequences
                .iter()
                .copied()
                .filter(|sequence| *sequence >= first_sequence);
            *sequences = left.collect();
        }
        self.first_sequence = first_sequence;
    }

    /// Whether it stands for this event.
    pub fn contains(&self, sequence: u64) -> bool {
        match &self.sequences {
            Some(sequences) => sequences.binary_search(&sequence).is_ok(),
            None => (self.first_sequence..=self.last_sequence).contains(&sequence),
        }
    }
}

/// How many letters a stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// Those that wait: parked or queued.
    pub(crate) parked: u64,
    pub(crate) skipped: u64,
    /// The keys that they have.
    pub(crate) keys: u64,
    /// When the oldest of those that wait was set aside.
    pub(crate) oldest_at: Option<Timestamp>,
}

/// Which batch a stream was given and has not settled, as far as it is noted.
///
/// While a run goes on in good order the note says no more than that: nothing at 0, once. It is taken back when the run ends
/// in order; so who finds one knows that the run before ended otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The first sequence of what was given; 0: nothing that was watched.
    pub(crate) at: u64,
    /// How often it was given; 0: no run is under way.
    pub(crate) count: u32,
}

impl Attempt {
    pub(crate) const RUNNING: Self = Self { at: 0, count: 1 };
    pub(crate) const ENDED: Self = Self { at: 0, count: 0 };
}

impl From<Run> for Attempt {
    fn from(run: Run) -> Self {
        match run {
            Run::GoesOn => Self::RUNNING,
            Run::Ended => Self::ENDED,
        }
    }
}

/// An attempt on its way into the log, with the position before it.
pub struct AttemptWrite<'a> {
    /// The stream's name.
    pub name: &'a str,
    /// The epoch that has to be the stored one.
    pub epoch: u64,
    /// The last sequence that is settled.
    pub position: u64,
    pub(crate) attempt: Attempt,
}

/// How many letters and keys a stream may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LetterLimits {
    pub(crate) letters_max: u64,
    pub(crate) keys_max: u64,
}

/// What is to be done with the letters of a stream.
#[derive(Clone)]
pub(crate) enum LetterChange {
    SetAside(SetAside),
    /// Notes that the batch after the position is being given to the handler.
    Begin {
        cell: Arc<CursorCell>,
        position: u64,
        attempt: Attempt,
    },
    /// The handler took a letter that was retried.
    Retried {
        name: Arc<str>,
        epoch: u64,
        first_sequence: u64,
        /// The request that it was retried for.
        request: Option<u64>,
    },
    /// The handler failed again.
    FailedAgain {
        name: Arc<str>,
        epoch: u64,
        first_sequence: u64,
        request: Option<u64>,
        failure: FailedRetry,
    },
    /// Somebody asked that letters be retried, and this owner begins it.
    BeginRequest {
        name: Arc<str>,
        owner: u64,
        number: u64,
    },
    /// The letters of a request were tried.
    EndRequest {
        name: Arc<str>,
        number: u64,
        end: RequestEnd,
    },
    /// Somebody has decided that nothing more is to come of a letter.
    Discard {
        name: Arc<str>,
        first_sequence: u64,
    },
}

/// How a retry failed.
#[derive(Clone)]
pub(crate) struct FailedRetry {
    /// The event that the handler failed on, if it said so: it took those before.
    pub(crate) named: Option<u64>,
    pub(crate) category: FailureCategory,
    pub(crate) cause: Box<str>,
    pub(crate) at: SystemTime,
}

/// Letters, and the position that the cursor has with them.
#[derive(Clone)]
pub(crate) struct SetAside {
    pub(crate) cell: Arc<CursorCell>,
    pub(crate) position: u64,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) limits: LetterLimits,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LetterDone {
    /// It is stored, and this is what the stream has now.
    Done(LetterCounts),
    /// Somebody else owns the name; nothing was written (D6).
    OwnershipLost,
    /// Nothing is parked under this key any more, so nothing is to queue behind it; nothing was written.
    KeyIsFree(Box<str>),
    TooManyLetters(u64),
    TooManyKeys(u64),
    NotFound,
}

/// A change on its way to the committer.
pub(crate) struct LetterRequest {
    pub(crate) change: LetterChange,
    pub(crate) reply: oneshot::Sender<Result<LetterDone, StorageError>>,
}

/// The letters that a reader is asked for: those of a stream that begin after a sequence, in the order of the log.
pub struct LetterRange<'a> {
    /// The stream's name.
    pub name: &'a str,
    /// The sequence before the first one that a letter may begin with.
    pub after: u64,
    /// How many are wanted at the most.
    pub count_max: usize,
}

/// The half of a log's reader that knows dead letters.
pub trait LetterReader {
    /// The letters of a range.
    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError>;

    /// The first letter of a key, of those that wait.
    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError>;

    /// How many letters and parked keys a stream has.
    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError>;

    /// The keys that later events of a stream queue behind.
    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError>;
}

/// The half of a log's writer that knows dead letters. Called inside a transaction.
pub trait LetterWriter {
    /// The letter of a stream that begins with this event.
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError>;

    /// Stores a letter, in place of one that begins with the same event.
    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError>;

    /// Removes a letter. `false`: there is none.
    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError>;

    /// Gives the letters of a stream to another one.
    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError>;

    /// Removes the letters for what comes after a position, and says how many there were.
    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError>;

    /// Whether a letter of the stream has this key.
    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError>;

    /// How many letters and parked keys a stream has.
    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError>;

    /// The oldest letter of all streams that is not only a record: the stream's name, and where it begins.
    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError>;

    /// Notes an attempt. `false`: the epoch is not the stored one, nothing was written (D6).
    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError>;
}

/// Applies a change inside the transaction.
pub(crate) fn apply<W: LogWriter>(writer: &mut W, change: &LetterChange) -> Result<LetterDone, StorageError> {
    match change {
        LetterChange::SetAside(aside) => set_aside(writer, aside),
        LetterChange::Begin {
            cell,
            position,
            attempt,
        } => {
            let is_owner = writer.put_attempt(&AttemptWrite {
                name: &cell.name,
                epoch: cell.epoch,
                position: *position,
                attempt: *attempt,
            })?;
            Ok(match is_owner {
                true => LetterDone::Done(LetterCounts::default()),
                false => LetterDone::OwnershipLost,
            })
        }
        LetterChange::Retried {
            name,
            epoch,
            first_sequence,
            request,
        } => {
            if !owns(writer, name, *epoch)? {
                return Ok(LetterDone::OwnershipLost);
            }
            let done = remove(writer, name, *first_sequence)?;
            note(
                writer,
                name,
                *request,
                &done,
                (*first_sequence, LetterOutcome::Handled),
            )?;
            Ok(done)
        }
        LetterChange::BeginRequest { name, owner, number } => {
            retry_request::begin(writer, name, *number, *owner)
        }
        LetterChange::EndRequest { name, number, end } => retry_request::end(writer, name, *number, end),
        LetterChange::Discard { name, first_sequence } => remove(writer, name, *first_sequence),
        LetterChange::FailedAgain {
            name,
            epoch,
            first_sequence,
            request,
            failure,
        } => {
            if !owns(writer, name, *epoch)? {
                return Ok(LetterDone::OwnershipLost);
            }
            let done = failed_again(writer, name, *first_sequence, failure)?;
            note(
                writer,
                name,
                *request,
                &done,
                (*first_sequence, LetterOutcome::Failed),
            )?;
            Ok(done)
        }
    }
}

fn failed_again<W: LogWriter>(
    writer: &mut W,
    name: &str,
    first_sequence: u64,
    failure: &FailedRetry,
) -> Result<LetterDone, StorageError> {
    let Some(mut letter) = writer.letter(name, first_sequence)? else {
        return Ok(LetterDone::NotFound);
    };
    if letter.state == DeadLetterState::Queued {
        letter.state = DeadLetterState::Parked;
    }
    let is_inside = |named: &u64| *named > first_sequence && letter.contains(*named);
    if let Some(named) = failure.named.filter(is_inside) {
        writer.remove_letter(name, first_sequence)?;
        letter.begin_with(named);
    }
    letter.attempts = letter.attempts.saturating_add(1);
    letter.category = Some(failure.category);
    letter.cause = Some(failure.cause.to_string());
    letter.first_failed_at.get_or_insert(failure.at);
    letter.last_failed_at = Some(failure.at);
    writer.put_letter(name, &letter)?;
    Ok(LetterDone::Done(writer.letter_counts(name)?))
}

/// Writes down for whoever asked what became of a letter, unless somebody discarded it meanwhile.
fn note<W: LogWriter>(
    writer: &mut W,
    name: &str,
    request: Option<u64>,
    done: &LetterDone,
    (first_sequence, outcome): (u64, LetterOutcome),
) -> Result<(), StorageError> {
    if let (Some(number), LetterDone::Done(_)) = (request, done) {
        retry_request::note(writer, name, number, first_sequence, outcome)?;
    }
    Ok(())
}

fn owns<W: LogWriter>(writer: &mut W, name: &str, epoch: u64) -> Result<bool, StorageError> {
    Ok(writer.cursor(name)?.is_some_and(|cursor| cursor.epoch == epoch))
}

fn remove<W: LogWriter>(writer: &mut W, name: &str, first_sequence: u64) -> Result<LetterDone, StorageError> {
    if writer.remove_letter(name, first_sequence)? {
        Ok(LetterDone::Done(writer.letter_counts(name)?))
    } else {
        Ok(LetterDone::NotFound)
    }
}

/// Refuses before it writes anything: what is refused leaves the transaction empty.
fn set_aside<W: LogWriter>(writer: &mut W, aside: &SetAside) -> Result<LetterDone, StorageError> {
    let SetAside {
        cell,
        position,
        letters,
        limits,
    } = aside;
    let name = &*cell.name;
    let mut new_keys = BTreeSet::new();
    for letter in letters {
        let Some(key) = letter.key.as_deref() else {
            continue;
        };
        if writer.has_key(name, key)? {
            continue;
        }
        // It may queue behind one that is parked by the same change.
        if letter.state == DeadLetterState::Queued && !new_keys.contains(key) {
            return Ok(LetterDone::KeyIsFree(key.into()));
        }
        new_keys.insert(key);
    }
    let mut counts = writer.letter_counts(name)?;
    let letters_found = counts.parked + counts.skipped + letters.len() as u64;
    if letters_found > limits.letters_max {
        return Ok(LetterDone::TooManyLetters(letters_found));
    }
    counts.keys += new_keys.len() as u64;
    if !new_keys.is_empty() && counts.keys > limits.keys_max {
        return Ok(LetterDone::TooManyKeys(counts.keys));
    }
    let is_owner = writer.move_cursor(&CursorWrite {
        name,
        epoch: cell.epoch,
        position: *position,
        run: Run::GoesOn,
    })?;
    if !is_owner {
        return Ok(LetterDone::OwnershipLost);
    }
    for letter in letters {
        writer.put_letter(name, letter)?;
    }
    Ok(LetterDone::Done(writer.letter_counts(name)?))
}

impl LetterChange {
    /// The change is in the log: the stream's cell knows the position that went with it.
    pub(crate) fn committed(&self, done: &LetterDone) {
        let (cell, position) = match self {
            Self::SetAside(SetAside { cell, position, .. }) | Self::Begin { cell, position, .. } => {
                (cell, *position)
            }
            Self::Retried { .. }
            | Self::FailedAgain { .. }
            | Self::BeginRequest { .. }
            | Self::EndRequest { .. }
            | Self::Discard { .. } => return,
        };
        if matches!(done, LetterDone::Done(_)) {
            cell.stored(position);
        }
    }
}

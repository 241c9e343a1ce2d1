//! What a verification of a log's file found.

use serde::Serialize;
use thiserror::Error;

/// What a [`verify`](crate::Store::verify) looked at, and what it found to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[must_use = "it says whether the file is sound"]
pub struct Verification {
    /// The last committed sequence.
    pub head: u64,
    /// Everything up to this sequence was pruned; 0: nothing.
    pub pruned_through: u64,
    /// How many events were looked at.
    pub events: u64,
    /// How many batches they make.
    pub batches: u64,
    /// How many events were removed by hand, which is allowed as long as whole batches go.
    pub removed_events: u64,
    /// How many entries of the index were compared with the events.
    pub index_entries: u64,
    /// How many cursors were looked at.
    pub cursors: u64,
    /// How many idempotency keys were looked at.
    pub idempotency_keys: u64,
    /// What is wrong, in the order in which it was found: the first thousand.
    pub findings: Vec<Finding>,
    /// How many findings there are, those that are not listed among them.
    pub findings_count: u64,
}

/// How many findings are listed.
const FINDINGS_MAX: usize = 1000;

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings_count == 0
    }

    pub(crate) fn found(&mut self, finding: Finding) {
        self.findings_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// One thing that is wrong with a log's file. What it means, and what can be done, is in `docs/command-line.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Error)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// SQLite itself finds the file damaged.
    #[error("SQLite says: {problem}")]
    Storage {
        /// What it says.
        problem: String,
    },
    /// The row that belongs to the log as a whole does not fit the events.
    #[error("the row of the table `log` is wrong: {problem}")]
    LogRow {
        /// What is wrong.
        problem: String,
    },
    /// Events are missing that were neither pruned nor removed by hand.
    #[error(
        "the events {first_sequence} to {last_sequence} are missing, and were neither pruned nor removed by hand"
    )]
    EventsMissing {
        /// The first of them.
        first_sequence: u64,
        /// The last of them.
        last_sequence: u64,
    },
    /// An event is there that is said to be pruned.
    #[error("event {sequence} is there, but the log is said to be pruned through {pruned_through}")]
    EventOutlivedPruning {
        /// The event.
        sequence: u64,
        /// What `log` says.
        pruned_through: u64,
    },
    /// A batch is not the one that was appended (L1).
    #[error("the batch that begins with {first_sequence} is not whole: {problem}")]
    BatchTorn {
        /// Where the batch begins.
        first_sequence: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// The recorded time goes back.
    #[error("event {sequence} was recorded earlier than the event before it")]
    TimeFell {
        /// The later event, with the earlier time.
        sequence: u64,
    },
    /// An event's type has no name.
    #[error("event {sequence} has the type number {type_id}, which has no name")]
    TypeUnknown {
        /// The event.
        sequence: u64,
        /// The number.
        type_id: i64,
    },
    /// A part of an event is not what it has to be.
    #[error("the {part} of event {sequence} cannot be read: {problem}")]
    EventDamaged {
        /// The event.
        sequence: u64,
        /// `payload`, `tags` or `metadata`.
        part: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A run of the index is not what the index relies on.
    #[error("run {run} of the index is damaged: {problem}")]
    IndexRunDamaged {
        /// The run.
        run: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// The index does not find an event by something that it carries.
    #[error("the index has no entry for event {sequence} with {carried}")]
    IndexEntryMissing {
        /// The event.
        sequence: u64,
        /// The tag, or the indexed path.
        carried: String,
        /// The key that the entry should have.
        key: i64,
    },
    /// The index has an entry that no part of the event makes.
    #[error(
        "the index has an entry with the key {key} for event {sequence}, which carries nothing of that key"
    )]
    IndexEntryForeign {
        /// The event.
        sequence: u64,
        /// The key of the entry.
        key: i64,
    },
    /// Entries of the index do not fit the events of a stretch of the log; which ones was not looked for.
    #[error("the index does not fit the events {first_sequence} to {last_sequence}")]
    IndexDiffers {
        /// Where the stretch begins.
        first_sequence: u64,
        /// Where it ends.
        last_sequence: u64,
    },
    /// A cursor was written for another log (D7).
    #[error("the cursor of {name:?} belongs to the log {cursor_log}, this is the log {log}")]
    CursorForeign {
        /// The stream's name.
        name: String,
        /// The log that the cursor was written for.
        cursor_log: String,
        /// This log.
        log: String,
    },
    /// A cursor is ahead of the log (D7).
    #[error("the cursor of {name:?} stands at {position}, the log ends at {head}")]
    CursorAhead {
        /// The stream's name.
        name: String,
        /// Where the cursor stands.
        position: u64,
        /// The head of the log.
        head: u64,
    },
    /// A dead letter stands for events that the log never had, or in a state that there is not.
    #[error("the dead letter of {stream:?} for event {first_sequence} is damaged: {problem}")]
    DeadLetterDamaged {
        /// The stream's name.
        stream: String,
        /// The first event that it stands for.
        first_sequence: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// An idempotency key stands for something that is no batch of the log (L6).
    #[error("the idempotency key {key:?} is damaged: {problem}")]
    IdempotencyKeyDamaged {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A cursor's row makes no sense.
    #[error("the cursor of {name:?} is damaged: {problem}")]
    CursorDamaged {
        /// The stream's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

//! What became of letters that were to be retried, as a table and as JSON.

use comfy_table::{Cell, CellAlignment, Color};
use millstream::{DeadLetter, RetryProgress};
use serde::Serialize;

use crate::columns::Columns;
use crate::failure::{Exit, Failure};
use crate::listing::{cut, printable};
use crate::output::{Format, Output};
use crate::tally::counted;

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    Handled,
    Failed,
    /// It was not tried, because an earlier one of its key failed, or the retry ended before.
    Waiting,
    /// Somebody dropped it meanwhile, or moved the stream before it.
    Gone,
}

/// A letter and what became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    first_sequence: u64,
    outcome: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

/// What became of all of them.
#[derive(Debug, Serialize)]
pub(crate) struct Retried {
    name: String,
    handled: u64,
    failed: u64,
    waiting: u64,
    letters: Vec<Line>,
}

impl Retried {
    /// There were no letters.
    pub(crate) fn nothing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            handled: 0,
            failed: 0,
            waiting: 0,
            letters: Vec::new(),
        }
    }

    /// Compares the letters that were meant with those that are left.
    pub(crate) fn new(
        name: &str,
        before: &[DeadLetter],
        after: &[DeadLetter],
        progress: &RetryProgress,
    ) -> Self {
        let mut letters: Vec<Line> = before
            .iter()
            .map(|letter| line(letter, after, progress))
            .collect();
        let is_known = |first: &&u64| before.iter().any(|letter| letter.first_sequence == **first);
        let came_meanwhile = progress.handled_first.iter().filter(|first| !is_known(first));
        letters.extend(came_meanwhile.map(|first| Line::new(*first, Fate::Handled)));
        letters.sort_by_key(|line| line.first_sequence);
        let waiting = letters.iter().filter(|line| line.outcome == Fate::Waiting);
        Self {
            name: name.to_owned(),
            handled: progress.handled,
            failed: progress.failed,
            waiting: waiting.count() as u64,
            letters,
        }
    }
}

impl Line {
    fn new(first_sequence: u64, outcome: Fate) -> Self {
        Self {
            first_sequence,
            outcome,
            attempts: None,
            cause: None,
        }
    }
}

fn line(letter: &DeadLetter, after: &[DeadLetter], progress: &RetryProgress) -> Line {
    let first_sequence = letter.first_sequence;
    // When the handler took the events before the one that it names, the letter begins later than it did.
    let left = after
        .iter()
        .find(|left| (letter.first_sequence..=letter.last_sequence).contains(&left.first_sequence));
    match left {
        None => {
            // Not all of very many are listed.
            let is_handled = progress.handled_first.contains(&first_sequence)
                || progress.handled > progress.handled_first.len() as u64;
            Line::new(
                first_sequence,
                if is_handled { Fate::Handled } else { Fate::Gone },
            )
        }
        Some(left) if left.attempts > letter.attempts => Line {
            attempts: Some(left.attempts),
            cause: left.cause.clone(),
            ..Line::new(left.first_sequence, Fate::Failed)
        },
        Some(_) => Line::new(first_sequence, Fate::Waiting),
    }
}

/// Tells it, and whether all is well.
pub(crate) fn tell(retried: &Retried, output: &mut Output) -> Result<Exit, Failure> {
    match output.format() {
        Format::Json => output.json(retried)?,
        Format::Text => {
            table(&retried.letters, output)?;
            output.line(&sum(retried))?;
        }
    }
    Ok(match retried.failed + retried.waiting {
        0 => Exit::Fine,
        _ => Exit::LettersLeft,
    })
}

fn sum(retried: &Retried) -> String {
    let Retried { name, letters, .. } = retried;
    if letters.is_empty() {
        return format!("{name:?} has no dead letter that waits");
    }
    let mut parts = vec![format!(
        "{} handled",
        counted(retried.handled, "dead letter", "dead letters")
    )];
    if retried.failed > 0 {
        parts.push(format!("{} failed again", retried.failed));
    }
    if retried.waiting > 0 {
        parts.push(format!("{} not tried", retried.waiting));
    }
    format!("{name:?}: {}", parts.join(", "))
}

fn table(letters: &[Line], output: &mut Output) -> Result<(), Failure> {
    if letters.is_empty() {
        return Ok(());
    }
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let width = output.width();
    let row = |line: &Line| {
        let (word, colour) = match line.outcome {
            Fate::Handled => ("handled", Color::Green),
            Fate::Failed => ("failed", Color::Red),
            Fate::Waiting => ("not tried", Color::Yellow),
            Fate::Gone => ("gone", Color::Yellow),
        };
        let cause = printable(line.cause.as_deref().unwrap_or_default());
        let cause = match width {
            Some(width) => cut(&cause, width),
            None => cause,
        };
        vec![
            number(line.first_sequence.to_string()),
            Cell::new(word).fg(colour),
            number(
                line.attempts
                    .map_or_else(String::new, |attempts| attempts.to_string()),
            ),
            Cell::new(cause),
        ]
    };
    let columns = Columns {
        titles: &["sequence", "outcome", "attempts", "cause"],
        expendable: &["attempts"],
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    output.listing(&columns, &rows)
}

//! `append`: lines of JSON become batches.

use std::num::NonZeroUsize;

use clap::Args;
use millstream::{AppendError, EventQuery, ExpectedContext, InvalidEvent, NewEvent, Store};
use serde_json::value::RawValue;

use crate::context::Context;
use crate::failure::{Exit, Failure, without_position};
use crate::lines::{Line, Lines};
use crate::output::Format;
use crate::query::QueryOptions;
use crate::tally::Tally;

/// Append events from the standard input, one line of JSON each
///
/// A line is {"type":"order-placed","payload":{"order":7},"tags":["order:7"],"metadata":{},"schema_version":1}, of which the last
/// three may be missing. A line that is an array of such objects is one batch. The log is made if it is not there.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Make one batch of this many lines
    #[arg(long, value_name = "LINES", default_value = "1")]
    batch: NonZeroUsize,
    /// Append the whole input as one batch, once: with a key that was used before nothing is appended, and the command tells where
    /// the events are. So it can be run again when nobody knows whether it got through
    #[arg(long, value_name = "KEY", conflicts_with = "batch")]
    key: Option<String>,
    /// Append the whole input as one batch, and only if no event that the options below select was appended since this
    /// command began; without them: no event at all
    #[arg(long, conflicts_with_all = ["batch", "expect"])]
    if_unchanged: bool,
    /// Append the whole input as one batch, and only if the newest event that the options below select has this sequence; 0:
    /// there is none. The command `context` tells it
    #[arg(long, value_name = "VERSION", conflicts_with = "batch")]
    expect: Option<u64>,
    #[command(flatten, next_help_heading = "The context, with --if-unchanged or --expect")]
    query: QueryOptions,
}

/// How the input is cut into batches, and how they are appended.
enum Plan {
    Batches {
        lines: usize,
    },
    Whole {
        key: Option<String>,
        condition: Option<Condition>,
    },
}

/// On what an append depends.
struct Condition {
    query: EventQuery,
    expected: ExpectedContext,
}

/// Events that become a batch, with the line that each comes from.
#[derive(Default)]
struct Draft {
    events: Vec<NewEvent>,
    lines: Vec<u64>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let is_conditional = arguments.if_unchanged || arguments.expect.is_some();
    if !is_conditional && !arguments.query.is_empty() {
        return Err(Failure::Usage(String::from(
            "--type, --tag and --payload describe the context of a condition; give --if-unchanged or --expect, too",
        )));
    }
    let store = context.open_or_make().await?;
    let expected = match arguments.expect {
        Some(version) => Some(ExpectedContext::version(version)),
        None if is_conditional => Some(ExpectedContext::nothing_after(store.head())),
        None => None,
    };
    let condition = expected.map(|expected| Condition {
        query: arguments.query.query(),
        expected,
    });
    let plan = match (arguments.key, condition) {
        (None, None) => Plan::Batches {
            lines: arguments.batch.get(),
        },
        (key, condition) => Plan::Whole { key, condition },
    };
    let mut tally = Tally::default();
    let appended = append(&store, &plan, Lines::of_stdin(), &mut tally).await;
    store.close().await?;
    appended.map_err(|failure| failure.after(format_args!("appended before: {tally}")))?;
    match context.output.format() {
        Format::Json => context.output.json(&tally)?,
        Format::Text => context.output.line(&format!("appended {tally}"))?,
    }
    Ok(Exit::Fine)
}

async fn append(store: &Store, plan: &Plan, mut input: Lines, tally: &mut Tally) -> Result<(), Failure> {
    let mut draft = Draft::default();
    while let Some(line) = input.next()? {
        let number = line.number;
        let is_batch = match plan {
            Plan::Batches { .. } if line.text.starts_with('[') => {
                commit(store, plan, &mut draft, tally).await?;
                true
            }
            _ => false,
        };
        draft.read(&line).map_err(|problem| {
            Failure::Failed(format!(
                "line {number}: {problem}; nothing of its batch was appended"
            ))
        })?;
        let is_full = matches!(plan, Plan::Batches { lines } if draft.lines.len() >= *lines);
        if is_batch || is_full {
            commit(store, plan, &mut draft, tally).await?;
        }
    }
    commit(store, plan, &mut draft, tally).await
}

/// Appends what was collected, if there is anything.
async fn commit(store: &Store, plan: &Plan, draft: &mut Draft, tally: &mut Tally) -> Result<(), Failure> {
    let Draft { events, lines } = std::mem::take(draft);
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return Ok(());
    };
    match made(store, plan, events, tally).await {
        Ok(()) => Ok(()),
        Err(AppendError::InvalidEvent { index, source }) => {
            let line = lines.get(index).unwrap_or(last);
            let problem = without_position(&source);
            let text = format!("line {line}: {problem}; nothing of its batch was appended");
            Err(Failure::Failed(text))
        }
        Err(error @ (AppendError::Conflict { .. } | AppendError::KeyReused { .. })) => Err(error.into()),
        Err(error) => Err(Failure::Failed(format!("lines {first} to {last}: {error}"))),
    }
}

/// Appends a batch as planned, and counts it.
async fn made(
    store: &Store,
    plan: &Plan,
    events: Vec<NewEvent>,
    tally: &mut Tally,
) -> Result<(), AppendError> {
    let Plan::Whole { key, condition } = plan else {
        tally.add(store.append(events).await?);
        return Ok(());
    };
    match (key, condition) {
        (None, None) => tally.add(store.append(events).await?),
        (None, Some(Condition { query, expected })) => {
            tally.add(store.append_if(events, query, *expected).await?);
        }
        (Some(key), None) => tally.add_once(store.append_once(key, events).await?),
        (Some(key), Some(Condition { query, expected })) => {
            let once = store.append_once_if(key, events, query, *expected).await?;
            tally.add_once(once);
        }
    }
    Ok(())
}

impl Draft {
    /// Adds what a line says: an event, or an array of some.
    fn read(&mut self, line: &Line) -> Result<(), String> {
        let said = |error: InvalidEvent| without_position(&error);
        if !line.text.starts_with('[') {
            self.events.push(NewEvent::from_json(&line.text).map_err(said)?);
            self.lines.push(line.number);
            return Ok(());
        }
        let elements: Vec<&RawValue> = serde_json::from_str(&line.text)
            .map_err(|error| format!("this is no array of events: {}", without_position(&error)))?;
        if elements.is_empty() {
            return Err(String::from("the array has no events; a batch has at least one"));
        }
        for (index, element) in elements.iter().enumerate() {
            let event = NewEvent::from_json(element.get())
                .map_err(|error| format!("event {index} of the array, from 0: {}", said(error)))?;
            self.events.push(event);
            self.lines.push(line.number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, String> {
        let mut draft = Draft::default();
        let line = Line {
            number: 3,
            text: text.to_owned(),
        };
        draft.read(&line).map(|()| draft.events.len())
    }

    #[test]
    fn a_line_is_an_event_or_some() {
        let event = r#"{"type":"a","payload":1}"#;
        assert_eq!(read(event), Ok(1));
        assert_eq!(read(&format!("[{event}, {event}]")), Ok(2));
        for (wrong, expected) in [
            ("[]", "at least one"),
            ("{}", "missing field `type` at column 2"),
            (r#"[{"type":"a"}]"#, "event 0 of the array"),
            (r#"{"type":"a","payload":1,"colour":2}"#, "unknown field `colour`"),
            ("[1", "no array"),
        ] {
            let problem = read(wrong).unwrap_err();
            assert!(problem.contains(expected), "{wrong}: {problem}");
        }
    }
}

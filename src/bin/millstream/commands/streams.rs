//! `streams`: all durable streams of the log, and what is wrong with them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};
use millstream::{Problem, Store, StreamHealth};
use serde::Serialize;

use crate::columns::Columns;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::output::{Format, Output};
use crate::problem;
use crate::standing::{self, Standing};
use crate::terminal;
use crate::time;

/// List the durable streams: state, cursor, lag, dead letters, and what is wrong with each
///
/// No stream runs in this process, so all are "not here": the owner is the process that runs a stream, and how many others stand by
/// to take it over. With --json also since when. See how fast the cursors move with --watch.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Look again every second, until Ctrl-C, and show how fast the cursors move
    #[arg(long)]
    watch: bool,
}

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The streams at one moment.
struct Look {
    taken_at: Instant,
    streams: Vec<StreamHealth>,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    standing: Standing<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_per_second: Option<f64>,
}

/// The cursors before, and how long ago that was.
struct Before {
    elapsed: Duration,
    cursors: HashMap<String, u64>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    match arguments.watch {
        true => watch(context).await?,
        false => {
            let store = context.open().await?;
            let look = Look::take(&store).await?;
            store.close().await?;
            show(&look, None, &mut context.output)?;
        }
    }
    Ok(Exit::Fine)
}

async fn watch(context: &mut Context) -> Result<(), Failure> {
    let mut interrupted = terminal::interruption().await;
    let store = context.open().await?;
    let output = &mut context.output;
    let mut last: Option<Look> = None;
    loop {
        let look = Look::take(&store).await?;
        match (output.format(), output.width()) {
            (Format::Text, Some(_)) => output.clear()?,
            (Format::Text, None) if last.is_some() => output.line("")?,
            _ => {}
        }
        let before = match &last {
            Some(last) => last.before(&look),
            None => Before::nothing(),
        };
        show(&look, Some(&before), output)?;
        output.flush()?;
        last = Some(look);
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            _ = &mut interrupted => break,
        }
    }
    store.close().await?;
    Ok(())
}

/// Writes the streams; with their rates, when it is said where they stood before.
fn show(look: &Look, before: Option<&Before>, output: &mut Output) -> Result<(), Failure> {
    if output.format() == Format::Json {
        for stream in &look.streams {
            output.json(&Line {
                standing: Standing::with_problems(stream),
                events_per_second: before.and_then(|before| before.rate(stream)),
            })?;
        }
        return Ok(());
    }
    if look.streams.is_empty() {
        terminal::say("the log knows no durable stream");
        return Ok(());
    }
    let mut titles = vec!["stream", "state", "owner", "cursor", "lag", "oldest", "letters"];
    if before.is_some() {
        titles.push("events/s");
    }
    titles.push("what is wrong");
    let columns = Columns {
        titles: &titles,
        expendable: &["oldest", "cursor", "owner", "events/s", "letters"],
    };
    let rows: Vec<_> = look.streams.iter().map(|stream| row(stream, before)).collect();
    output.listing(&columns, &rows)
}

fn row(stream: &StreamHealth, before: Option<&Before>) -> Vec<Cell> {
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let status = &stream.status;
    let oldest = status.oldest_unhandled.map(time::span);
    let mut cells = vec![
        Cell::new(printable(standing::name(status))).fg(Color::Cyan),
        Cell::new(standing::state_in_words(status)),
        Cell::new(standing::owner_in_words(status)),
        number(standing::cursor(status).to_string()),
        number(status.lag.to_string()),
        number(oldest.unwrap_or_default()),
        number(status.parked.to_string()),
    ];
    if let Some(before) = before {
        let rate = before.rate(stream).map(|rate| format!("{rate:.0}"));
        cells.push(number(rate.unwrap_or_else(|| String::from("-"))));
    }
    // What the state says needs no second mention.
    let problems = stream
        .problems
        .iter()
        .filter(|problem| !matches!(problem, Problem::Paused { .. } | Problem::Stopped(_)));
    let problems: Vec<String> = problems.map(problem::in_words).collect();
    cells.push(Cell::new(problems.join("; ")).fg(Color::Red));
    cells
}

impl Look {
    async fn take(store: &Store) -> Result<Self, Failure> {
        Ok(Self {
            streams: standing::all(store).await?,
            taken_at: Instant::now(),
        })
    }

    /// This look, as the one before another.
    fn before(&self, next: &Self) -> Before {
        let streams = self.streams.iter().map(|stream| &stream.status);
        Before {
            elapsed: next.taken_at.saturating_duration_since(self.taken_at),
            cursors: streams
                .map(|status| (standing::name(status).to_owned(), standing::cursor(status)))
                .collect(),
        }
    }
}

impl Before {
    fn nothing() -> Self {
        Self {
            elapsed: Duration::ZERO,
            cursors: HashMap::new(),
        }
    }

    /// How fast the cursor moved; nothing, when the stream was not seen before or was moved back.
    fn rate(&self, stream: &StreamHealth) -> Option<f64> {
        let before = self.cursors.get(standing::name(&stream.status))?;
        rate(*before, standing::cursor(&stream.status), self.elapsed)
    }
}

fn rate(before: u64, now: u64, elapsed: Duration) -> Option<f64> {
    let moved = now.checked_sub(before)?;
    (!elapsed.is_zero()).then(|| moved as f64 / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_the_cursor_moved_by_and_a_reset_has_none() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(10, 30, 2 * second), Some(10.0));
        assert_eq!(rate(10, 10, second), Some(0.0));
        assert_eq!(rate(10, 0, second), None);
        assert_eq!(rate(0, 10, Duration::ZERO), None);
    }
}

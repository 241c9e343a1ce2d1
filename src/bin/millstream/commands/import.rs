//! `import`: the lines of an export become batches again.

use std::path::{Path, PathBuf};

use clap::Args;
use millstream::{AppendError, Durability, NewEvent, Store};

use crate::context::Context;
use crate::failure::{Exit, Failure, without_position};
use crate::lines::{Line, Lines};
use crate::output::Format;
use crate::progress::{Progress, Unit};
use crate::record::{self, Place};
use crate::tally::Tally;

/// Append what `export` wrote: the same events in the same batches, with new sequences and times
///
/// The events are appended to what the log holds; it is made if it is not there.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to read [default: the standard input]
    file: Option<PathBuf>,
    /// Import each batch once: under the idempotency key KEY:LINE, with the line that it begins in. An import that was cut off is
    /// taken up again by the same command, and passes over what is there
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// A batch as it was exported.
struct Batch {
    events: Vec<NewEvent>,
    /// The line of each event.
    lines: Vec<u64>,
}

/// Cuts the input into batches.
struct Batches {
    input: Lines,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let input = match arguments.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            context.refuse_log_as_file(path)?;
            Lines::of_file(path)?
        }
        _ => Lines::of_stdin(),
    };
    let mut tally = Tally::default();
    let imported = import(context, input, arguments.key.as_deref(), &mut tally).await;
    imported.map_err(|failure| failure.after(format_args!("imported before: {tally}")))?;
    match context.output.format() {
        Format::Json => context.output.json(&tally)?,
        Format::Text => context.output.line(&format!("imported {tally}"))?,
    }
    Ok(Exit::Fine)
}

/// Appends batch after batch without a disk sync for each. The last one asks for a sync, which makes all before it durable too.
async fn import(
    context: &Context,
    input: Lines,
    key: Option<&str>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let store = context.open_for_import(Durability::Relaxed).await?;
    let (verb, total) = ("importing", input.total_bytes());
    let progress = match total {
        Some(total) => Progress::start(verb, Unit::Bytes, Some(total)),
        None => Progress::start(verb, Unit::Events, None),
    };
    let mut batches = Batches { input };
    let mut last = None;
    let outcome = loop {
        match batches.next() {
            Ok(Some(batch)) => {
                if let Some(batch) = last.replace(batch) {
                    append(&store, batch, key, tally).await?;
                }
            }
            Ok(None) => break Ok(()),
            // What came before it is imported, and durable.
            Err(failure) => break Err(failure),
        }
        progress.reached(match total {
            Some(_) => batches.input.bytes(),
            None => tally.events(),
        });
    };
    store.close().await?;
    if let Some(batch) = last {
        let store = context.open_for_import(Durability::Full).await?;
        append(&store, batch, key, tally).await?;
        store.close().await?;
    }
    outcome
}

async fn append(store: &Store, batch: Batch, key: Option<&str>, tally: &mut Tally) -> Result<(), Failure> {
    let Batch { events, lines } = batch;
    let first = lines.first().copied().unwrap_or(0);
    let appended = match key {
        None => store.append(events).await.map(|appended| tally.add(appended)),
        Some(key) => {
            let once = store.append_once(format!("{key}:{first}"), events).await;
            once.map(|once| tally.add_once(once))
        }
    };
    match appended {
        Ok(()) => Ok(()),
        Err(AppendError::InvalidEvent { index, source }) => {
            let line = lines.get(index).copied().unwrap_or(first);
            Err(refused(line, &without_position(&source)))
        }
        Err(error) => Err(refused(first, &error.to_string())),
    }
}

fn refused(line: u64, problem: &str) -> Failure {
    Failure::Failed(format!(
        "line {line}: {problem}; nothing of its batch was imported"
    ))
}

impl Batches {
    fn next(&mut self) -> Result<Option<Batch>, Failure> {
        let Some((line, event, place)) = self.read()? else {
            return Ok(None);
        };
        let mut batch = Batch {
            events: vec![event],
            lines: vec![line.number],
        };
        let Some(mut last) = place else {
            return Ok(Some(batch));
        };
        if last.sequence != last.batch_first_sequence {
            return Err(refused(line.number, &cut_off(last, last.batch_first_sequence)));
        }
        while last.sequence < last.batch_last_sequence {
            let (line, event, place) = match self.read()? {
                Some(read) => read,
                None => {
                    let number = batch.lines.last().copied().unwrap_or(0);
                    return Err(refused(number, &cut_off(last, last.sequence + 1)));
                }
            };
            match place {
                Some(place) if follows(last, place) => {
                    last = place;
                    batch.events.push(event);
                    batch.lines.push(line.number);
                }
                _ => return Err(refused(line.number, &cut_off(last, last.sequence + 1))),
            }
        }
        Ok(Some(batch))
    }

    fn read(&mut self) -> Result<Option<(Line, NewEvent, Option<Place>)>, Failure> {
        let Some(line) = self.input.next()? else {
            return Ok(None);
        };
        let (event, place) = record::read(&line.text).map_err(|problem| refused(line.number, &problem))?;
        Ok(Some((line, event, place)))
    }
}

/// Whether the second place is the next one of the same batch.
fn follows(one: Place, other: Place) -> bool {
    one.batch_first_sequence == other.batch_first_sequence
        && one.batch_last_sequence == other.batch_last_sequence
        && one.sequence + 1 == other.sequence
}

fn cut_off(place: Place, missing: u64) -> String {
    format!(
        "event {missing} of the batch {} to {} is missing: a batch is imported whole or not at all",
        place.batch_first_sequence, place.batch_last_sequence
    )
}

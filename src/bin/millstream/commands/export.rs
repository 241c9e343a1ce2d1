//! `export`: the log as lines of JSON.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures::TryStreamExt;
use millstream::{EventQuery, Store};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};
use crate::progress::{Progress, Unit};
use crate::range::{Range, RangeOptions};
use crate::record::Record;
use crate::tally::counted;
use crate::terminal;

/// Write events as lines of JSON, in whole batches, for `import` and for other programs
#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to write [default: the standard output]
    file: Option<PathBuf>,
    #[command(flatten)]
    range: RangeOptions,
}

/// What was written.
#[derive(Default, Serialize)]
struct Exported {
    events: u64,
    batches: u64,
    last_sequence: Option<u64>,
}

/// Where the lines go.
enum Target<'a> {
    Output(&'a mut Output),
    File(BufWriter<File>, &'a Path),
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let range = arguments.range.find(&store).await?;
    let target = match &arguments.file {
        Some(path) => Target::File(create(path, context)?, path),
        None => Target::Output(&mut context.output),
    };
    let exported = write(&store, range, target).await?;
    store.close().await?;
    let batches = counted(exported.batches, "batch", "batches");
    let summary = format!(
        "exported {} in {batches}",
        counted(exported.events, "event", "events")
    );
    match (&arguments.file, context.output.format()) {
        (Some(_), Format::Json) => context.output.json(&exported)?,
        (Some(_), Format::Text) => context.output.line(&summary)?,
        (None, _) => {
            context.output.flush()?;
            terminal::say(&summary);
        }
    }
    Ok(Exit::Fine)
}

/// Opens the file to write, which may be one already.
fn create(path: &Path, context: &Context) -> Result<BufWriter<File>, Failure> {
    context.refuse_log_as_file(path)?;
    if path.exists() {
        let question = format!("{} exists and would be overwritten", path.display());
        terminal::confirm(context.consent, &question)?;
    }
    let file = File::create(path).map_err(|error| unwritable(path, &error))?;
    Ok(BufWriter::new(file))
}

async fn write(store: &Store, range: Range, mut target: Target<'_>) -> Result<Exported, Failure> {
    let mut exported = Exported::default();
    if range.is_empty() {
        target.end()?;
        return Ok(exported);
    }
    let begin = range.after.unwrap_or(0);
    // A bar would be torn by lines in the same terminal.
    let has_bar = matches!(target, Target::File(..)) || !io::stdout().is_terminal();
    let progress = has_bar.then(|| Progress::start("exporting", Unit::Events, Some(range.through - begin)));
    let mut reader = range.read(store, &EventQuery::all());
    while let Some(batch) = reader.try_next().await? {
        for event in &batch {
            target.write(&Record::new(&batch, event)?)?;
            exported.events += 1;
        }
        exported.batches += 1;
        exported.last_sequence = Some(batch.last_sequence());
        if let Some(progress) = &progress {
            progress.reached(batch.last_sequence() - begin);
        }
    }
    target.end()?;
    Ok(exported)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} could not be written: {error}", path.display()))
}

impl Target<'_> {
    fn write(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        match self {
            Self::Output(output) => output.json(record),
            Self::File(file, path) => serde_json::to_writer(&mut *file, record)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|error| unwritable(path, &error)),
        }
    }

    /// Sees to it that all of it arrived.
    fn end(self) -> Result<(), Failure> {
        match self {
            Self::Output(output) => output.flush(),
            Self::File(mut file, path) => file
                .flush()
                .and_then(|()| file.get_ref().sync_all())
                .map_err(|error| unwritable(path, &error)),
        }
    }
}

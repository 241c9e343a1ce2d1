//! The command line `millstream`: looks at a log, appends to it, steers its streams, and keeps it in order, also while other processes use it.
//!
//! It knows nothing of the crate but its public API. In reading order: `arguments` (what can be said), `context` (what every
//! command has), `failure` (how a command ends), `output` and `terminal` (where it goes), `commands` (one file each), and what
//! they share: `help`, `query`, `range`, `time`, `record` (an event as a line of JSON), `listing` (events as lines of a table), `columns` (which of them fit), `standing`
//! (a stream in words and as JSON), `problem` (what is wrong with it), `letter` (a dead letter), `lines` (the input), `who`,
//! `tally`, `chart`, `progress`.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod chart;
mod columns;
mod commands;
mod context;
mod failure;
mod help;
mod letter;
mod lines;
mod listing;
mod models;
mod output;
mod problem;
mod progress;
mod query;
mod range;
mod record;
mod standing;
mod tally;
mod terminal;
mod time;
mod who;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;

use crate::arguments::Arguments;
use crate::context::Context;
use crate::failure::{Exit, Failure};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut context = Context::new(&arguments.common);
    let outcome = run(arguments, &mut context);
    let outcome = outcome.and_then(|exit| context.output.flush().map(|()| exit));
    match outcome {
        Ok(exit) => exit.into(),
        // Nobody reads any more: that is no failure of ours.
        Err(Failure::NobodyReads) => Exit::Fine.into(),
        Err(failure) => {
            terminal::complain(&failure, context.output.format());
            failure.exit().into()
        }
    }
}

fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime could not be started: {error}")))?;
    runtime.block_on(commands::run(arguments.command, context))
}

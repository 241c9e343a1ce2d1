//! The commands, a file each. A new one is a file with `Arguments` and `run`, a variant, and a line below.

mod append;
mod backup;
mod completions;
mod context;
mod dead_letters;
mod delete;
mod events;
mod export;
mod follow;
mod import;
mod pause;
mod rename;
mod reset;
mod resume;
mod skip;
mod stats;
mod stream;
mod streams;
mod verify;

use clap::Subcommand;

use crate::arguments::EXIT_CODES;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(after_help = EXIT_CODES)]
    Append(append::Arguments),
    #[command(after_help = EXIT_CODES)]
    Events(events::Arguments),
    #[command(after_help = EXIT_CODES)]
    Follow(follow::Arguments),
    #[command(after_help = EXIT_CODES)]
    Context(context::Arguments),
    #[command(after_help = EXIT_CODES)]
    Stats(stats::Arguments),
    #[command(after_help = EXIT_CODES)]
    Streams(streams::Arguments),
    #[command(after_help = EXIT_CODES)]
    Stream(stream::Arguments),
    #[command(after_help = EXIT_CODES)]
    Pause(pause::Arguments),
    #[command(after_help = EXIT_CODES)]
    Resume(resume::Arguments),
    #[command(after_help = EXIT_CODES)]
    Reset(reset::Arguments),
    #[command(after_help = EXIT_CODES)]
    Skip(skip::Arguments),
    #[command(after_help = EXIT_CODES)]
    Rename(rename::Arguments),
    #[command(after_help = EXIT_CODES)]
    Delete(delete::Arguments),
    #[command(after_help = EXIT_CODES)]
    DeadLetters(dead_letters::Arguments),
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Arguments),
    #[command(after_help = EXIT_CODES)]
    Export(export::Arguments),
    #[command(after_help = EXIT_CODES)]
    Import(import::Arguments),
    #[command(after_help = EXIT_CODES)]
    Backup(backup::Arguments),
    #[command(after_help = EXIT_CODES)]
    Completions(completions::Arguments),
}

/// Does what was asked for.
pub(crate) async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Append(arguments) => append::run(arguments, context).await,
        Command::Events(arguments) => events::run(arguments, context).await,
        Command::Follow(arguments) => follow::run(arguments, context).await,
        Command::Context(arguments) => self::context::run(arguments, context).await,
        Command::Stats(arguments) => stats::run(arguments, context).await,
        Command::Streams(arguments) => streams::run(arguments, context).await,
        Command::Stream(arguments) => stream::run(arguments, context).await,
        Command::Pause(arguments) => pause::run(arguments, context).await,
        Command::Resume(arguments) => resume::run(arguments, context).await,
        Command::Reset(arguments) => reset::run(arguments, context).await,
        Command::Skip(arguments) => skip::run(arguments, context).await,
        Command::Rename(arguments) => rename::run(arguments, context).await,
        Command::Delete(arguments) => delete::run(arguments, context).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments, context).await,
        Command::Verify(arguments) => verify::run(arguments, context).await,
        Command::Export(arguments) => export::run(arguments, context).await,
        Command::Import(arguments) => import::run(arguments, context).await,
        Command::Backup(arguments) => backup::run(arguments, context).await,
        Command::Completions(arguments) => completions::run(arguments, context),
    }
}

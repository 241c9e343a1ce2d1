//! The commands, a file each. A new one is a file with `Arguments` and `run`, a variant, and a line below.

mod append;
mod backup;
mod completions;
mod context;
mod events;
mod export;
mod follow;
mod import;
mod stats;
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
        Command::Verify(arguments) => verify::run(arguments, context).await,
        Command::Export(arguments) => export::run(arguments, context).await,
        Command::Import(arguments) => import::run(arguments, context).await,
        Command::Backup(arguments) => backup::run(arguments, context).await,
        Command::Completions(arguments) => completions::run(arguments, context),
    }
}

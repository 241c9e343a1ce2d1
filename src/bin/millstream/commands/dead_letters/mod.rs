//! `dead-letters`: what a stream set aside, a file for each thing that can be done with it.

mod drop;
mod list;
mod outcome;
mod retry;
mod show;

use clap::{Args, Subcommand};

use crate::arguments::EXIT_CODES;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// List, show, retry and drop what a stream set aside instead of handling it
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(after_help = EXIT_CODES)]
    List(list::Arguments),
    #[command(after_help = EXIT_CODES)]
    Show(show::Arguments),
    #[command(after_help = EXIT_CODES)]
    Retry(retry::Arguments),
    #[command(after_help = EXIT_CODES)]
    Drop(drop::Arguments),
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    match arguments.command {
        Command::List(arguments) => list::run(arguments, context).await,
        Command::Show(arguments) => show::run(arguments, context).await,
        Command::Retry(arguments) => retry::run(arguments, context).await,
        Command::Drop(arguments) => drop::run(arguments, context).await,
    }
}

//! `dead-letters`: what a stream set aside, a file for each thing that can be done with it.

mod drop;
mod list;
mod outcome;
mod retry;
mod show;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::help::{examples, exit_codes};

/// List, show, retry and drop what a stream set aside instead of handling it
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(after_help = examples![
        "millstream dead-letters list ledger",
        "millstream dead-letters list ledger --json | jq .cause"
    ])]
    List(list::Arguments),
    #[command(after_help = examples![
        "millstream dead-letters show ledger 4"
    ])]
    Show(show::Arguments),
    #[command(after_help = examples![
        "millstream dead-letters retry ledger 4 --by anna",
        "millstream dead-letters retry ledger --key account:7 --by anna",
        "millstream dead-letters retry ledger --all --by anna --timeout 60"
    ])]
    Retry(retry::Arguments),
    #[command(after_help = examples![
        "millstream dead-letters drop ledger 4 --reason booked-by-hand",
        "millstream dead-letters drop ledger --all --reason test-data"
    ])]
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

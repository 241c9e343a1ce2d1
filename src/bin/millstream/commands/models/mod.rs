//! `models`: the read models of a program, a file for each thing that can be done with them.

mod ask;
mod cancel;
mod list;
mod promote;
mod rebuild;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use millstream::ReadModels;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::help::{examples, exit_codes};
use crate::models::Models;

/// List, rebuild and promote the read models that a program keeps
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Which read models.
#[derive(Args)]
struct Where {
    /// The file of read models, as the program gives it to `ReadModels::open`; without one, those on the log's server
    #[arg(long, env = "MILLSTREAM_MODELS", value_name = "PATH")]
    models: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    #[command(after_help = examples![
        "millstream models list --models views.db",
        "millstream models list --json | jq 'select(.is_serving)'",
        "MILLSTREAM_DB=postgres://shop@localhost/shop millstream models list"
    ])]
    List(list::Arguments),
    #[command(after_help = examples![
        "millstream models rebuild balances --models views.db",
        "millstream models rebuild balances --no-wait"
    ])]
    Rebuild(rebuild::Arguments),
    #[command(after_help = examples![
        "millstream models promote balances"
    ])]
    Promote(promote::Arguments),
    #[command(after_help = examples![
        "millstream models cancel balances"
    ])]
    Cancel(cancel::Arguments),
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    match arguments.command {
        Command::List(arguments) => list::run(arguments, context).await,
        Command::Rebuild(arguments) => rebuild::run(arguments, context).await,
        Command::Promote(arguments) => promote::run(arguments, context).await,
        Command::Cancel(arguments) => cancel::run(arguments, context).await,
    }
}

impl Where {
    #[cfg_attr(
        not(feature = "postgres"),
        expect(
            unused_variables,
            clippy::unused_async,
            reason = "without servers there are files alone"
        )
    )]
    async fn open(&self, context: &Context) -> Result<Models, Failure> {
        if let Some(path) = &self.models {
            return Ok(Models::Files(ReadModels::open_existing(path)?));
        }
        #[cfg(feature = "postgres")]
        if context.is_on_server()? {
            let store = context.open().await?;
            return Ok(Models::Server(millstream::ServerModels::of(&store)?));
        }
        Err(Failure::Usage(String::from(
            "which read models? give --models PATH, or set the variable MILLSTREAM_MODELS; those on a server are found with --db ADDRESS",
        )))
    }
}

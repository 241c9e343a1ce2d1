//! What can be said on the command line, whatever the command.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::commands::Command;
use crate::help::exit_codes;

/// Looks at a millstream log, appends to it, steers its streams, and keeps it in order, also while other processes use it.
#[derive(Parser)]
#[command(name = "millstream", version, propagate_version = true, after_help = exit_codes!(), max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args)]
pub(crate) struct Common {
    /// The file of the log, or the address of a PostgreSQL server
    #[arg(
        long,
        visible_alias = "store",
        global = true,
        env = "MILLSTREAM_DB",
        hide_env_values = true,
        value_name = "PATH"
    )]
    pub(crate) db: Option<PathBuf>,
    /// Write JSON: one object, or one line for each event
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Do not ask before something is overwritten, moved, skipped or removed
    #[arg(long, short = 'y', global = true)]
    pub(crate) yes: bool,
}

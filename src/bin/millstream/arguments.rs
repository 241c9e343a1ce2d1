//! What can be said on the command line, whatever the command.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::commands::Command;

/// Exit codes, as every help page ends with them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when nobody reads the output any more
  1  failed; the reason is on the standard error
  2  the command line makes no sense
  3  conflict: the context of the append or the cursor of the stream moved, nothing was changed
  4  the verification found damage
  5  dead letters failed again, or were not tried because an earlier one failed
  6  no process runs the stream: nothing was retried, and no request is left
  7  the retry goes on, and is not waited for any longer";

/// Looks at a millstream log, appends to it, steers its streams, and keeps it in order, also while other processes use it.
#[derive(Parser)]
#[command(name = "millstream", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args)]
pub(crate) struct Common {
    /// The file of the log
    #[arg(long, global = true, env = "MILLSTREAM_DB", value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,
    /// Write JSON: one object, or one line for each event
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Do not ask before something is overwritten, moved, skipped or removed
    #[arg(long, short = 'y', global = true)]
    pub(crate) yes: bool,
}

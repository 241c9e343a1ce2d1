//! `completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::arguments;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Write the completions of the command line for a shell
#[derive(Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let mut command = arguments::Arguments::command();
    let name = command.get_name().to_owned();
    generate(arguments.shell, &mut command, name, &mut script);
    context.output.bytes(&script)?;
    Ok(Exit::Fine)
}

//! `resume`: a paused stream goes on.

use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::standing::{self, Standing};

/// Let a paused stream go on where it stopped
///
/// A batch that failed before is tried anew. A stream that is not paused stays as it is.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let control = store.stream(&arguments.name).await?;
    control.resume().await?;
    let status = control.status().await?;
    store.close().await?;
    let (name, cursor) = (&arguments.name, standing::cursor(&status));
    context.output.tell(&Standing::new(&status), || {
        format!("{name:?} is not paused, and goes on after {cursor}")
    })?;
    Ok(Exit::Fine)
}

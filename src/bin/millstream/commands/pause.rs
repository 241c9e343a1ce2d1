//! `pause`: a stream is to rest.

use clap::Args;
use millstream::{StreamState, StreamStatus};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::standing::{self, Standing};
use crate::time;
use crate::who::Who;

/// Let no handler call of a stream begin any more, wherever it runs, until `resume`; also after restarts
///
/// A call that is under way comes to its end. A stream that is paused already stays so, in the name of who was first.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    #[command(flatten)]
    who: Who,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let control = store.stream(&arguments.name).await?;
    control.pause(&arguments.who.by).await?;
    let status = control.status().await?;
    store.close().await?;
    context
        .output
        .tell(&Standing::new(&status), || told(&status, &arguments.who.by))?;
    Ok(Exit::Fine)
}

fn told(status: &StreamStatus, by: &str) -> String {
    let name = standing::name(status);
    let cursor = standing::cursor(status);
    match &status.state {
        StreamState::Paused { by: first, since } => {
            let already = if first == by {
                ""
            } else {
                "; it was paused already"
            };
            let (first, since) = (printable(first), time::to_the_second(*since));
            format!("{name:?} is paused by {first} since {since} UTC, at {cursor}{already}")
        }
        _ => format!("{name:?} was paused, and somebody has resumed it since"),
    }
}

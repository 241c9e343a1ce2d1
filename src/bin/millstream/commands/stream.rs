//! `stream`: everything that the log knows of one durable stream.

use clap::Args;
use millstream::{StreamHealth, StreamState};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::output::{Format, Output, Tone};
use crate::problem;
use crate::standing::{self, Standing};
use crate::time;

/// Tell everything that the log knows of one durable stream
///
/// What only the process knows that runs it, such as its last error, stands in the status there.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let stream = standing::one(&store, &arguments.name).await?;
    store.close().await?;
    match context.output.format() {
        Format::Json => context.output.json(&Standing::with_problems(&stream))?,
        Format::Text => tell(&stream, &mut context.output)?,
    }
    Ok(Exit::Fine)
}

fn tell(stream: &StreamHealth, output: &mut Output) -> Result<(), Failure> {
    let status = &stream.status;
    let name = output.paint(Tone::Name, &printable(standing::name(status)));
    output.field("stream", &name)?;
    let since = match &status.state {
        StreamState::Paused { since, .. } => format!(" since {} UTC", time::to_the_second(*since)),
        StreamState::NotHere if status.owner.is_some() => String::from(": run by another process"),
        StreamState::NotHere => String::from(": run by nobody"),
        _ => String::new(),
    };
    output.field("state", &format!("{}{since}", standing::state_in_words(status)))?;
    for (title, claimants) in [
        ("owner", status.owner.as_slice()),
        ("stands by", &status.standbys),
    ] {
        for claimant in claimants {
            let since = time::to_the_second(claimant.since);
            let host = printable(&claimant.host);
            output.field(
                title,
                &format!("process {} on {host} since {since} UTC", claimant.process),
            )?;
        }
    }
    let cursor = standing::cursor(status);
    let stored = time::span(status.still_for);
    output.field("cursor", &format!("{cursor}, stored {stored} ago"))?;
    output.field("head", &status.head.to_string())?;
    output.field("lag", &status.lag.to_string())?;
    if let Some(age) = status.oldest_unhandled {
        output.field("oldest unhandled", &format!("{} old", time::span(age)))?;
    }
    let letters = format!("{} wait, {} skipped", status.parked, status.skipped);
    output.field("dead letters", &letters)?;
    if stream.problems.is_empty() {
        let well = output.paint(Tone::Good, "nothing");
        output.field("what is wrong", &well)?;
    }
    for problem in &stream.problems {
        let problem = output.paint(Tone::Bad, &problem::in_words(problem));
        output.field("what is wrong", &problem)?;
    }
    Ok(())
}

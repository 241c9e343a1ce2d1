//! `delete`: a stream is forgotten.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::standing;
use crate::tally::counted;
use crate::terminal;

/// Remove a stream: its cursor and its dead letters are gone, no event is
///
/// A stream that runs stops. Registered again, it is a new one.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let control = store.stream(&arguments.name).await?;
    let status = control.status().await?;
    let (name, cursor) = (&arguments.name, standing::cursor(&status));
    let letters = status.parked + status.skipped;
    let letters = counted(letters, "dead letter", "dead letters");
    let question = format!("the stream {name:?} is removed, with its cursor, {cursor}, and {letters}");
    terminal::confirm(context.consent, &question)?;
    control.delete().await?;
    store.close().await?;
    context
        .output
        .tell(&json!({ "name": name, "cursor_before": cursor }), || {
            format!("deleted {name:?}, whose cursor stood at {cursor}")
        })?;
    Ok(Exit::Fine)
}

//! `skip`: a stream leaves out one batch.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::standing;
use crate::terminal;
use crate::who::Who;

/// Pass over the one batch that a stream is given next, which is the one that fails; it is not handled
///
/// Only if the cursor stands where it is expected; otherwise the exit code is 3. A dead letter in the state `skipped` records which
/// events were left out, and who did it.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// Where the cursor stands now [default: where it is found, as the question shows it]
    #[arg(long, value_name = "CURSOR")]
    expect: Option<u64>,
    #[command(flatten)]
    who: Who,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let control = store.stream(&arguments.name).await?;
    let found = standing::cursor(&control.status().await?);
    let name = &arguments.name;
    let question = format!(
        "the batch that {name:?} is given next, after its cursor {found}, is left out and never handled"
    );
    terminal::confirm(context.consent, &question)?;
    let expected = arguments.expect.unwrap_or(found);
    let skipped = control.skip_batch(expected, &arguments.who.by).await?;
    store.close().await?;
    let (first, last) = (skipped.first_sequence, skipped.last_sequence);
    let told = json!({
        "name": name,
        "first_sequence": first,
        "last_sequence": last,
        "cursor_before": expected,
        "cursor": last,
    });
    context.output.tell(&told, || {
        format!(
            "{name:?} skipped the batch from {first} to {last}, and goes on after {last}; `dead-letters list` records it"
        )
    })?;
    Ok(Exit::Fine)
}

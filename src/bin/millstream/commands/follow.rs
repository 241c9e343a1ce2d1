//! `follow`: events as they are committed, by whomever.

use clap::Args;
use futures::TryStreamExt;

use crate::commands::events::Shown;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::query::QueryOptions;
use crate::terminal;

/// Show events as they are committed, also by other processes, until Ctrl-C
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    query: QueryOptions,
    /// Begin with what comes after this sequence; 0: with the first event [default: with what is committed from now on]
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// End after so many events
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let mut interrupted = terminal::interruption().await;
    let store = context.open().await?;
    let head = store.head();
    let after = arguments.after.unwrap_or(head);
    if context.output.format() == Format::Text {
        terminal::say(&format!("what comes after {after}; Ctrl-C ends it"));
    }
    let mut reader = store.follow(&arguments.query.query()).after(after);
    let mut shown = Shown::new(&mut context.output, head);
    shown.heading()?;
    shown.flush()?;
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let batch = tokio::select! {
            batch = reader.try_next() => batch?,
            _ = &mut interrupted => break,
        };
        let Some(batch) = batch else {
            break;
        };
        for event in &batch {
            if left == 0 {
                break;
            }
            left -= 1;
            shown.event(&batch, event)?;
        }
        shown.flush()?;
    }
    drop(reader);
    store.close().await?;
    Ok(Exit::Fine)
}

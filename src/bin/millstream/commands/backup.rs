//! `backup`: a copy of the log while it is in use.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::chart;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::progress::{Progress, Unit};

/// Copy the log into a new file, while other processes write to it
///
/// The copy is the log as it was when the command began. A target that is there is a whole backup.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to make; there must be none
    target: PathBuf,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let progress = Progress::start("copying", Unit::Bytes, Some(0));
    let shown = progress.share();
    let backed_up = store
        .backup_with_progress(&arguments.target, move |step| {
            shown.out_of(step.total_bytes);
            shown.reached(step.copied_bytes);
        })
        .await;
    drop(progress);
    let backed_up = backed_up?;
    store.close().await?;
    let target = arguments.target.display();
    match context.output.format() {
        Format::Json => context.output.json(&json!({
            "target": target.to_string(),
            "head": backed_up.head,
            "bytes": backed_up.bytes,
        }))?,
        Format::Text => context.output.line(&format!(
            "copied the log through {} to {target}, {}",
            backed_up.head,
            chart::bytes(backed_up.bytes)
        ))?,
    }
    Ok(Exit::Fine)
}

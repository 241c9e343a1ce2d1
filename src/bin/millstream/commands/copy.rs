//! `copy`: the log moves to another place.

use std::ffi::OsString;

use clap::Args;
use millstream::{Copied, CopyPhase, LogLocation, Store};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::progress::{Progress, Unit};
use crate::tally::counted;

/// Copy a log with cursors, dead letters, pauses and idempotency keys: a move
///
/// The copy is the same log at another place, with its id, sequences and times. Both sides are compared before the target becomes a
/// log. A copy that was cut off goes on where it was when the same command is given again. Other processes may use the source
/// meanwhile; what they append after the end was read is not in the copy.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The log to copy, which has to be there
    source: OsString,
    /// The file to make: there must be none, or what this command left when it was cut off
    target: OsString,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let source = LogLocation::parse(&arguments.source)?;
    let store = Store::builder().must_exist().open_at(&source).await?;
    let progress = Progress::start(verb(CopyPhase::Copying), Unit::Events, Some(0));
    let shown = progress.share();
    let copied = store
        .copy_with_progress(&arguments.target, move |step| {
            shown.does(verb(step.phase));
            shown.out_of(step.total_sequences);
            shown.reached(step.done_sequences);
        })
        .await;
    drop(progress);
    let copied = copied?;
    store.close().await?;
    // Without a password.
    let target = LogLocation::parse(&arguments.target)?.to_string();
    match context.output.format() {
        Format::Json => context.output.json(&as_json(&target, &copied))?,
        Format::Text => context.output.line(&in_words(&target, &copied))?,
    }
    Ok(Exit::Fine)
}

fn verb(phase: CopyPhase) -> &'static str {
    match phase {
        CopyPhase::Verifying => "verifying",
        _ => "copying",
    }
}

fn as_json(target: &str, copied: &Copied) -> Value {
    json!({
        "target": target,
        "log_id": copied.log_id,
        "head": copied.head,
        "pruned_through": copied.pruned_through,
        "events": copied.events,
        "batches": copied.batches,
        "streams": copied.streams,
        "dead_letters": copied.dead_letters,
        "idempotency_keys": copied.idempotency_keys,
        "checksum": format!("{:032x}", copied.checksum),
        "resumed_after": copied.resumed_after,
    })
}

fn in_words(target: &str, copied: &Copied) -> String {
    let resumed = match copied.resumed_after {
        Some(after) => format!(", gone on after {after}"),
        None => String::new(),
    };
    let mut held = vec![format!(
        "{} in {}",
        counted(copied.events, "event", "events"),
        counted(copied.batches, "batch", "batches")
    )];
    for (count, one, many) in [
        (copied.streams, "stream", "streams"),
        (copied.dead_letters, "dead letter", "dead letters"),
        (copied.idempotency_keys, "idempotency key", "idempotency keys"),
    ] {
        if count > 0 {
            held.push(counted(count, one, many));
        }
    }
    format!(
        "copied the log through {} to {target}{resumed}: {}; both sides have the checksum {:032x}",
        copied.head,
        held.join(", "),
        copied.checksum
    )
}

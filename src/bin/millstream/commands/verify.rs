//! `verify`: whether the file is sound.

use clap::Args;
use millstream::{LogLocation, OpenError, Store, Verification};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::output::{Format, Output, Tone};
use crate::tally::counted;

/// Check every invariant of the file, and say what is broken; nothing is changed
///
/// The exit code is 4 when something is broken, and 1 when the file cannot be looked at: it is not there, is no log, is newer than
/// this program, or may not be opened. Every event is read once, in one snapshot: for a large log that is written to,
/// verify a backup instead.
#[derive(Args)]
pub(crate) struct Arguments {}

/// The verification, and what it comes to.
#[derive(Serialize)]
struct Told<'a> {
    is_sound: bool,
    #[serde(flatten)]
    verification: &'a Verification,
}

pub(crate) async fn run(_: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = open(&context.location()?).await?;
    let verification = store.verify().await?;
    store.close().await?;
    let is_sound = verification.is_sound();
    match context.output.format() {
        Format::Json => context.output.json(&Told {
            is_sound,
            verification: &verification,
        })?,
        Format::Text => tell(&verification, &mut context.output)?,
    }
    Ok(if is_sound { Exit::Fine } else { Exit::Damaged })
}

/// A log that SQLite cannot open because of damage is a finding, and not a wrong path.
async fn open(location: &LogLocation) -> Result<Store, Failure> {
    match Store::builder().must_exist().open_at(location).await {
        Err(OpenError::Storage(error)) if error.is_damage() => Err(Failure::Damaged(format!(
            "{location} is damaged, it cannot even be opened: {error}; restore a backup"
        ))),
        opened => Ok(opened?),
    }
}

fn tell(verification: &Verification, output: &mut Output) -> Result<(), Failure> {
    for finding in &verification.findings {
        let kind = output.paint(Tone::Bad, "damaged:");
        output.line(&format!("{kind} {}", printable(&finding.to_string())))?;
    }
    let listed = verification.findings.len() as u64;
    if verification.findings_count > listed {
        output.line(&format!("and {} more", verification.findings_count - listed))?;
    }
    let verdict = match verification.findings_count {
        0 => output.paint(Tone::Good, "sound"),
        count => output.paint(Tone::Bad, &counted(count, "finding", "findings")),
    };
    let mut looked_at = vec![
        counted(verification.events, "event", "events"),
        counted(verification.batches, "batch", "batches"),
        counted(verification.index_entries, "index entry", "index entries"),
        counted(verification.cursors, "cursor", "cursors"),
    ];
    if verification.idempotency_keys > 0 {
        looked_at.push(counted(
            verification.idempotency_keys,
            "idempotency key",
            "idempotency keys",
        ));
    }
    if verification.removed_events > 0 {
        looked_at.push(format!("{} removed by hand", verification.removed_events));
    }
    if verification.pruned_through > 0 {
        looked_at.push(format!("pruned through {}", verification.pruned_through));
    }
    output.line(&format!("{verdict}; looked at {}", looked_at.join(", ")))
}

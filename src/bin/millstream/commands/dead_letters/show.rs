//! `dead-letters show`: one letter, and the events that it stands for.

use clap::Args;
use millstream::{DeadLetter, EventBatch, EventRecord};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::letter::LetterRecord;
use crate::listing::printable;
use crate::output::{Format, Output, Tone};
use crate::record::Record;
use crate::tally::counted;
use crate::time;

/// Show one dead letter, and the events that it stands for with their payloads
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// The sequence with which the letter begins, as `list` has it
    sequence: u64,
}

/// The letter as one object.
#[derive(Serialize)]
struct Told<'a> {
    letter: LetterRecord<'a>,
    events: Vec<Record<'a>>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    store.stream(&arguments.name).await?;
    let letters = store.dead_letters(&arguments.name);
    let (letter, batch) = letters.show(arguments.sequence).await?;
    store.close().await?;
    match context.output.format() {
        Format::Json => {
            let events = batch.iter().map(|event| Record::new(&batch, event));
            context.output.json(&Told {
                letter: LetterRecord::new(&letter),
                events: events.collect::<Result<_, _>>()?,
            })?;
        }
        Format::Text => tell(&letter, &batch, &mut context.output)?,
    }
    Ok(Exit::Fine)
}

fn tell(letter: &DeadLetter, batch: &EventBatch, output: &mut Output) -> Result<(), Failure> {
    let (first, last) = (letter.first_sequence, letter.last_sequence);
    let events = counted(letter.event_count(), "event", "events");
    output.field("dead letter", &format!("{first} to {last}, {events}"))?;
    output.field("state", letter.state.as_str())?;
    if let Some(key) = &letter.key {
        output.field("key", &printable(key))?;
    }
    if let Some(category) = letter.category {
        output.field("failure", category.as_str())?;
    }
    if let Some(cause) = &letter.cause {
        let cause = output.paint(Tone::Bad, &printable(cause));
        output.field("cause", &cause)?;
    }
    output.field("attempts", &letter.attempts.to_string())?;
    for (name, moment) in [
        ("first failed", letter.first_failed_at),
        ("last failed", letter.last_failed_at),
        ("set aside", Some(letter.parked_at)),
    ] {
        if let Some(moment) = moment {
            output.field(name, &format!("{} UTC", time::to_the_second(moment)))?;
        }
    }
    batch.iter().try_for_each(|event| tell_event(event, output))
}

/// An event in full: here somebody wants to know what is wrong with it.
fn tell_event(event: &EventRecord, output: &mut Output) -> Result<(), Failure> {
    output.line("")?;
    output.field("event", &event.sequence().to_string())?;
    let event_type = output.paint(Tone::Name, &printable(event.event_type()));
    output.field("type", &event_type)?;
    let recorded_at = time::to_the_second(event.recorded_at());
    output.field("recorded", &format!("{recorded_at} UTC"))?;
    let tags: Vec<&str> = event.tags().collect();
    if !tags.is_empty() {
        output.field("tags", &printable(&tags.join(" ")))?;
    }
    output.field("payload", &printable(event.payload().as_str()))?;
    if let Some(metadata) = event.metadata() {
        output.field("metadata", &printable(metadata.as_str()))?;
    }
    Ok(())
}

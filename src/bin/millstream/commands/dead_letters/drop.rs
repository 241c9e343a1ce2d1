//! `dead-letters drop`: letters are removed without being handled.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures::TryStreamExt;
use millstream::{DeadLetter, DeadLetterError, DeadLetters};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::tally::counted;
use crate::terminal;

/// Remove dead letters without handling them; with the last letter of a key the key is free
///
/// The events stay in the log. The reason is written with the result, and kept nowhere else.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// The sequence with which the letter begins, as `list` has it
    #[arg(required_unless_present = "all")]
    sequence: Option<u64>,
    /// All letters of the stream that are there when the question is asked
    #[arg(long, conflicts_with = "sequence")]
    all: bool,
    /// Why they need not be handled
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let Arguments { name, reason, .. } = &arguments;
    let store = context.open().await?;
    store.stream(name).await?;
    let letters = store.dead_letters(name);
    let chosen = choose(&letters, &arguments).await?;
    let mut dropped = 0_u64;
    if !chosen.is_empty() {
        terminal::confirm(context.consent, &question(name, &chosen))?;
    }
    for letter in &chosen {
        match letters.discard(letter.first_sequence, reason).await {
            Ok(()) => dropped += 1,
            // It was handled meanwhile, or somebody else dropped it.
            Err(DeadLetterError::NotFound { .. }) => {}
            Err(error) => {
                let done = counted(dropped, "letter was", "letters were");
                return Err(Failure::from(error).after(format_args!("{done} dropped before")));
            }
        }
    }
    store.close().await?;
    let told = json!({ "name": name, "dropped": dropped, "reason": reason });
    context.output.tell(&told, || {
        let dropped = counted(dropped, "dead letter", "dead letters");
        format!("dropped {dropped} of {name:?}: {}", printable(reason))
    })?;
    Ok(Exit::Fine)
}

/// The letters that are meant.
async fn choose(letters: &DeadLetters, arguments: &Arguments) -> Result<Vec<DeadLetter>, Failure> {
    let mut chosen: Vec<DeadLetter> = letters.list().try_collect().await?;
    let Some(first_sequence) = arguments.sequence else {
        return Ok(chosen);
    };
    chosen.retain(|letter| letter.first_sequence == first_sequence);
    if chosen.is_empty() {
        let stream = arguments.name.clone();
        let error = DeadLetterError::NotFound {
            stream,
            first_sequence,
        };
        return Err(error.into());
    }
    Ok(chosen)
}

fn question(name: &str, chosen: &[DeadLetter]) -> String {
    let events = chosen.iter().map(DeadLetter::event_count).sum();
    let events = counted(events, "event", "events");
    match chosen {
        [letter] => format!(
            "the dead letter {} of {name:?}, {events}, is removed without being handled",
            letter.first_sequence
        ),
        letters => format!(
            "{} dead letters of {name:?}, {events}, are removed without being handled",
            letters.len()
        ),
    }
}

//! `dead-letters list`: the letters of a stream, a row each.

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};
use futures::TryStreamExt;
use millstream::{DeadLetter, FailureCategory};

use crate::columns::Columns;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::letter::LetterRecord;
use crate::listing::{cut, printable};
use crate::output::{Format, Output};
use crate::terminal;
use crate::time;

/// List the dead letters of a stream, in the order of the log
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let name = &arguments.name;
    // An unknown name has no letters either, and is told from one that has none.
    store.stream(name).await?;
    let letters: Vec<DeadLetter> = store.dead_letters(name).list().try_collect().await?;
    store.close().await?;
    match context.output.format() {
        Format::Json => {
            for letter in &letters {
                context.output.json(&LetterRecord::new(letter))?;
            }
        }
        Format::Text if letters.is_empty() => terminal::say(&format!("{name:?} has no dead letter")),
        Format::Text => table(&letters, &mut context.output)?,
    }
    Ok(Exit::Fine)
}

fn table(letters: &[DeadLetter], output: &mut Output) -> Result<(), Failure> {
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let titles = [
        "sequence", "events", "state", "key", "failure", "attempts", "parked", "cause",
    ];
    let width = output.width();
    let row = |letter: &DeadLetter| {
        let cause = printable(letter.cause.as_deref().unwrap_or_default());
        let cause = match width {
            Some(width) => cut(&cause, width),
            None => cause,
        };
        vec![
            number(letter.first_sequence.to_string()),
            number(letter.event_count().to_string()),
            Cell::new(letter.state.as_str()),
            Cell::new(printable(letter.key.as_deref().unwrap_or_default())),
            Cell::new(letter.category.map_or("", FailureCategory::as_str)),
            number(letter.attempts.to_string()),
            Cell::new(time::to_the_second(letter.parked_at)),
            Cell::new(cause).fg(Color::Red),
        ]
    };
    let columns = Columns {
        titles: &titles,
        expendable: &["parked", "events", "attempts", "failure", "key"],
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    output.listing(&columns, &rows)
}

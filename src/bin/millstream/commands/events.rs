//! `events`: what a query selects, as lines.

use clap::Args;
use futures::TryStreamExt;
use millstream::{EventBatch, EventQuery, EventRecord, ReadError, Store};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::Listing;
use crate::output::{Format, Output};
use crate::query::QueryOptions;
use crate::range::{Range, RangeOptions};
use crate::record::Record;
use crate::terminal;

/// List events, selected by type, tag, payload, sequence and time
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    query: QueryOptions,
    #[command(flatten)]
    range: RangeOptions,
    /// At most so many events
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
    /// The newest first
    #[arg(long, short = 'r')]
    reverse: bool,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let range = arguments.range.find(&store).await?;
    let query = arguments.query.query();
    let limit = arguments.limit.unwrap_or(u64::MAX);
    let mut shown = Shown::new(&mut context.output, range.through);
    match arguments.reverse {
        true => {
            newest_first(&store, &query, range, limit, |batch, event| {
                shown.event(batch, event)
            })
            .await?
        }
        false => oldest_first(&store, &query, range, limit, &mut shown).await?,
    }
    shown.end();
    store.close().await?;
    Ok(Exit::Fine)
}

/// Writes events as they come.
pub(super) struct Shown<'a> {
    output: &'a mut Output,
    listing: Listing,
    is_empty: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(output: &'a mut Output, last_sequence: u64) -> Self {
        let listing = Listing::new(output.colours(), output.width(), last_sequence);
        Self {
            output,
            listing,
            is_empty: true,
        }
    }

    pub(super) fn heading(&mut self) -> Result<(), Failure> {
        if self.output.format() == Format::Text {
            self.output.line(&self.listing.heading())?;
        }
        self.is_empty = false;
        Ok(())
    }

    pub(super) fn event(&mut self, batch: &EventBatch, event: &EventRecord) -> Result<(), Failure> {
        if self.is_empty {
            self.heading()?;
        }
        match self.output.format() {
            Format::Json => self.output.json(&Record::new(batch, event)?),
            Format::Text => self.output.line(&self.listing.row(event)),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush()
    }

    fn end(self) {
        if self.is_empty && self.output.format() == Format::Text {
            terminal::say("no event is selected");
        }
    }
}

async fn oldest_first(
    store: &Store,
    query: &EventQuery,
    range: Range,
    limit: u64,
    shown: &mut Shown<'_>,
) -> Result<(), Failure> {
    if range.is_empty() {
        return Ok(());
    }
    let mut left = limit;
    let mut reader = range.read(store, query);
    while left > 0
        && let Some(batch) = reader.try_next().await?
    {
        let events = batch.iter().filter(|event| range.contains(event.sequence()));
        for event in events {
            if left == 0 {
                break;
            }
            left -= 1;
            shown.event(&batch, event)?;
        }
    }
    Ok(())
}

/// How many sequences are looked at at once from the end on: more, as long as little is found.
const STRETCH_MIN: u64 = 256;
const STRETCH_MAX: u64 = 1 << 16;

/// Gives `take` the selected events from the end of the range on, stretch by stretch.
pub(super) async fn newest_first(
    store: &Store,
    query: &EventQuery,
    range: Range,
    limit: u64,
    mut take: impl FnMut(&EventBatch, &EventRecord) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut beginning = range.after.unwrap_or(0);
    let (mut through, mut stretch, mut left) = (range.through, STRETCH_MIN, limit);
    while through > beginning && left > 0 {
        let part = Range {
            after: Some(through.saturating_sub(stretch).max(beginning)),
            through,
        };
        let batches: Vec<EventBatch> = match part.read(store, query).try_collect().await {
            Ok(batches) => batches,
            // Who did not say where the range begins takes what pruning left.
            Err(ReadError::Pruned { pruned_through, .. })
                if range.after.is_none() && pruned_through > beginning =>
            {
                beginning = pruned_through;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut found = 0;
        for batch in batches.iter().rev() {
            let events: Vec<&EventRecord> = batch
                .iter()
                .filter(|event| part.contains(event.sequence()))
                .collect();
            for event in events.into_iter().rev() {
                found += 1;
                if left > 0 {
                    left -= 1;
                    take(batch, event)?;
                }
            }
        }
        through = part.after.unwrap_or(0);
        stretch = next_stretch(stretch, found);
    }
    Ok(())
}

/// Longer where little is found, and short again where much is: what is read at once stays in memory.
fn next_stretch(stretch: u64, found: u64) -> u64 {
    if found * 4 > STRETCH_MIN {
        STRETCH_MIN
    } else {
        (stretch * 4).min(STRETCH_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_grow_where_little_is_found_and_no_further() {
        assert_eq!(next_stretch(256, 0), 1024);
        assert_eq!(next_stretch(STRETCH_MAX, 64), STRETCH_MAX);
        assert_eq!(next_stretch(STRETCH_MAX, 65), STRETCH_MIN);
    }
}

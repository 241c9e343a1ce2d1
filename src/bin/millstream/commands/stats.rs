//! `stats`: what the log holds.

use std::time::{Duration, SystemTime};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};
use millstream::{DayStatistics, LogStatistics};
use serde_json::{Value, json};

use crate::chart;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::output::{Colours, Format, Output, Tone};
use crate::time;

/// Count what the log holds: events, bytes, types, growth per day
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many types are listed, the most frequent first
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    types: usize,
    /// How many days are listed, up to the last one with events
    #[arg(long, value_name = "COUNT", default_value_t = 14)]
    days: usize,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The columns that a bar has where there is no terminal.
const BAR_COLUMNS: usize = 24;

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let statistics = store.statistics().await?;
    store.close().await?;
    match context.output.format() {
        Format::Json => context.output.json(&as_json(&statistics))?,
        Format::Text => {
            totals(&statistics, &mut context.output)?;
            types(&statistics, arguments.types, &mut context.output)?;
            days(&statistics, arguments.days, &mut context.output)?;
        }
    }
    Ok(Exit::Fine)
}

fn as_json(statistics: &LogStatistics) -> Value {
    let types = statistics.types.iter();
    let days = statistics.days.iter();
    json!({
        "events": statistics.events,
        "head": statistics.head,
        "pruned_through": statistics.pruned_through,
        "first_recorded_at": statistics.first_recorded_at.map(time::exact),
        "last_recorded_at": statistics.last_recorded_at.map(time::exact),
        "bytes": statistics.bytes,
        "free_bytes": statistics.free_bytes,
        "idempotency_keys": statistics.idempotency_keys,
        "types": types
            .map(|counted| json!({ "type": counted.event_type, "events": counted.events }))
            .collect::<Vec<_>>(),
        "days": days
            .map(|counted| json!({ "day": time::day(counted.start), "events": counted.events }))
            .collect::<Vec<_>>(),
    })
}

fn totals(statistics: &LogStatistics, output: &mut Output) -> Result<(), Failure> {
    let mut line = |name: &str, value: String| {
        let name = output.paint(Tone::Faint, &format!("{name:<8}"));
        output.line(&format!("{name}  {value}"))
    };
    line("events", statistics.events.to_string())?;
    line("head", statistics.head.to_string())?;
    if statistics.pruned_through > 0 {
        line("pruned", format!("through {}", statistics.pruned_through))?;
    }
    if statistics.idempotency_keys > 0 {
        line("keys", statistics.idempotency_keys.to_string())?;
    }
    let free = match statistics.free_bytes {
        0 => String::new(),
        free => format!(", {} of it free", chart::bytes(free)),
    };
    line("file", format!("{}{free}", chart::bytes(statistics.bytes)))?;
    let recorded = statistics.first_recorded_at.zip(statistics.last_recorded_at);
    if let Some((first, last)) = recorded {
        let (first, last) = (time::to_the_second(first), time::to_the_second(last));
        line("recorded", format!("{first} to {last} UTC"))?;
    }
    Ok(())
}

fn types(statistics: &LogStatistics, listed: usize, output: &mut Output) -> Result<(), Failure> {
    let largest = statistics.types.first().map_or(0, |counted| counted.events);
    let rows = statistics.types.iter().take(listed);
    let rows: Vec<_> = rows
        .map(|counted| (printable(&counted.event_type), counted.events))
        .collect();
    let left_out = statistics.types.len() - rows.len();
    chart_of("type", &rows, largest, statistics.events, output)?;
    if left_out > 0 {
        let more = output.paint(Tone::Faint, &format!("and {left_out} more types (--types)"));
        output.line(&more)?;
    }
    Ok(())
}

fn days(statistics: &LogStatistics, listed: usize, output: &mut Output) -> Result<(), Failure> {
    let rows = last_days(&statistics.days, listed);
    let largest = rows.iter().map(|(_, events)| *events).max().unwrap_or(0);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(day, events)| (time::day(day), events))
        .collect();
    chart_of("day", &rows, largest, statistics.events, output)
}

/// The days up to the last one with events, those without any among them.
fn last_days(days: &[DayStatistics], listed: usize) -> Vec<(SystemTime, u64)> {
    let Some((first, last)) = days.first().zip(days.last()) else {
        return Vec::new();
    };
    let mut shown = Vec::new();
    let mut day = last.start;
    while shown.len() < listed && day >= first.start {
        let events = days.iter().find(|counted| counted.start == day);
        shown.push((day, events.map_or(0, |counted| counted.events)));
        match day.checked_sub(DAY) {
            Some(before) => day = before,
            None => break,
        }
    }
    shown.reverse();
    shown
}

/// A table with a bar in each row; nothing, when there are no rows.
fn chart_of(
    name: &str,
    rows: &[(String, u64)],
    largest: u64,
    total: u64,
    output: &mut Output,
) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let columns = output.width().map_or(BAR_COLUMNS, |width| width / 3);
    let heading = |text: &str| output.paint(Tone::Heading, text);
    let titles = match output.colours() {
        Colours::Shown => None,
        Colours::Hidden => Some([heading(name), String::from("events")]),
    };
    let mut table = output.new_table();
    let bold = |text: &str| Cell::new(text).add_attribute(comfy_table::Attribute::Bold);
    match titles {
        Some([name, events]) => table.set_header([Cell::new(name), number(events)]),
        None => table.set_header([bold(name), bold("events").set_alignment(CellAlignment::Right)]),
    };
    for (label, events) in rows {
        table.add_row([
            Cell::new(label),
            number(events.to_string()),
            number(chart::percent(*events, total)),
            Cell::new(chart::bar(*events, largest, columns)).fg(Color::Cyan),
        ]);
    }
    output.line("")?;
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_without_events_are_shown_and_the_oldest_are_left_out() {
        let store = millstream::Store::in_memory().unwrap();
        store
            .append_blocking([millstream::NewEvent::new("a", 1)])
            .unwrap();
        let statistics = futures::executor::block_on(store.statistics()).unwrap();
        let day = |number: u32, events| {
            let mut counted = statistics.days[0].clone();
            counted.start = SystemTime::UNIX_EPOCH + DAY * number;
            counted.events = events;
            counted
        };
        let days = [day(1, 5), day(3, 7)];
        let events = |listed| -> Vec<u64> {
            last_days(&days, listed)
                .iter()
                .map(|(_, events)| *events)
                .collect()
        };
        assert_eq!(events(14), [5, 0, 7]);
        assert_eq!(events(2), [0, 7]);
        assert_eq!(events(0), [0; 0]);
        assert_eq!(last_days(&[], 14), []);
    }
}

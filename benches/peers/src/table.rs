//! The tables: a row for each peer, and how ours compares.

use comfy_table::{CellAlignment, Table};
use scenario::protocol::Measured;

use crate::peers::{FACTSTR, OURS, PEERS};
use crate::plans::Scenario;
use crate::results::{Outcome, Results, is_right};

/// One table.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) is_lower_better: bool,
    pub(crate) columns: &'static [Column],
}

pub(crate) struct Column {
    pub(crate) header: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) value: fn(&Measured) -> f64,
    /// Something to be compared, and not how much there was to do.
    is_result: bool,
}

const fn result(header: &'static str, scenario: &'static str) -> Column {
    Column {
        header,
        scenario,
        value: |measured| measured.value,
        is_result: true,
    }
}

const fn quantile(header: &'static str, value: fn(&Measured) -> f64) -> Column {
    Column {
        header,
        scenario: "delay",
        value,
        is_result: true,
    }
}

fn at(measured: &Measured, quantile: usize) -> f64 {
    measured.delay.map_or(f64::NAN, |delay| delay[quantile])
}

pub(crate) const APPENDS: Group = Group {
    title: "Appends",
    unit: "events/s",
    is_lower_better: false,
    columns: &[
        result("1 writer", "append-1"),
        result("4 writers", "append-4"),
        result("16 writers", "append-16"),
        result("64 writers", "append-64"),
        result("1 writer, batches of 100", "batch-100"),
    ],
};

pub(crate) const LIVE: Group = Group {
    title: "Live streams, each with an order of its own",
    unit: "handled events/s",
    is_lower_better: false,
    columns: &[
        result("1 stream", "live-1"),
        result("10", "live-10"),
        result("100", "live-100"),
        result("1,000", "live-1000"),
        result("10,000", "live-10000"),
    ],
};

pub(crate) const DURABLE: Group = Group {
    title: "Durable streams, each with all events",
    unit: "handled events/s",
    is_lower_better: false,
    columns: &[
        result("1 stream", "durable-1"),
        result("100", "durable-100"),
        result("1,000", "durable-1000"),
    ],
};

pub(crate) const DELAY: Group = Group {
    title: "Delay from the call of append to the start of the handler",
    unit: "us",
    is_lower_better: true,
    columns: &[
        quantile("p50", |measured| at(measured, 0)),
        quantile("p99", |measured| at(measured, 1)),
        quantile("p99.9", |measured| at(measured, 2)),
    ],
};

pub(crate) const REPLAY: Group = Group {
    title: "Replay",
    unit: "events/s",
    is_lower_better: false,
    columns: &[
        result("rate", "replay"),
        Column {
            header: "events in the log",
            scenario: "replay",
            value: |measured| measured.events as f64,
            is_result: false,
        },
    ],
};

pub(crate) const MEMORY: Group = Group {
    title: "Memory while the only handler does not return",
    unit: "MiB above idle, at the peak",
    is_lower_better: true,
    columns: &[
        result("memory", "memory"),
        Column {
            header: "MiB appended meanwhile",
            scenario: "memory",
            value: |measured| measured.burst,
            is_result: false,
        },
    ],
};

const GROUPS: &[Group] = &[APPENDS, LIVE, DURABLE, DELAY, REPLAY, MEMORY];

/// All tables, in Markdown, each with what there is to say about it.
pub(crate) fn all(results: &Results) -> String {
    let has_results = |group: &&Group| {
        let mut columns = group.columns.iter();
        columns.any(|column| {
            PEERS
                .iter()
                .any(|peer| results.get(column.scenario, peer.name).is_some())
        })
    };
    let texts: Vec<_> = GROUPS
        .iter()
        .filter(has_results)
        .map(|group| text(group, results))
        .collect();
    texts.join("\n")
}

fn text(group: &Group, results: &Results) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    let headers = group.columns.iter().map(|column| column.header.to_owned());
    table.set_header(std::iter::once(group.unit.to_owned()).chain(headers));
    for peer in PEERS {
        let cells = group
            .columns
            .iter()
            .map(|column| cell(results.get(column.scenario, peer.name), column));
        table.add_row(std::iter::once(peer.name.to_owned()).chain(cells));
    }
    let best = |column: &Column| ratio(group, column, results, |peer| peer != OURS);
    let factstr = |column: &Column| ratio(group, column, results, |peer| peer == FACTSTR);
    let row = |title: &str, ratio: &dyn Fn(&Column) -> String| {
        let cells: Vec<_> = group.columns.iter().map(ratio).collect();
        std::iter::once(title.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    table.add_row(row("ours against the best peer", &best));
    table.add_row(row("ours against factstr-sqlite", &factstr));
    for column in 1..=group.columns.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let remarks = remarks(group, results);
    format!("### {}\n\n{table}\n{remarks}", group.title)
}

fn cell(outcome: Option<Outcome>, column: &Column) -> String {
    match outcome {
        None => String::from("-"),
        Some(Outcome::Cannot(_)) => String::from("cannot"),
        Some(Outcome::Failed(_)) => String::from("failed"),
        Some(Outcome::Measured(measured)) if column.is_result => {
            format!("{}{}", figure((column.value)(&measured)), faults(&measured))
        }
        Some(Outcome::Measured(measured)) => figure((column.value)(&measured)),
    }
}

/// How many times better ours is than the best of these.
fn ratio(group: &Group, column: &Column, results: &Results, is_peer: impl Fn(&str) -> bool) -> String {
    let value = |peer: &str| {
        let measured = results.measured(column.scenario, peer)?;
        let value = (column.value)(&measured);
        (is_right(&measured) && value > 0.0).then_some(value)
    };
    let peers = PEERS
        .iter()
        .filter(|peer| is_peer(peer.name))
        .filter_map(|peer| value(peer.name));
    let best = if group.is_lower_better {
        peers.min_by(f64::total_cmp)
    } else {
        peers.max_by(f64::total_cmp)
    };
    match (value(OURS), best) {
        (Some(ours), Some(best)) if column.is_result => {
            let ratio = if group.is_lower_better {
                best / ours
            } else {
                ours / best
            };
            format!("{} x", figure(ratio))
        }
        _ => String::new(),
    }
}

/// What went wrong, in a word each.
pub(crate) fn faults(measured: &Measured) -> String {
    let counts = [
        (measured.lost, "lost"),
        (measured.doubled, "doubled"),
        (measured.foreign, "foreign"),
        (measured.late, "late"),
        (measured.failed, "failed"),
    ];
    let faults = counts.iter().filter(|(count, _)| *count > 0);
    faults
        .map(|(count, fault)| format!(", {} {fault}", count_of(*count)))
        .collect()
}

/// The reasons, below the table.
fn remarks(group: &Group, results: &Results) -> String {
    let mut remarks: Vec<String> = Vec::new();
    for peer in PEERS {
        for column in group.columns {
            let remark = match results.get(column.scenario, peer.name) {
                Some(Outcome::Cannot(reason)) => format!("- {} cannot: {reason}.", peer.name),
                Some(Outcome::Failed(reason)) => format!("- {}, {}: {reason}.", peer.name, column.header),
                Some(Outcome::Measured(Measured {
                    error: Some(error), ..
                })) => {
                    format!("- {}, {}: {error}.", peer.name, column.header)
                }
                Some(Outcome::Measured(_)) | None => continue,
            };
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
    }
    remarks
        .iter()
        .map(|remark| format!("\n{remark}"))
        .collect::<String>()
        + if remarks.is_empty() { "" } else { "\n" }
}

/// One outcome in a line, while it is measured.
pub(crate) fn brief(scenario: &Scenario, outcome: &Outcome) -> String {
    let unit = match scenario.name {
        "delay" => "us",
        "memory" => "MiB",
        _ => "events/s",
    };
    match outcome {
        Outcome::Cannot(reason) => format!("cannot: {reason}"),
        Outcome::Failed(reason) => format!("failed: {reason}"),
        Outcome::Measured(measured) => format!("{} {unit}{}", figure(measured.value), faults(measured)),
    }
}

/// Three digits that count, and commas.
pub(crate) fn figure(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => count_of(value.round() as u64),
    }
}

/// All digits, with commas.
pub(crate) fn count_of(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[(&str, f64, u64)]) -> Results {
        let mut results = Results::default();
        for (peer, value, lost) in values {
            let measured = Measured {
                value: *value,
                lost: *lost,
                ..Measured::default()
            };
            results.add("append-1", peer, Outcome::Measured(measured));
        }
        results
    }

    #[test]
    fn a_peer_that_loses_events_is_not_the_best() {
        let results = results(&[(OURS, 100.0, 0), ("evento", 400.0, 7), (FACTSTR, 50.0, 0)]);
        let ratio = ratio(&APPENDS, &APPENDS.columns[0], &results, |peer| peer != OURS);
        assert_eq!(ratio, "2.00 x");
        assert!(all(&results).contains("400, 7 lost"));
    }

    #[test]
    fn of_several_rounds_the_median_counts_and_the_worst_loss() {
        let results = results(&[(OURS, 1.0, 0), (OURS, 9.0, 3), (OURS, 5.0, 0)]);
        let measured = results.measured("append-1", OURS).unwrap();
        assert_eq!((measured.value, measured.lost), (5.0, 3));
    }
}

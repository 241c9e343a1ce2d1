//! The table, and `target/limits.json`.

use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::Failure;

#[derive(Serialize)]
struct Row {
    scenario: String,
    unit: &'static str,
    ours: f64,
    limit: f64,
    ratio: f64,
    #[serde(skip)]
    target: String,
}

/// Which way a figure is better, and what is to be reached.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

pub(crate) struct Report {
    only: String,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(only: &str) -> Self {
        Self {
            only: only.to_owned(),
            rows: Vec::new(),
        }
    }

    /// Whether a scenario is among those that were asked for.
    pub(crate) fn is_named(&self, scenario: &str) -> bool {
        scenario.contains(&self.only)
    }

    pub(crate) fn wants(&self, scenario: &str) -> bool {
        let wanted = self.is_named(scenario);
        if wanted {
            println!("measuring {scenario} ...");
        }
        wanted
    }

    /// Whether any of some scenarios, which are measured together, is wanted.
    pub(crate) fn wants_any(&self, scenarios: &[&str]) -> bool {
        scenarios.iter().any(|scenario| self.wants(scenario))
    }

    /// Adds the median of what was measured in turn. The ratio is the median of the rounds' ratios.
    pub(crate) fn add(&mut self, scenario: &str, unit: &'static str, rounds: &[(f64, f64)], target: Target) {
        let of = |value: fn(&(f64, f64)) -> f64| median(rounds.iter().map(value).collect());
        let (sign, goal) = match target {
            Target::AtLeast(goal) => (">=", goal),
            Target::AtMost(goal) => ("<=", goal),
        };
        self.rows.push(Row {
            scenario: scenario.to_owned(),
            unit,
            ours: of(|round| round.0),
            limit: of(|round| round.1),
            ratio: of(|round| round.0 / round.1),
            target: format!("{sign} {goal:.2}"),
        });
    }

    pub(crate) fn finish(self) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["scenario", "unit", "ours", "limit", "ratio", "to reach"]);
        for row in &self.rows {
            table.add_row([
                row.scenario.clone(),
                row.unit.to_owned(),
                figure(row.ours),
                figure(row.limit),
                format!("{:.2}", row.ratio),
                row.target.clone(),
            ]);
        }
        for column in 2..6 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("\n{table}");
        let path = target_folder().join("limits.json");
        std::fs::write(&path, serde_json::to_string_pretty(&self.rows)?)?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

/// Where cargo builds, which is a place for large files.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    )
}

pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn figure(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

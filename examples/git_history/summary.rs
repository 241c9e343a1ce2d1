//! What is said at the end: the read models as tables, and the figures of the run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use crate::Result;
use crate::slices::activity::{self, Week};
use crate::slices::{Running, contributors, hot_files};
use crate::views::Views;

const CONTRIBUTORS_MAX: u32 = 10;
const FILES_MAX: u32 = 10;
const WEEKS_MAX: u32 = 26;
/// Rows of the chart; each shows eight steps.
const CHART_ROWS: u64 = 4;
const NAME_CHARS_MAX: usize = 40;
const PATH_CHARS_MAX: usize = 60;

/// The figures of one run.
pub(crate) struct Figures {
    pub(crate) repository: String,
    /// Commits appended by this run, one batch each.
    pub(crate) commits: u64,
    /// Events appended by this run.
    pub(crate) events: u64,
    /// From the first commit read to the last one in every read model.
    pub(crate) elapsed: Duration,
    /// The last sequence of the log.
    pub(crate) head: u64,
    pub(crate) commits_in_log: u64,
    pub(crate) log: (PathBuf, u64),
    pub(crate) views: (PathBuf, u64),
}

/// How a slice fared in this run.
pub(crate) struct Fared {
    name: &'static str,
    started_after: u64,
    handled_batches: u64,
    repeated: u64,
    restored: u64,
}

impl Fared {
    pub(crate) fn of(running: &Running, views: &Views) -> Self {
        Self {
            name: running.slice.name,
            started_after: running.stream.started_after(),
            handled_batches: running.stream.status().handled_batches,
            repeated: views.repeated(running.slice.name),
            restored: running.restored,
        }
    }
}

/// The whole summary as text.
pub(crate) fn render(figures: &Figures, slices: &[Fared], views: &Views) -> Result<String> {
    let mut text = String::new();
    views.read(|connection| {
        let count = HumanCount(contributors::count(connection)?);
        writeln!(text, "\nContributors ({count})")?;
        writeln!(
            text,
            "{}",
            contributor_table(&contributors::top(connection, CONTRIBUTORS_MAX)?)
        )?;
        let count = HumanCount(hot_files::count(connection)?);
        writeln!(text, "\nHot files (of {count})")?;
        writeln!(text, "{}", file_table(&hot_files::top(connection, FILES_MAX)?))?;
        let weeks = activity::last(connection, WEEKS_MAX)?;
        let count = HumanCount(activity::count(connection)?);
        writeln!(
            text,
            "\nActivity (the last {} of {count} weeks with commits)",
            weeks.len()
        )?;
        text.push_str(&chart(&weeks));
        Ok(())
    })?;
    write_figures(&mut text, figures)?;
    for fared in slices {
        write_fared(&mut text, fared)?;
    }
    Ok(text)
}

fn contributor_table(contributors: &[contributors::Contributor]) -> Table {
    let mut table = table(&["author", "commits", "lines added", "removed"]);
    for contributor in contributors {
        table.add_row([
            Cell::new(printable(&contributor.name, NAME_CHARS_MAX)),
            number(contributor.commits),
            number(contributor.lines.added),
            number(contributor.lines.removed),
        ]);
    }
    table
}

fn file_table(files: &[hot_files::HotFile]) -> Table {
    let mut table = table(&["file", "changes", "renames", "lines added", "removed"]);
    for file in files {
        let gone = if file.deleted { " (deleted)" } else { "" };
        table.add_row([
            Cell::new(printable(&file.path, PATH_CHARS_MAX) + gone),
            number(file.changes),
            number(file.renames),
            number(file.lines.added),
            number(file.lines.removed),
        ]);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().enumerate().map(|(column, name)| match column {
            0 => Cell::new(name),
            _ => Cell::new(name).set_alignment(CellAlignment::Right),
        }));
    table
}

fn number(number: u64) -> Cell {
    Cell::new(HumanCount(number)).set_alignment(CellAlignment::Right)
}

/// Names come from anywhere: shortened from the front, where paths differ least, and without what would steer a terminal.
fn printable(text: &str, chars_max: usize) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|character| {
            let escaped = character.is_control().then(|| character.escape_default());
            let plain = escaped.is_none().then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    let chars = escaped.chars().count();
    if chars <= chars_max {
        return escaped;
    }
    let kept: String = escaped.chars().skip(chars - chars_max + 1).collect();
    format!("\u{2026}{kept}")
}

/// A column per week.
fn chart(weeks: &[Week]) -> String {
    let (Some(first), Some(last)) = (weeks.first(), weeks.last()) else {
        return "  no commit has a date\n".to_owned();
    };
    let most = weeks.iter().map(|week| week.commits).max().unwrap_or(0).max(1);
    let label_chars = HumanCount(most).to_string().chars().count();
    let mut text = String::new();
    for row in (0..CHART_ROWS).rev() {
        let label = if row == CHART_ROWS - 1 {
            HumanCount(most).to_string()
        } else {
            String::new()
        };
        let bars: String = weeks.iter().map(|week| block(week.commits, most, row)).collect();
        text += &format!("  {label:>label_chars$} \u{2502}{}\n", bars.trim_end());
    }
    let axis = "\u{2500}".repeat(2 * weeks.len());
    text += &format!("  {:>label_chars$} \u{2514}{axis}\n", 0);
    let between = (2 * weeks.len()).saturating_sub(first.name.len());
    let last = if weeks.len() > 1 { last.name.as_str() } else { "" };
    let between = between.max(last.len() + 1);
    text + &format!("  {:label_chars$}  {}{last:>between$}\n", "", first.name)
}

/// What a week shows in a row of the chart, counted from the bottom. A week with a commit is never empty.
fn block(commits: u64, most: u64, row: u64) -> String {
    let steps = (commits * CHART_ROWS * 8).div_ceil(most);
    let block = match steps.saturating_sub(row * 8) {
        0 => ' ',
        1 => '\u{2581}',
        2 => '\u{2582}',
        3 => '\u{2583}',
        4 => '\u{2584}',
        5 => '\u{2585}',
        6 => '\u{2586}',
        7 => '\u{2587}',
        _ => '\u{2588}',
    };
    format!("{block} ")
}

fn write_figures(text: &mut String, figures: &Figures) -> Result<()> {
    let (commits, events) = (HumanCount(figures.commits), HumanCount(figures.events));
    let seconds = figures.elapsed.as_secs_f64();
    let name = printable(&figures.repository, NAME_CHARS_MAX);
    let in_log = HumanCount(figures.commits_in_log);
    let plural = if figures.commits == 1 { "" } else { "s" };
    writeln!(
        text,
        "\n{name}: {commits} new commit{plural}, {in_log} in the log"
    )?;
    write!(
        text,
        "  events        {events} in {commits} batches in {seconds:.2} s"
    )?;
    if figures.events > 0 {
        let rate = HumanCount((figures.events as f64 / seconds.max(0.001)) as u64);
        write!(text, ", {rate} per second")?;
    }
    writeln!(text, "; {} in the log", HumanCount(figures.head))?;
    for (name, (path, bytes)) in [("log", &figures.log), ("read models", &figures.views)] {
        writeln!(text, "  {name:13} {} in {}", HumanBytes(*bytes), path.display())?;
    }
    Ok(())
}

fn write_fared(text: &mut String, fared: &Fared) -> Result<()> {
    let Fared {
        name,
        started_after,
        handled_batches,
        repeated,
        restored,
    } = *fared;
    let started = match started_after {
        0 => "started at the beginning".to_owned(),
        after => format!("resumed after sequence {}", HumanCount(after)),
    };
    write!(
        text,
        "  {name:13} {started}, {} batches handled",
        HumanCount(handled_batches)
    )?;
    match repeated {
        0 => write!(text, ", nothing replayed")?,
        batches => write!(text, ", {} of them replayed and ignored", HumanCount(batches))?,
    }
    if restored > 0 {
        let restored = HumanCount(restored);
        write!(
            text,
            "; before that {restored} batches that the tables lacked, from the log"
        )?;
    }
    writeln!(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{block, chart, printable};
    use crate::slices::activity::Week;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\nb", 40), "a\\u{1b}[31m\\nb");
        assert_eq!(printable("abcdef", 4), "\u{2026}def");
        assert_eq!(printable("\u{e9}t\u{e9}", 3), "\u{e9}t\u{e9}");
    }

    #[test]
    fn every_active_week_is_seen() {
        assert_eq!(block(1, 1_000_000, 0), "\u{2581} ");
        assert_eq!(block(1, 1_000_000, 1), "  ");
        assert_eq!(block(7, 7, 3), "\u{2588} ");
    }

    #[test]
    fn chart_of_one_week_or_none_is_drawn() {
        assert_eq!(chart(&[]).lines().count(), 1);
        let week = Week {
            name: "2026-W07".to_owned(),
            commits: 3,
        };
        assert_eq!(chart(&[week]).lines().count(), 6);
    }
}

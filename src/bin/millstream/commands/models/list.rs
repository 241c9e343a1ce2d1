//! `models list`: which versions there are, which serves, and what is under way.

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};
use millstream::{ReadModelVersion, RequestReport, RequestState};
use serde::Serialize;

use crate::columns::Columns;
use crate::commands::models::Where;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::listing::printable;
use crate::output::Format;
use crate::terminal;
use crate::time;

/// List the read models: versions, which of them serves, how far each is, and what was asked last
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Where,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    version: u32,
    is_serving: bool,
    position: u64,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Request<'a>>,
}

/// What was asked of the model last.
#[derive(Serialize)]
struct Request<'a> {
    number: u64,
    request: &'static str,
    state: &'static str,
    done: u64,
    total: u64,
    events_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let models = arguments.place.open(context).await?;
    let versions = models.versions().await?;
    let requests = models.requests().await?;
    let of = |version: &ReadModelVersion| requests.iter().find(|request| request.name == version.name);
    let output = &mut context.output;
    if output.format() == Format::Json {
        for version in &versions {
            output.json(&line(version, of(version)))?;
        }
        return Ok(Exit::Fine);
    }
    if versions.is_empty() {
        terminal::say("there is no read model yet");
        return Ok(Exit::Fine);
    }
    let columns = Columns {
        titles: &["model", "version", "", "position", "file", "asked last"],
        expendable: &["file", "position"],
    };
    let rows: Vec<_> = versions
        .iter()
        .map(|version| row(version, of(version).filter(|_| version.is_serving)))
        .collect();
    output.listing(&columns, &rows)?;
    Ok(Exit::Fine)
}

fn line<'a>(version: &'a ReadModelVersion, request: Option<&'a RequestReport>) -> Line<'a> {
    Line {
        name: &version.name,
        version: version.version,
        is_serving: version.is_serving,
        position: version.position,
        file: &version.file,
        request: request.map(|report| Request {
            number: report.number,
            request: super::ask::verb(report.request),
            state: state(&report.state),
            done: report.done,
            total: report.total,
            events_per_second: report.events_per_second,
            error: match &report.state {
                RequestState::Failed { error } => Some(error),
                _ => None,
            },
        }),
    }
}

fn row(version: &ReadModelVersion, request: Option<&RequestReport>) -> Vec<Cell> {
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let standing = if version.is_serving { "serves" } else { "beside" };
    vec![
        Cell::new(printable(&version.name)).fg(Color::Cyan),
        number(version.version.to_string()),
        Cell::new(standing),
        number(version.position.to_string()),
        Cell::new(&version.file),
        Cell::new(request.map(in_words).unwrap_or_default()),
    ]
}

fn in_words(report: &RequestReport) -> String {
    let verb = super::ask::verb(report.request);
    match &report.state {
        RequestState::Begun if report.total > 0 => {
            let percent = report.done * 100 / report.total;
            let left = report.remaining().map(time::span).unwrap_or_default();
            format!("{verb}: {percent} %, {left} left")
        }
        RequestState::Failed { error } => format!("{verb}: failed, {}", printable(error)),
        other => format!("{verb}: {}", state(other)),
    }
}

fn state(state: &RequestState) -> &'static str {
    match state {
        RequestState::Asked => "asked",
        RequestState::Begun => "under way",
        RequestState::Done => "done",
        _ => "failed",
    }
}

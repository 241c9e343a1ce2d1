//! Asking the process that keeps a read model for something, and waiting for it.

use std::time::Duration;

use clap::Args;
use millstream::{Cancelled, ModelRequest, RequestReport, RequestState};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::commands::models::Where;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::models::Models;
use crate::progress::{Progress, Unit};
use crate::terminal;

/// What every request takes.
#[derive(Args)]
pub(super) struct Asking {
    /// The name of the read model
    name: String,
    #[command(flatten)]
    place: Where,
    /// How many seconds the process that keeps the model may take to begin
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    begin_within: u64,
    /// Ask, and do not wait for what becomes of it; it stays asked until a process begins it
    #[arg(long)]
    no_wait: bool,
}

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(
    asking: Asking,
    request: ModelRequest,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let models = asking.place.open(context).await?;
    let name = &asking.name;
    // Whoever interrupts it takes back what was asked, so this is there before anything is asked.
    let interrupted = terminal::interruption().await;
    let number = models.ask(name, request).await?;
    if asking.no_wait {
        let told = json!({ "name": name, "number": number, "state": "asked" });
        context.output.tell(&told, || {
            format!(
                "asked to {} {name:?}; `models list` says what becomes of it",
                verb(request)
            )
        })?;
        return Ok(Exit::Fine);
    }
    let report = wait(&models, &asking, (number, request), interrupted).await?;
    match &report.state {
        RequestState::Failed { error } => Err(Failure::Failed(error.clone())),
        _ => {
            let told = json!({ "name": name, "number": number, "state": "done", "events": report.done });
            context.output.tell(&told, || match request {
                ModelRequest::Rebuild => {
                    format!("{name:?} was rebuilt from {} events, and serves", report.done)
                }
                _ => format!("the newest version of {name:?} serves"),
            })?;
            Ok(Exit::Fine)
        }
    }
}

/// Waits until the request is over, somebody interrupts it, or nobody has begun in time.
async fn wait(
    models: &Models,
    asking: &Asking,
    (number, request): (u64, ModelRequest),
    mut interrupted: impl Future<Output = std::io::Result<()>> + Unpin,
) -> Result<RequestReport, Failure> {
    let bar = Progress::start(verb(request), Unit::Events, Some(0));
    let begin_by = Instant::now() + Duration::from_secs(asking.begin_within);
    loop {
        let report = models.request(number).await?;
        let report = report.ok_or_else(|| Failure::Failed(String::from("the request is gone")))?;
        bar.out_of(report.total);
        bar.reached(report.done);
        let is_unbegun = report.state == RequestState::Asked;
        if report.state.is_over() {
            return Ok(report);
        }
        let is_late = tokio::select! {
            () = sleep(LOOK_EVERY) => continue,
            () = sleep_until(begin_by), if is_unbegun => true,
            _ = &mut interrupted => false,
        };
        drop(bar);
        let name = &asking.name;
        return Err(match (models.cancel_request(number).await?, is_late) {
            (Cancelled::Unbegun, true) => Failure::NobodyRuns(format!(
                "no process has begun within {} s: none keeps {name:?}; nothing was done, and no request is left: start the program, and ask again",
                asking.begin_within
            )),
            (Cancelled::Unbegun, false) => Failure::Failed(String::from(
                "interrupted; nothing was done, and no request is left",
            )),
            (Cancelled::Told, _) => Failure::Failed(format!(
                "interrupted; the process that keeps {name:?} gives it up, and what served before serves still"
            )),
            _ => Failure::Failed(format!(
                "interrupted as it ended; see with `models list` how {name:?} is"
            )),
        });
    }
}

/// What is asked, as a word.
pub(super) fn verb(request: ModelRequest) -> &'static str {
    match request {
        ModelRequest::Rebuild => "rebuild",
        _ => "promote",
    }
}

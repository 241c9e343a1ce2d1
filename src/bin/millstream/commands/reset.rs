//! `reset`: the cursor of a stream is moved.

use clap::Args;
use millstream::{Reset, StreamStatus};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::standing;
use crate::tally::counted;
use crate::terminal;
use crate::time::{self, parse_time};

/// Move the cursor of a stream: what comes after it is delivered, again if need be
///
/// It is moved only if it stands where it is expected; otherwise the exit code is 3. The cursor of a stream that runs moves by
/// itself, so pause it first. Dead letters after the new cursor are removed: their events are delivered again.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// Where to: beginning, now, a sequence, after which it goes on, or a time, from which on it does: 2026-05-01, 2h, 3d
    #[arg(long, value_name = "beginning|now|SEQUENCE|TIME", value_parser = parse_target)]
    to: Reset,
    /// Where the cursor stands now [default: where it is found, as the question shows it]
    #[arg(long, value_name = "CURSOR")]
    expect: Option<u64>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let control = store.stream(&arguments.name).await?;
    let status = control.status().await?;
    let expected = arguments.expect.unwrap_or_else(|| standing::cursor(&status));
    terminal::confirm(context.consent, &question(&status, arguments.to))?;
    let cursor = control.reset(arguments.to, expected).await?;
    store.close().await?;
    let name = &arguments.name;
    let told = json!({ "name": name, "cursor_before": expected, "cursor": cursor });
    context.output.tell(&told, || {
        format!("moved the cursor of {name:?} from {expected} to {cursor}")
    })?;
    Ok(Exit::Fine)
}

fn parse_target(text: &str) -> Result<Reset, String> {
    match text {
        "beginning" => Ok(Reset::Beginning),
        "now" => Ok(Reset::Now),
        _ => match text.parse() {
            Ok(sequence) => Ok(Reset::To(sequence)),
            Err(_) => parse_time(text)
                .map(Reset::At)
                .map_err(|error| format!("give `beginning`, `now`, a sequence, or a time; {error}")),
        },
    }
}

fn question(status: &StreamStatus, to: Reset) -> String {
    let (name, cursor, head) = (standing::name(status), standing::cursor(status), status.head);
    let to = match to {
        Reset::Beginning => String::from("to the beginning"),
        Reset::Now => format!("to the head, {head}"),
        Reset::To(sequence) => format!("to {sequence}"),
        Reset::At(moment) => format!("before {} UTC", time::to_the_second(moment)),
        other => format!("to {other:?}"),
    };
    let letters = match status.parked + status.skipped {
        0 => String::new(),
        count => format!(
            "; of its {} those after it are removed",
            counted(count, "dead letter", "dead letters")
        ),
    };
    format!("the cursor of {name:?}, which stands at {cursor}, is moved {to}{letters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_word_a_sequence_or_a_time() {
        assert_eq!(parse_target("beginning"), Ok(Reset::Beginning));
        assert_eq!(parse_target("now"), Ok(Reset::Now));
        assert_eq!(parse_target("2026"), Ok(Reset::To(2026)));
        assert_eq!(
            parse_target("2026-05-01"),
            parse_time("2026-05-01").map(Reset::At)
        );
        assert!(parse_target("-1").is_err() && parse_target("end").is_err());
    }
}

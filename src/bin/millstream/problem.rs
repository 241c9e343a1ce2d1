//! What is wrong with a stream, in words and as JSON.

use millstream::Problem;
use serde_json::{Value, json};

use crate::listing::printable;
use crate::tally::counted;
use crate::time;

/// The problem as somebody on duty would say it.
pub(crate) fn in_words(problem: &Problem) -> String {
    match problem {
        Problem::LagTooHigh { events, events_max } => {
            format!("{events} events behind, more than {events_max}")
        }
        Problem::LagTooOld { age, age_max } => format!(
            "an event has waited for {}, longer than {}",
            time::span(*age),
            time::span(*age_max)
        ),
        Problem::NotMoving { still_for } => format!("has not moved for {}", time::span(*still_for)),
        Problem::HandlerHangs { running_for } => {
            format!("a handler call has taken {}", time::span(*running_for))
        }
        Problem::LoopDead { silent_for } => {
            format!("its loop has been silent for {}", time::span(*silent_for))
        }
        Problem::Paused { by, since } => format!(
            "paused by {} since {} UTC",
            printable(by),
            time::to_the_second(*since)
        ),
        Problem::Stopped(cause) => format!("stopped: {}", printable(&cause.to_string())),
        Problem::LettersWait { letters } => {
            let verb = if *letters == 1 { "waits" } else { "wait" };
            format!("{} {verb}", counted(*letters, "dead letter", "dead letters"))
        }
        problem => format!("{problem:?}"),
    }
}

/// The problem by its name and with its numbers; times are in seconds.
pub(crate) fn as_json(problem: &Problem) -> Value {
    match problem {
        Problem::LagTooHigh { events, events_max } => {
            json!({ "problem": "lag-too-high", "events": events, "events_max": events_max })
        }
        Problem::LagTooOld { age, age_max } => json!({
            "problem": "lag-too-old",
            "age_seconds": age.as_secs_f64(),
            "age_seconds_max": age_max.as_secs_f64(),
        }),
        Problem::NotMoving { still_for } => {
            json!({ "problem": "not-moving", "still_for_seconds": still_for.as_secs_f64() })
        }
        Problem::HandlerHangs { running_for } => {
            json!({ "problem": "handler-hangs", "running_for_seconds": running_for.as_secs_f64() })
        }
        Problem::LoopDead { silent_for } => {
            json!({ "problem": "loop-dead", "silent_for_seconds": silent_for.as_secs_f64() })
        }
        Problem::Paused { by, since } => {
            json!({ "problem": "paused", "by": by, "since": time::exact(*since) })
        }
        Problem::Stopped(cause) => json!({ "problem": "stopped", "cause": cause.to_string() }),
        Problem::LettersWait { letters } => json!({ "problem": "letters-wait", "letters": letters }),
        problem => json!({ "problem": "other", "text": format!("{problem:?}") }),
    }
}

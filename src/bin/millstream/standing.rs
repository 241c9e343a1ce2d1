//! A durable stream as it stands: what `streams`, `stream`, `pause` and `resume` tell of it.

use millstream::{Instance, ReadError, Store, StreamHealth, StreamState, StreamStatus};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::listing::printable;
use crate::problem;
use crate::time;

/// A stream as a line of JSON. Times that have passed are in seconds.
#[derive(Serialize)]
pub(crate) struct Standing<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_since: Option<String>,
    cursor: u64,
    head: u64,
    lag: u64,
    oldest_unhandled_seconds: Option<f64>,
    stored_before_seconds: f64,
    parked: u64,
    skipped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Claimant<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    standbys: Vec<Claimant<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<Value>>,
}

/// Who runs a stream, or stands by for it.
#[derive(Serialize)]
struct Claimant<'a> {
    host: &'a str,
    process: u32,
    since: String,
}

impl<'a> From<&'a Instance> for Claimant<'a> {
    fn from(instance: &'a Instance) -> Self {
        Self {
            host: &instance.host,
            process: instance.process,
            since: time::exact(instance.since),
        }
    }
}

impl<'a> Standing<'a> {
    /// The stream with what is wrong with it.
    pub(crate) fn with_problems(stream: &'a StreamHealth) -> Self {
        let problems = stream.problems.iter().map(problem::as_json);
        Self {
            problems: Some(problems.collect()),
            ..Self::new(&stream.status)
        }
    }

    /// The stream, which was not examined.
    pub(crate) fn new(status: &'a StreamStatus) -> Self {
        let paused = match &status.state {
            StreamState::Paused { by, since } => Some((by.as_str(), time::exact(*since))),
            _ => None,
        };
        let (paused_by, paused_since) = paused.unzip();
        Self {
            name: name(status),
            state: state(&status.state),
            paused_by,
            paused_since,
            cursor: cursor(status),
            head: status.head,
            lag: status.lag,
            oldest_unhandled_seconds: status.oldest_unhandled.map(|age| age.as_secs_f64()),
            stored_before_seconds: status.still_for.as_secs_f64(),
            parked: status.parked,
            skipped: status.skipped,
            owner: status.owner.as_ref().map(Claimant::from),
            standbys: status.standbys.iter().map(Claimant::from).collect(),
            problems: None,
        }
    }
}

/// All durable streams of the log, by name, and what is wrong with them.
pub(crate) async fn all(store: &Store) -> Result<Vec<StreamHealth>, ReadError> {
    Ok(store.health().await?.streams)
}

/// The stream of this name. An unknown name is an error that suggests another.
pub(crate) async fn one(store: &Store, asked: &str) -> Result<StreamHealth, Failure> {
    let streams = all(store).await?;
    match streams.into_iter().find(|stream| name(&stream.status) == asked) {
        Some(stream) => Ok(stream),
        None => match store.stream(asked).await {
            Err(error) => Err(error.into()),
            Ok(_) => Err(Failure::Failed(format!(
                "the durable stream {asked:?} was made just now; look again"
            ))),
        },
    }
}

pub(crate) fn name(status: &StreamStatus) -> &str {
    status.name.as_deref().unwrap_or_default()
}

/// The stored position. No stream runs in this process, so there is no other.
pub(crate) fn cursor(status: &StreamStatus) -> u64 {
    status.cursor.unwrap_or(status.position)
}

/// The word for a state.
fn state(state: &StreamState) -> &'static str {
    match state {
        StreamState::CatchingUp => "catching-up",
        StreamState::Live => "live",
        StreamState::Retrying { .. } => "retrying",
        StreamState::Paused { .. } => "paused",
        StreamState::Standby => "standby",
        StreamState::Stopped(_) => "stopped",
        StreamState::NotHere => "not-here",
        _ => "other",
    }
}

/// Who runs the stream, for people, and how many stand by for it.
pub(crate) fn owner_in_words(status: &StreamStatus) -> String {
    let owner = match &status.owner {
        Some(owner) => format!("{} on {}", owner.process, printable(&owner.host)),
        None => String::from("nobody"),
    };
    match status.standbys.len() {
        0 => owner,
        count => format!("{owner}, {count} standing by"),
    }
}

/// The state for people.
pub(crate) fn state_in_words(status: &StreamStatus) -> String {
    match &status.state {
        StreamState::Paused { by, .. } => format!("paused by {}", printable(by)),
        StreamState::Stopped(cause) => format!("stopped: {}", printable(&cause.to_string())),
        other => state(other).replace('-', " "),
    }
}

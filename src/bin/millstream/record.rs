//! An event as a line of JSON: what `events`, `follow` and `export` write, and `import` reads.

use millstream::{EventBatch, EventRecord, NewEvent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::time;

/// One event with its place in the log and in its batch.
#[derive(Serialize)]
pub(crate) struct Record<'a> {
    sequence: u64,
    batch_first_sequence: u64,
    batch_last_sequence: u64,
    recorded_at: String,
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(skip_serializing_if = "is_first")]
    schema_version: u32,
    tags: Vec<&'a str>,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(batch: &EventBatch, event: &'a EventRecord) -> Result<Self, Failure> {
        let json = |part: &str, text: &str| {
            RawValue::from_string(on_one_line(text)).map_err(|error| {
                Failure::Failed(format!(
                    "the {part} of event {} is not JSON: {error}; `millstream verify` says what else is damaged",
                    event.sequence()
                ))
            })
        };
        Ok(Self {
            sequence: event.sequence(),
            batch_first_sequence: batch.first_sequence(),
            batch_last_sequence: batch.last_sequence(),
            recorded_at: time::exact(event.recorded_at()),
            event_type: event.event_type(),
            schema_version: event.schema_version(),
            tags: event.tags().collect(),
            payload: json("payload", event.payload().as_str())?,
            metadata: match event.metadata() {
                Some(metadata) => Some(json("metadata", metadata.as_str())?),
                None => None,
            },
        })
    }
}

/// The version that most events have goes without saying.
fn is_first(version: &u32) -> bool {
    *version == first()
}

fn first() -> u32 {
    1
}

/// JSON without line breaks. They stand only between its parts, where a blank means the same: inside a text they are escaped.
fn on_one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// A line of an export, or an event without a place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default = "first")]
    schema_version: u32,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    sequence: Option<u64>,
    batch_first_sequence: Option<u64>,
    batch_last_sequence: Option<u64>,
    #[serde(rename = "recorded_at")]
    _recorded_at: Option<String>,
}

/// Where an exported event stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) batch_first_sequence: u64,
    pub(crate) batch_last_sequence: u64,
}

/// Reads a line of an export. One without a place is a batch of its own.
pub(crate) fn read(text: &str) -> Result<(NewEvent, Option<Place>), String> {
    let line: Line<'_> =
        serde_json::from_str(text).map_err(|error| crate::failure::without_position(&error))?;
    let place = match (line.sequence, line.batch_first_sequence, line.batch_last_sequence) {
        (Some(sequence), Some(first), Some(last)) if first <= sequence && sequence <= last => Some(Place {
            sequence,
            batch_first_sequence: first,
            batch_last_sequence: last,
        }),
        (None, None, None) => None,
        _ => {
            return Err(String::from(
                "`sequence`, `batch_first_sequence` and `batch_last_sequence` do not fit each other; leave out all three for an event that is a batch of its own",
            ));
        }
    };
    let event = NewEvent::raw(line.event_type, line.payload.get()).tags(line.tags);
    let event = event.schema_version(line.schema_version);
    let metadata = line.metadata.into_iter();
    let event = metadata.fold(event, |event, (key, value)| event.metadata(key, value));
    Ok((event, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_whole_or_not_there() {
        let at = |place: &str| read(&format!(r#"{{"type":"a","payload":1{place}}}"#));
        assert_eq!(at("").unwrap().1, None);
        let whole = r#","sequence":4,"batch_first_sequence":3,"batch_last_sequence":5"#;
        assert_eq!(at(whole).unwrap().1.map(|place| place.sequence), Some(4));
        for wrong in [
            r#","sequence":4"#,
            r#","sequence":6,"batch_first_sequence":3,"batch_last_sequence":5"#,
            r#","colour":"red""#,
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn line_breaks_between_the_parts_of_a_payload_become_blanks() {
        assert_eq!(
            on_one_line("{\n  \"a\": \"x\\ny\"\r\n}"),
            "{   \"a\": \"x\\ny\"  }"
        );
    }
}

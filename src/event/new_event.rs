//! An event that is to be appended.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::error::{AppendError, InvalidEvent};
use crate::event::cause::Cause;
use crate::event::codec;
use crate::event::draft::Drafts;
use crate::event::limits::Limits;
use crate::event::lineage::Lineage;
use crate::event::payload::{CAUSATION_ID, CORRELATION_ID};
use crate::event::record::EventRecord;

/// An event that is to be appended: a type, a JSON payload, tags, and optional metadata.
///
/// Building one never fails; whatever is wrong with it is reported by [`append`](crate::Store::append), before
/// anything is queued.
///
/// ```
/// use millstream::NewEvent;
/// use serde_json::json;
///
/// let event = NewEvent::new("order-placed", json!({"order": 7, "total": 1250}))
///     .tag("order:7")
///     .correlation_id("checkout-19");
/// # let _ = event;
/// ```
#[derive(Clone, Debug)]
pub struct NewEvent {
    event_type: String,
    schema_version: u32,
    payload: Content,
    tags: Vec<String>,
    metadata: Map<String, Value>,
    fault: Option<InvalidEvent>,
}

#[derive(Clone, Debug)]
enum Content {
    /// Text that this crate serialised.
    Serialised(String),
    /// Text from elsewhere, which may be anything.
    Raw(String),
}

impl NewEvent {
    /// An event of a type with a payload, which is serialised to JSON here and now.
    pub fn new(event_type: impl Into<String>, payload: impl Serialize) -> Self {
        let event = Self::bare(event_type.into());
        match serde_json::to_string(&payload) {
            Ok(text) => event.content(Content::Serialised(text)),
            Err(error) => event.fault(InvalidEvent::Unserialisable(Arc::new(error))),
        }
    }

    /// An event whose payload is JSON text already. [`append`](crate::Store::append) refuses text that is not JSON.
    pub fn raw(event_type: impl Into<String>, json: impl Into<String>) -> Self {
        Self::bare(event_type.into()).content(Content::Raw(json.into()))
    }

    /// A typed event: the name of the enum's variant becomes the event type, its content the payload.
    ///
    /// Serde's renaming attributes apply. A unit variant has the payload `null`. A value that is not an enum in serde's
    /// default representation is refused by [`append`](crate::Store::append).
    ///
    /// ```
    /// use millstream::NewEvent;
    /// use serde::Serialize;
    ///
    /// #[derive(Serialize)]
    /// #[serde(rename_all = "kebab-case")]
    /// enum Order {
    ///     OrderPlaced { order: u64, total: u64 },
    /// }
    ///
    /// let event = NewEvent::encode(&Order::OrderPlaced { order: 7, total: 1250 }).tag("order:7");
    /// # let _ = event;
    /// ```
    pub fn encode(value: &impl Serialize) -> Self {
        match codec::encode(value) {
            Ok((event_type, text)) => Self::bare(event_type).content(Content::Serialised(text)),
            Err(error) => Self::bare(String::new()).fault(InvalidEvent::NotAnEnum(Arc::new(error))),
        }
    }

    /// An event from one JSON object: `{"type": .., "payload": .., "tags": [..], "metadata": {..}, "schema_version": 1}`, of
    /// which the last three may be missing.
    ///
    /// # Errors
    /// The text is not such an object. What its parts may contain is checked by [`append`](crate::Store::append).
    pub fn from_json(text: &str) -> Result<Self, InvalidEvent> {
        let import: Import<'_> =
            serde_json::from_str(text).map_err(|error| InvalidEvent::InvalidImport(Arc::new(error)))?;
        let mut event = Self::raw(import.event_type, import.payload.get()).tags(import.tags);
        event.metadata = import.metadata;
        Ok(event.schema_version(import.schema_version))
    }

    /// Sets the version of the payload's shape, from 1 on. Default 1.
    ///
    /// Raise it when the payload of a type changes in a way that older events do not fit, and register an
    /// [upcaster](crate::StoreBuilder::upcast) from the version before. A version older than the newest one that the store knows is
    /// accepted and stored as it is: everybody is shown what the upcasters make of it. One that the store's upcasters cannot bring up
    /// is refused by [`append`](crate::Store::append).
    ///
    /// ```
    /// use millstream::NewEvent;
    /// use serde_json::json;
    ///
    /// let event = NewEvent::new("order-placed", json!({"order": 7, "total": {"cents": 1250}})).schema_version(2);
    /// # let _ = event;
    /// ```
    #[must_use]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = version;
        self
    }

    /// Adds a tag: a text by which queries find the event, such as `order:7`. A tag given twice counts once.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        self.tags.push(tag.as_ref().to_owned());
        self
    }

    /// Adds several tags.
    #[must_use]
    pub fn tags(self, tags: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        tags.into_iter().fold(self, Self::tag)
    }

    /// Adds a value to the metadata under `key`, in place of an earlier one.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.metadata.insert(key.into(), value);
                self
            }
            Err(error) => self.fault(InvalidEvent::Unserialisable(Arc::new(error))),
        }
    }

    /// Sets the id that one business transaction carries through all its events.
    #[must_use]
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.metadata(CORRELATION_ID, id.into())
    }

    /// Sets the id of what caused the event.
    #[must_use]
    pub fn causation_id(self, id: impl Into<String>) -> Self {
        self.metadata(CAUSATION_ID, id.into())
    }

    /// Says in the metadata what caused the event.
    pub(crate) fn caused_by(mut self, cause: &Cause) -> Self {
        cause.write(&mut self.metadata);
        self
    }

    /// Checks every limit (L5), and adds the event to those of its batch.
    pub(crate) fn draft(self, limits: &Limits, drafts: &mut Drafts) -> Result<(), InvalidEvent> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        limits.check_type(&self.event_type)?;
        if self.schema_version == 0 {
            return Err(InvalidEvent::SchemaVersionZero);
        }
        let tags = each_once(self.tags);
        limits.check_tags(&tags)?;
        let payload = match self.payload {
            Content::Serialised(text) => {
                limits.check_payload(&text)?;
                text
            }
            Content::Raw(text) => {
                limits.check_payload(&text)?;
                serde_json::from_str::<Value>(&text)
                    .map_err(|error| InvalidEvent::InvalidJson(Arc::new(error)))?;
                text
            }
        };
        let metadata = (!self.metadata.is_empty()).then(|| Value::Object(self.metadata).to_string());
        if let Some(text) = &metadata {
            limits.check_metadata(text)?;
        }
        let event_type = drafts
            .last_type(&self.event_type)
            .unwrap_or_else(|| self.event_type.into());
        let place = drafts.place_owned(tags.iter().map(String::as_str), payload, metadata.as_deref());
        drafts.keep(0, event_type, place, Lineage::of_version(self.schema_version));
        Ok(())
    }

    fn bare(event_type: String) -> Self {
        Self {
            event_type,
            schema_version: 1,
            payload: Content::Serialised(String::from("null")),
            tags: Vec::new(),
            metadata: Map::new(),
            fault: None,
        }
    }

    fn content(mut self, payload: Content) -> Self {
        self.payload = payload;
        self
    }

    /// Keeps the first fault, which `append` reports.
    fn fault(mut self, fault: InvalidEvent) -> Self {
        self.fault.get_or_insert(fault);
        self
    }
}

/// Checks a whole append and turns it into records that only lack their place in the log. Gives their weight, too.
pub(crate) fn check_batch(
    events: impl IntoIterator<Item = NewEvent>,
    limits: &Limits,
) -> Result<(Vec<EventRecord>, usize), AppendError> {
    let events = events.into_iter();
    let mut drafts = Drafts::with_capacity(events.size_hint().0.min(limits.batch_events_max), 0);
    for (index, event) in events.enumerate() {
        if index >= limits.batch_events_max {
            let max = limits.batch_events_max;
            return Err(AppendError::TooManyEvents { max });
        }
        event
            .draft(limits, &mut drafts)
            .map_err(|source| AppendError::InvalidEvent { index, source })?;
        let (bytes, max) = (drafts.weight_bytes(), limits.batch_bytes_max);
        if bytes > max {
            return Err(AppendError::BatchTooLarge { index, bytes, max });
        }
    }
    if drafts.is_empty() {
        return Err(AppendError::Empty);
    }
    let bytes = drafts.weight_bytes();
    Ok((drafts.finish(Timestamp::EPOCH), bytes))
}

/// The tags without repetitions, in the order in which they came first.
fn each_once(mut tags: Vec<String>) -> Vec<String> {
    if tags.len() > 1 {
        let mut seen = HashSet::with_capacity(tags.len());
        tags.retain(|tag| seen.insert(tag.clone()));
    }
    tags
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import<'a> {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    payload: &'a serde_json::value::RawValue,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default = "first_version")]
    schema_version: u32,
}

fn first_version() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: NewEvent) -> Result<EventRecord, InvalidEvent> {
        let mut drafts = Drafts::default();
        event.draft(&Limits::default(), &mut drafts)?;
        Ok(drafts.finish(Timestamp::EPOCH).remove(0))
    }

    #[test]
    fn l5_each_fault_is_named_with_its_limit() {
        let long = "x".repeat(256);
        let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
        let cases: Vec<(NewEvent, &str)> = vec![
            (NewEvent::new("", 1), "event type is empty"),
            (NewEvent::new(long.as_str(), 1), "256 bytes"),
            (NewEvent::new("a\u{7}", 1), "control character"),
            (NewEvent::new("a", 1).tag(""), "tag is empty"),
            (NewEvent::new("a", 1).tag(&long), "at most 255"),
            (NewEvent::new("a", 1).tag("x\ny"), "control character"),
            (
                NewEvent::new("a", 1).tags((0..65).map(|n| n.to_string())),
                "65 tags",
            ),
            (NewEvent::new("a", "x".repeat(1 << 20)), "1048578 bytes"),
            (NewEvent::raw("a", "{"), "not valid JSON"),
            (NewEvent::raw("a", "1 2"), "not valid JSON"),
            (NewEvent::raw("a", r#""\ud800""#), "not valid JSON"),
            (NewEvent::raw("a", deep), "nested"),
            (
                NewEvent::new("a", 1).metadata("k", "x".repeat(1 << 17)),
                "metadata",
            ),
            (NewEvent::encode(&7), "enum"),
            (NewEvent::new("a", 1).schema_version(0), "count from 1"),
        ];
        for (event, expected) in cases {
            let message = record(event).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn deepest_allowed_payload_can_be_read_back() {
        let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
        let record = record(NewEvent::raw("a", deep)).unwrap();
        record.payload.json().unwrap();
    }

    #[test]
    fn tags_are_a_set_in_the_order_given() {
        let record = record(NewEvent::new("a", 1).tags(["b", "a", "b"])).unwrap();
        assert_eq!(record.tags().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn import_takes_the_whole_event() {
        let event = NewEvent::from_json(
            r#"{"type":"t","payload":{"n": 1},"tags":["x"],"metadata":{"correlation_id":"c"}}"#,
        );
        let record = record(event.unwrap()).unwrap();
        assert_eq!(record.payload().as_str(), r#"{"n": 1}"#);
        assert!(record.has_tag("x"));
        assert_eq!(record.metadata().unwrap().correlation_id(), Some("c"));
        assert!(NewEvent::from_json(r#"{"type":"t"}"#).is_err());
    }
}

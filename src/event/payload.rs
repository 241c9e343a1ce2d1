//! JSON that keeps its text and is parsed on demand.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::DecodeError;
use crate::event::cause;
use crate::event::text::{SharedText, TextRange};

/// The JSON content of an event.
///
/// A payload keeps the text that was appended. [`json`](Payload::json) parses it once and caches the result,
/// [`decode`](Payload::decode) goes from the text straight to a type of yours.
///
/// The text is a part of a buffer that the events which were committed, or read, together share: a payload that is kept
/// keeps all of it. `payload.as_str().to_owned()` is a copy on its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use millstream::{EventQuery, NewEvent, Store};
/// # let store = Store::in_memory()?;
/// store.append([NewEvent::new("order-placed", serde_json::json!({"order": 7}))]).await?;
/// let found = store.query(&EventQuery::all()).await?;
/// let payload = found.events[0].payload();
/// assert_eq!(payload.as_str(), r#"{"order":7}"#);
/// assert_eq!(payload.json()?["order"], 7);
/// # Ok(()) }
/// ```
pub struct Payload {
    text: SharedText,
    parsed: OnceLock<Option<Box<Value>>>,
}

impl Payload {
    pub(crate) fn new(text: SharedText) -> Self {
        Self {
            text,
            parsed: OnceLock::new(),
        }
    }

    /// The JSON text, as it was appended.
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// The parsed JSON, which is kept for the next call.
    ///
    /// # Errors
    /// Text that is not JSON: possible only in a file that was written by other means than [`append`](crate::Store::append).
    pub fn json(&self) -> Result<&Value, DecodeError> {
        match self.parsed() {
            Some(value) => Ok(value),
            None => self.decode::<Value>().map(|_| &Value::Null),
        }
    }

    /// Decodes the text into `T`, without going through [`json`](Payload::json).
    ///
    /// # Errors
    /// The text does not have the shape of `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(self.as_str()).map_err(DecodeError::new)
    }

    /// Another text in the buffer that the texts of the whole batch, or page, share.
    pub(crate) fn sibling(&self, range: TextRange) -> &str {
        self.text.sibling(range)
    }

    /// Where the text lies in that buffer.
    pub(crate) fn as_range(&self) -> Range<usize> {
        self.text.as_range()
    }

    /// The parsed JSON, or nothing when the text is not JSON.
    pub(crate) fn parsed(&self) -> Option<&Value> {
        self.parsed
            .get_or_init(|| serde_json::from_str(self.as_str()).ok().map(Box::new))
            .as_deref()
    }
}

impl Clone for Payload {
    /// Shares the text. What was parsed is not copied.
    fn clone(&self) -> Self {
        Self::new(self.text.clone())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(formatter)
    }
}

/// What travels with an event beside its payload: correlation and causation ids and the like.
///
/// A JSON object, written with [`NewEvent::metadata`](crate::NewEvent::metadata).
#[derive(Clone, Debug)]
pub struct Metadata {
    object: Payload,
}

/// The key of the id that one business transaction carries through all its events.
pub(crate) const CORRELATION_ID: &str = "correlation_id";
/// The key of the id of what caused an event.
pub(crate) const CAUSATION_ID: &str = "causation_id";
/// The key of the number of reactions between an event and one that is none.
pub(crate) const REACTION_DEPTH: &str = "reaction_depth";

impl Metadata {
    pub(crate) fn new(text: SharedText) -> Self {
        Self {
            object: Payload::new(text),
        }
    }

    pub(crate) fn object(&self) -> &Payload {
        &self.object
    }

    /// The JSON text of the object.
    pub fn as_str(&self) -> &str {
        self.object.as_str()
    }

    /// The value under `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.parsed()?.get(key)
    }

    /// The correlation id, if it is there and is a text.
    pub fn correlation_id(&self) -> Option<&str> {
        self.get(CORRELATION_ID)?.as_str()
    }

    /// The causation id, if it is there and is a text.
    pub fn causation_id(&self) -> Option<&str> {
        self.get(CAUSATION_ID)?.as_str()
    }

    /// The sequence of the event that caused this one, when it is a [reaction](crate::Reaction).
    pub fn caused_by(&self) -> Option<u64> {
        cause::sequence(self.causation_id()?)
    }

    /// How many [reactions](crate::Reaction) lie between this event and one that is none; 0: it is none itself.
    pub fn reaction_depth(&self) -> u64 {
        self.get(REACTION_DEPTH).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Decodes the object into `T`.
    ///
    /// # Errors
    /// The object does not have the shape of `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.object.decode()
    }
}

//! Why an append was refused, or failed.

use std::sync::Arc;

use thiserror::Error;

use crate::error::{StorageError, UndecodableEvent, UpcastError};

/// One event of an append was refused (L5).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// There is no type.
    #[error("the event type is empty; give the event a type")]
    TypeEmpty,
    /// The type is too long.
    #[error("the event type has {bytes} bytes, at most {max} are allowed")]
    TypeTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A type or tag has a line feed or another control character in it.
    #[error("the {field} {text:?} contains a control character; remove it")]
    ControlCharacter {
        /// Which part of the event.
        field: &'static str,
        /// The text.
        text: Box<str>,
    },
    /// A tag without text.
    #[error("a tag is empty; leave it out")]
    TagEmpty,
    /// A tag is too long.
    #[error("the tag {tag:?} has {bytes} bytes, at most {max} are allowed")]
    TagTooLong {
        /// The tag.
        tag: Box<str>,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The event has too many tags.
    #[error("the event has {count} tags, at most {max} are allowed")]
    TooManyTags {
        /// How many it has.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The payload is too large.
    #[error(
        "the payload has {bytes} bytes as JSON, at most {max} are allowed; store large content elsewhere and refer to it, or raise `Limits::payload_bytes_max`"
    )]
    PayloadTooLarge {
        /// Its length as JSON text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The metadata are too large.
    #[error("the metadata have {bytes} bytes as JSON, at most {max} are allowed")]
    MetadataTooLarge {
        /// Their length as JSON text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The payload or the metadata are nested so deeply that they could not be read back.
    #[error("the JSON is nested {depth} levels deep, at most {max} are allowed")]
    TooDeep {
        /// How deep it is nested.
        depth: usize,
        /// The limit.
        max: usize,
    },
    /// The payload was given as text, and the text is not JSON.
    #[error("the payload is not valid JSON: {0}")]
    InvalidJson(#[source] Arc<serde_json::Error>),
    /// The payload or a metadata value cannot be written as JSON.
    #[error("the value cannot be written as JSON: {0}")]
    Unserialisable(#[source] Arc<serde_json::Error>),
    /// What was to be encoded as a typed event is not an enum.
    #[error("only a serde enum can be encoded as a typed event: {0}")]
    NotAnEnum(#[source] Arc<serde_json::Error>),
    /// What was to be imported is not an event.
    #[error("this is not an event with `type` and `payload`: {0}")]
    InvalidImport(#[source] Arc<serde_json::Error>),
    /// There is no such schema version.
    #[error("the schema version is 0; versions count from 1")]
    SchemaVersionZero,
    /// The store's upcasters cannot bring it to the newest version of its type, so nobody here could read it.
    #[error(transparent)]
    Undecodable(UpcastError),
}

/// An idempotency key was refused (L5).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// There is no text.
    #[error("it is empty; name what is to be done once, such as \"payment:81\"")]
    Empty,
    /// It is too long.
    #[error(
        "it has {bytes} bytes, at most {max} are allowed; use an id, not what it stands for, or raise `Limits::key_bytes_max`"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It has a line feed or another control character in it.
    #[error("{key:?} contains a control character; remove it")]
    ControlCharacter {
        /// The key.
        key: Box<str>,
    },
}

/// An append was refused or failed. Nothing of it is in the log, unless the variant says otherwise.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// There was no event in it.
    #[error("the append has no events; give it at least one")]
    Empty,
    /// The append has too many events.
    #[error(
        "the append has more than {max} events; append several batches, or raise `Limits::batch_events_max`"
    )]
    TooManyEvents {
        /// The limit.
        max: usize,
    },
    /// The events are too large together.
    #[error(
        "the append has {bytes} bytes up to event {index}, at most {max} are allowed; append several batches, or raise `Limits::batch_bytes_max`"
    )]
    BatchTooLarge {
        /// The event, counted from 0, that exceeded the limit.
        index: usize,
        /// The bytes up to and with that event.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// One of the events was refused.
    #[error("event {index} of the append is refused: {source}")]
    InvalidEvent {
        /// Which event, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: InvalidEvent,
    },
    /// The context of an [`append_if`](crate::Store::append_if) moved.
    #[error(
        "the context moved: expected {expected}, found {found}; query again, decide again, and append with the new version"
    )]
    Conflict {
        /// What the caller expected.
        expected: String,
        /// What the log holds.
        found: String,
    },
    /// The context of an [`append_if`](crate::Store::append_if) holds an event that cannot be decoded: what it means for the
    /// decision is not known.
    #[error("the context cannot be checked: {0}")]
    Undecodable(UndecodableEvent),
    /// The idempotency key of an [`append_once`](crate::Store::append_once) was refused.
    #[error("the idempotency key is refused: {0}")]
    InvalidKey(#[source] InvalidKey),
    /// The idempotency key of an [`append_once`](crate::Store::append_once) was used before, for events that say something else.
    #[error(
        "the idempotency key {key:?} was used for other events, which are {first_sequence} to {last_sequence} of the log; retry with the same events, or give these a key of their own"
    )]
    KeyReused {
        /// The key.
        key: Box<str>,
        /// The first of the events that were appended under it.
        first_sequence: u64,
        /// The last of them.
        last_sequence: u64,
    },
    /// The store was closed before the append was queued.
    #[error("the store is closed")]
    Closed,
    /// The storage failed. When it failed while the transaction was being committed, for instance because the disk broke,
    /// the outcome is unknown: the events may be in the log, and are then delivered. An
    /// [`append_once`](crate::Store::append_once) that is called again with the same key finds out.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

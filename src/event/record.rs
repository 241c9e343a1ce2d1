//! A committed event, as it is read and delivered.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clock::Timestamp;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::error::ReadError;
use crate::error::{DecodeError, UndecodableEvent};
use crate::event::codec;
use crate::event::lineage::Lineage;
use crate::event::matching::Selectable;
use crate::event::payload::{Metadata, Payload};
use crate::event::text::TextRange;

/// What joins tags in memory. A tag with a control character is refused, so the text splits unambiguously.
pub(crate) const TAG_SEPARATOR: char = '\n';

/// One committed event: an immutable fact with its place in the log.
///
/// Cloning shares the text of the payload and copies no part of it.
///
/// The texts of all events that were committed, or read from the log, together are one allocation, which lives as long as any
/// of these events or a clone of it. To keep something of an event for long, decode it, or copy what is needed.
#[derive(Clone, Debug)]
pub struct EventRecord {
    pub(crate) sequence: u64,
    pub(crate) recorded_at: Timestamp,
    pub(crate) event_type: Arc<str>,
    /// The tags, joined, in the buffer of the payload.
    pub(crate) tags: TextRange,
    pub(crate) payload: Payload,
    pub(crate) metadata: Option<Box<Metadata>>,
    /// What there is to say of it; nothing of one of schema version 1 that is shown as it is stored.
    pub(crate) lineage: Option<Arc<Lineage>>,
}

impl EventRecord {
    /// The event's place in the log, counted from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When the batch was committed, to the microsecond. It never decreases along the log, even when the system clock does.
    pub fn recorded_at(&self) -> SystemTime {
        self.recorded_at.into()
    }

    /// What kind of fact it is.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The version of the payload's shape, from 1 on: of the payload as it is here, after the store's
    /// [upcasters](crate::StoreBuilder::upcast) brought it up.
    pub fn schema_version(&self) -> u32 {
        self.lineage.as_deref().map_or(1, |lineage| lineage.version)
    }

    /// Why it could not be brought up to date, if it could not. It is shown as it is stored then.
    pub(crate) fn fault(&self) -> Option<&UndecodableEvent> {
        self.lineage.as_deref()?.fault.as_ref()
    }

    /// Refuses one that could not be brought up to date.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn decodable(&self) -> Result<&Self, ReadError> {
        match self.fault() {
            None => Ok(self),
            Some(fault) => Err(ReadError::Undecodable(fault.clone())),
        }
    }

    /// What is to be stored as its type.
    pub(crate) fn stored_type(&self) -> &Arc<str> {
        let stored = self
            .lineage
            .as_deref()
            .and_then(|lineage| lineage.stored.as_ref());
        stored.map_or(&self.event_type, |stored| &stored.event_type)
    }

    /// What is to be stored as its schema version.
    pub(crate) fn stored_version(&self) -> u32 {
        self.lineage
            .as_deref()
            .map_or(1, |lineage| match &lineage.stored {
                Some(stored) => stored.version,
                None => lineage.version,
            })
    }

    /// What is to be stored as its payload.
    pub(crate) fn stored_payload(&self) -> &str {
        let stored = self
            .lineage
            .as_deref()
            .and_then(|lineage| lineage.stored.as_ref());
        stored.map_or(self.payload.as_str(), |stored| {
            self.payload.sibling(stored.payload)
        })
    }

    /// The tags, each once, in the order in which they were given.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let joined = self.payload.sibling(self.tags);
        joined.split(TAG_SEPARATOR).filter(|tag| !tag.is_empty())
    }

    /// Whether the event carries `tag`.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().any(|found| found == tag)
    }

    /// The JSON content.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What travels with the event, if anything was given.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_deref()
    }

    /// Where the texts of the event lie in their buffer: side by side, tags or payload first.
    pub(crate) fn texts(&self) -> Range<usize> {
        let (tags, payload) = (self.tags.as_range(), self.payload.as_range());
        let metadata = self
            .metadata
            .as_deref()
            .map(|metadata| metadata.object().as_range());
        let end = metadata.map_or(0, |range| range.end);
        let stored = self
            .lineage
            .as_deref()
            .and_then(|lineage| lineage.stored.as_ref());
        let end = stored.map_or(end, |stored| stored.payload.as_range().end);
        tags.start.min(payload.start)..tags.end.max(payload.end).max(end)
    }

    /// Decodes a typed event: the inverse of [`NewEvent::encode`](crate::NewEvent::encode).
    ///
    /// For an enum the event type names the variant and the payload is its content; any other type is decoded from
    /// the payload alone.
    ///
    /// # Errors
    /// The enum has no variant of that name, or the payload does not have the variant's shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        codec::decode(&self.event_type, self.payload.as_str())
    }
}

impl Selectable for EventRecord {
    fn event_type(&self) -> &str {
        &self.event_type
    }

    fn has_tag(&self, tag: &str) -> bool {
        Self::has_tag(self, tag)
    }

    fn parsed_payload(&self) -> Option<&Value> {
        self.payload.parsed()
    }

    fn fault(&self) -> Option<&UndecodableEvent> {
        Self::fault(self)
    }
}

//! Events in the making, those of one batch or of one page: their texts share one buffer.

use std::ops::Range;
use std::sync::Arc;
use std::vec;

use crate::clock::Timestamp;
use crate::event::lineage::Lineage;
use crate::event::payload::{Metadata, Payload};
use crate::event::record::{EventRecord, TAG_SEPARATOR};
use crate::event::text::{SharedText, TextRange};

/// What a batch weighs in memory, as budgets count it: its events, and their texts with room for the parsed payloads,
/// which the events may come to hold for as long as they live.
pub(crate) fn weight_bytes(events: usize, text_bytes: usize) -> usize {
    BATCH_BYTES + events * size_of::<EventRecord>() + text_bytes * (1 + PARSED_FACTOR)
}

/// What the allocations of a batch come to that do not grow with it.
const BATCH_BYTES: usize = 256;
/// How many times the size of its text a parsed payload takes.
const PARSED_FACTOR: usize = 3;

/// Events whose texts are still ranges of a buffer that grows.
#[derive(Default)]
pub(crate) struct Drafts {
    text: String,
    events: Vec<Draft>,
}

struct Draft {
    sequence: u64,
    event_type: Arc<str>,
    place: Place,
    lineage: Option<Arc<Lineage>>,
}

/// Events that share a finished buffer, to be divided into batches.
pub(crate) struct SharedDrafts {
    buffer: Arc<String>,
    events: vec::IntoIter<Draft>,
}

impl SharedDrafts {
    /// The next so many events: those of one batch.
    pub(crate) fn take(&mut self, count: usize, recorded_at: Timestamp) -> Vec<EventRecord> {
        let text = |range| SharedText::slice(&self.buffer, range);
        let events = self.events.by_ref().take(count).map(|draft| EventRecord {
            sequence: draft.sequence,
            recorded_at,
            event_type: draft.event_type,
            lineage: draft.lineage,
            tags: TextRange::new(&self.buffer, draft.place.tags),
            payload: Payload::new(text(draft.place.payload)),
            metadata: draft
                .place
                .metadata
                .map(|range| Box::new(Metadata::new(text(range)))),
        });
        events.collect()
    }
}

/// Where the texts of an event lie in the buffer.
pub(crate) struct Place {
    tags: Range<usize>,
    payload: Range<usize>,
    metadata: Option<Range<usize>>,
}

impl Drafts {
    pub(crate) fn with_capacity(events: usize, text_bytes: usize) -> Self {
        Self {
            text: String::with_capacity(text_bytes),
            events: Vec::with_capacity(events),
        }
    }

    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// What the batch will weigh in memory.
    pub(crate) fn weight_bytes(&self) -> usize {
        weight_bytes(self.events.len(), self.text.len())
    }

    /// Adds the texts of an event. It is not one of the batch before it is kept.
    pub(crate) fn place<'a>(
        &mut self,
        tags: impl Iterator<Item = &'a str>,
        payload: &str,
        metadata: Option<&str>,
    ) -> Place {
        let start = self.text.len();
        for tag in tags {
            if self.text.len() > start {
                self.text.push(TAG_SEPARATOR);
            }
            self.text.push_str(tag);
        }
        Place {
            tags: start..self.text.len(),
            payload: self.push(payload),
            metadata: metadata.map(|text| self.push(text)),
        }
    }

    /// As [`place`](Self::place), with a payload that becomes the buffer itself when it is the first text.
    pub(crate) fn place_owned<'a>(
        &mut self,
        tags: impl Iterator<Item = &'a str>,
        payload: String,
        metadata: Option<&str>,
    ) -> Place {
        if !self.text.is_empty() {
            return self.place(tags, &payload, metadata);
        }
        self.text = payload;
        let payload = 0..self.text.len();
        let Place { tags, metadata, .. } = self.place(tags, "", metadata);
        Place {
            tags,
            payload,
            metadata,
        }
    }

    /// The tags, joined, and the payload of an event that was placed.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn texts(&self, place: &Place) -> (&str, &str) {
        (&self.text[place.tags.clone()], &self.text[place.payload.clone()])
    }

    /// Adds the payload that is to be stored of the event placed last, which is shown with another one.
    pub(crate) fn place_stored(&mut self, payload: &str) -> TextRange {
        let range = self.push(payload);
        TextRange::new(&self.text, range)
    }

    pub(crate) fn keep(
        &mut self,
        sequence: u64,
        event_type: Arc<str>,
        place: Place,
        lineage: Option<Arc<Lineage>>,
    ) {
        self.events.push(Draft {
            sequence,
            event_type,
            place,
            lineage,
        });
    }

    /// Takes the texts of the event placed last out again.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn discard(&mut self, place: &Place) {
        self.text.truncate(place.tags.start);
    }

    /// The type of the event before, when it has this name: events of a batch are often of one type.
    pub(crate) fn last_type(&self, name: &str) -> Option<Arc<str>> {
        let last = self.events.last()?;
        (*last.event_type == *name).then(|| Arc::clone(&last.event_type))
    }

    pub(crate) fn finish(self, recorded_at: Timestamp) -> Vec<EventRecord> {
        let events = self.events.len();
        self.share().take(events, recorded_at)
    }

    /// Ends the buffer: from now on the events share it.
    pub(crate) fn share(mut self) -> SharedDrafts {
        if self.text.capacity() > 2 * self.text.len() {
            // What was discarded is not to be kept.
            self.text.shrink_to_fit();
        }
        SharedDrafts {
            buffer: Arc::new(self.text),
            events: self.events.into_iter(),
        }
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }
}

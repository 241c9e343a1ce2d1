//! A committed batch as it is to be stored.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::ReadError;
use crate::event::batch::{CommittedBatch, EventBatch};
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::page::Range;

/// An event as it is stored: before any upcaster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredEvent<'a> {
    /// Its place in the log.
    pub sequence: u64,
    /// What kind of fact it is.
    pub event_type: &'a str,
    /// The version of the payload's shape, from 1 on.
    pub schema_version: u32,
    /// Each once, in the order in which they were given. None has a control character.
    pub tags: Vec<&'a str>,
    /// JSON, as it was given.
    pub payload: &'a str,
    /// A JSON object, if anything was given.
    pub metadata: Option<&'a str>,
}

impl<'a> StoredEvent<'a> {
    /// An event of schema version 1 without tags and metadata.
    pub fn new(sequence: u64, event_type: &'a str, payload: &'a str) -> Self {
        Self {
            sequence,
            event_type,
            schema_version: 1,
            tags: Vec::new(),
            payload,
            metadata: None,
        }
    }

    fn of(event: &'a EventRecord) -> Self {
        Self {
            sequence: event.sequence,
            event_type: event.stored_type(),
            schema_version: event.stored_version(),
            tags: event.tags().collect(),
            payload: event.stored_payload(),
            metadata: event.metadata().map(|metadata| metadata.as_str()),
        }
    }
}

impl CommittedBatch {
    /// The stretch of the log that it is. Not empty.
    pub fn range(&self) -> Range {
        Range {
            after: self.first_sequence - 1,
            through: self.last_sequence,
        }
    }

    /// When it was committed: not before the batch before it.
    pub fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// Its events, or those that a page holds of it, in order, as they are to be stored. Of a batch that was read only those of
    /// version 1 without an upcaster are: a log stores what it is given to append.
    pub fn stored_events(&self) -> impl Iterator<Item = StoredEvent<'_>> {
        self.events.iter().map(StoredEvent::of)
    }

    /// The first of its events after `after` that a query selects.
    ///
    /// # Errors
    /// That event cannot be brought up to date, so that it is not known what it says.
    pub fn first_selected(
        self: &Arc<Self>,
        query: &EventQuery,
        after: u64,
    ) -> Result<Option<u64>, ReadError> {
        let Some(selected) = EventBatch::select(Arc::clone(self), query, after) else {
            return Ok(None);
        };
        let first = selected.iter().next();
        match first.and_then(EventRecord::fault) {
            Some(fault) => Err(ReadError::Undecodable(fault.clone())),
            None => Ok(first.map(EventRecord::sequence)),
        }
    }
}

//! What a reaction says of the event that caused it.

use serde_json::{Map, Value};

use crate::event::payload::{CAUSATION_ID, CORRELATION_ID, Metadata, REACTION_DEPTH};
use crate::event::record::EventRecord;

/// What is written into the metadata of the events that one event causes.
pub(crate) struct Cause {
    sequence: u64,
    correlation_id: Value,
    depth: u64,
}

impl Cause {
    pub(crate) fn of(event: &EventRecord) -> Self {
        let metadata = event.metadata();
        let given = metadata.and_then(|metadata| metadata.get(CORRELATION_ID));
        let own = || Value::String(identity(event.sequence()));
        Self {
            sequence: event.sequence(),
            correlation_id: given.filter(|id| !id.is_null()).cloned().unwrap_or_else(own),
            depth: metadata.map_or(0, Metadata::reaction_depth).saturating_add(1),
        }
    }

    /// How many reactions lie between an event that it causes and one that is no reaction.
    pub(crate) fn depth(&self) -> u64 {
        self.depth
    }

    /// A correlation id that was given stays: whoever reacts may begin a transaction of its own. The others cannot be given.
    pub(crate) fn write(&self, metadata: &mut Map<String, Value>) {
        let correlation = metadata.entry(CORRELATION_ID);
        correlation.or_insert_with(|| self.correlation_id.clone());
        metadata.insert(CAUSATION_ID.to_owned(), identity(self.sequence).into());
        metadata.insert(REACTION_DEPTH.to_owned(), self.depth.into());
    }
}

/// What stands for an event in metadata. It differs from the ids that programs give, such as the number of an order.
fn identity(sequence: u64) -> String {
    format!("{IDENTITY}{sequence}")
}

/// The sequence of the event that an id stands for.
pub(crate) fn sequence(identity: &str) -> Option<u64> {
    identity.strip_prefix(IDENTITY)?.parse().ok()
}

const IDENTITY: &str = "event:";

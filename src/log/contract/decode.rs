//! A batch as it is read: what is stored, after the upcasters of the store.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::StorageError;
use crate::event::batch::CommittedBatch;
use crate::event::draft::Drafts;
use crate::event::evolution::Evolution;
use crate::log::contract::event::StoredEvent;
use crate::log::page::Range;
use crate::log::show::{Kind, Row, ShownRow};

/// Makes batches of what a log has stored. It knows the [upcasters](crate::StoreBuilder::upcast) of its store, so each store has its own.
#[derive(Clone, Default)]
pub struct Decoder {
    evolution: Option<Arc<Evolution>>,
}

impl Decoder {
    pub(crate) fn new(evolution: Option<Arc<Evolution>>) -> Self {
        Self { evolution }
    }

    /// The batch with this range and time. The texts of its events share one allocation.
    ///
    /// # Errors
    /// The range is empty, or the events are not in order inside it: the log is damaged.
    pub fn batch<'a>(
        &self,
        range: Range,
        recorded_at: Timestamp,
        events: impl IntoIterator<Item = StoredEvent<'a>>,
    ) -> Result<Arc<CommittedBatch>, StorageError> {
        if range.after >= range.through {
            return Err(damaged(format!(
                "a batch ends at {} and begins after {}",
                range.through, range.after
            )));
        }
        let mut drafts = Drafts::default();
        let (mut last, mut bytes, mut may_have_faults) = (range.after, 0, false);
        for event in events {
            if event.sequence <= last || event.sequence > range.through {
                return Err(damaged(format!(
                    "event {} follows {last} in the batch that ends at {}",
                    event.sequence, range.through
                )));
            }
            last = event.sequence;
            let shown = self.show(&event, bytes);
            let payload = shown.payload.as_deref().unwrap_or(event.payload);
            bytes += payload.len();
            may_have_faults |= shown.fault().is_some();
            let place = drafts.place(event.tags.iter().copied(), payload, event.metadata);
            drafts.keep(event.sequence, shown.event_type, place, shown.lineage);
        }
        Ok(Arc::new(CommittedBatch {
            first_sequence: range.after + 1,
            last_sequence: range.through,
            recorded_at,
            may_have_faults,
            events: drafts.finish(recorded_at),
        }))
    }

    fn show(&self, event: &StoredEvent<'_>, batch_bytes: usize) -> ShownRow {
        let evolution = self.evolution.as_deref();
        let kind = Kind::new(event.event_type, event.schema_version, evolution);
        let row = Row {
            sequence: event.sequence,
            payload: event.payload,
            batch_bytes,
        };
        match evolution {
            Some(evolution) if !kind.is_current => ShownRow::of(evolution, kind, row),
            _ => ShownRow::as_stored(kind),
        }
    }
}

fn damaged(problem: String) -> StorageError {
    StorageError::of_log(
        "read a batch",
        std::io::Error::new(std::io::ErrorKind::InvalidData, problem),
    )
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Decoder")
            .field("has_upcasters", &self.evolution.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ReadError;
    use crate::event::evolution::Registrations;
    use crate::event::query::EventQuery;

    #[test]
    fn a_batch_with_an_event_out_of_place_is_damaged() {
        let range = Range { after: 4, through: 6 };
        let decode = |sequences: &[u64], range| {
            let events = sequences
                .iter()
                .map(|sequence| StoredEvent::new(*sequence, "a", "1"));
            Decoder::default().batch(range, Timestamp::EPOCH, events)
        };
        assert_eq!(decode(&[5, 6], range).unwrap().events.len(), 2);
        assert_eq!(decode(&[6], range).unwrap().first_sequence, 5);
        for wrong in [&[4][..], &[7], &[6, 5], &[5, 5]] {
            assert!(decode(wrong, range).is_err(), "{wrong:?}");
        }
        assert!(decode(&[], Range { after: 4, through: 4 }).is_err());
    }

    #[test]
    fn events_are_shown_as_the_upcasters_make_them_and_told_when_they_cannot() {
        let mut registrations = Registrations::default();
        registrations.upcast("a".into(), 1, |payload: u64| match payload {
            0 => Err(String::from("nothing comes of 0")),
            number => Ok(number * 100),
        });
        let decoder = Decoder::new(registrations.check().unwrap());
        let range = Range { after: 0, through: 3 };
        let events = [(1, "a", "7"), (2, "b", "7"), (3, "a", "0")];
        let events = events.map(|(sequence, name, payload)| StoredEvent::new(sequence, name, payload));
        let batch = decoder.batch(range, Timestamp::EPOCH, events).unwrap();
        let shown = batch
            .events
            .iter()
            .map(|event| (event.payload().as_str(), event.schema_version()));
        assert_eq!(shown.collect::<Vec<_>>(), [("700", 2), ("7", 1), ("0", 1)]);
        let first = |types: &[&str], after| batch.first_selected(&EventQuery::types(types.to_vec()), after);
        assert_eq!(first(&["a", "b"], 0).unwrap(), Some(1));
        assert_eq!(first(&["b"], 0).unwrap(), Some(2));
        assert_eq!(first(&["b"], 2).unwrap(), None);
        assert!(matches!(first(&["a"], 1), Err(ReadError::Undecodable(_))));
    }
}

//! What two logs have in common when one is a copy of the other: a number for all that is stored of their events.

use crate::event::batch::CommittedBatch;
use crate::event::digest::Digest;
use crate::log::once::NamedKey;

/// What was read of a log, counted, and fed to a digest in the order of the log.
///
/// Of each batch: its ends, and when it was recorded. Of each event: sequence, type, schema version, tags in their order, payload and
/// metadata, all texts byte by byte. Of each key: the batch, the fingerprint, the text.
#[derive(Clone, Debug)]
pub(crate) struct Checksum {
    pub(crate) events: u64,
    pub(crate) batches: u64,
    pub(crate) keys: u64,
    of_events: Digest,
    of_keys: Digest,
}

impl Checksum {
    pub(crate) fn new() -> Self {
        Self {
            events: 0,
            batches: 0,
            keys: 0,
            of_events: Digest::new(),
            of_keys: Digest::new(),
        }
    }

    pub(crate) fn batch(&mut self, batch: &CommittedBatch) {
        self.batches += 1;
        let digest = &mut self.of_events;
        digest.number(batch.first_sequence);
        digest.number(batch.last_sequence);
        digest.number(batch.recorded_at.as_micros().cast_unsigned());
        for event in &batch.events {
            self.events += 1;
            digest.number(event.sequence);
            digest.text(event.stored_type());
            digest.number(u64::from(event.stored_version()));
            for tag in event.tags() {
                digest.text(tag);
            }
            digest.number(u64::MAX);
            digest.text(event.stored_payload());
            match event.metadata() {
                Some(metadata) => digest.text(metadata.as_str()),
                None => digest.number(u64::MAX),
            }
        }
    }

    pub(crate) fn key(&mut self, key: &NamedKey) {
        self.keys += 1;
        let digest = &mut self.of_keys;
        digest.number(key.stored.first_sequence);
        digest.number(key.stored.last_sequence);
        digest.bytes(&key.stored.fingerprint.0);
        digest.text(&key.key);
    }

    /// One number for all of it. How batches and keys came in pages makes no difference.
    pub(crate) fn number(&self) -> u128 {
        let mut digest = self.of_events;
        digest.bytes(&self.of_keys.finish().to_be_bytes());
        digest.finish()
    }

    /// What differs from the other side, in words; nothing: they are the same.
    pub(crate) fn difference(&self, source: &Self) -> Option<String> {
        let counts = |sum: &Self| {
            format!(
                "{} events in {} batches with {} idempotency keys",
                sum.events, sum.batches, sum.keys
            )
        };
        if self.number() == source.number() {
            return None;
        }
        Some(format!(
            "{}, checksum {:032x}; the source has {}, checksum {:032x}",
            counts(self),
            self.number(),
            counts(source),
            source.number()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::fingerprint::Fingerprint;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};
    use crate::log::once::StoredKey;

    fn batch(first_sequence: u64, micros: i64, events: Vec<NewEvent>) -> CommittedBatch {
        let events = check_batch(events, &Limits::default()).unwrap().0;
        CommittedBatch::stamp(events, first_sequence, Timestamp::from_micros(micros))
    }

    fn of(batches: &[CommittedBatch], keys: &[&str]) -> Checksum {
        let mut sum = Checksum::new();
        batches.iter().for_each(|batch| sum.batch(batch));
        for key in keys {
            sum.key(&NamedKey {
                key: (*key).into(),
                stored: StoredKey {
                    first_sequence: 1,
                    last_sequence: 1,
                    fingerprint: Fingerprint([1; 16]),
                },
            });
        }
        sum
    }

    #[test]
    fn everything_that_is_stored_counts() {
        let plain = || NewEvent::raw("a", "1").tags(["x", "y"]);
        let sums = [
            of(&[batch(1, 5, vec![plain(), plain()])], &[]),
            of(&[batch(1, 5, vec![plain()]), batch(2, 5, vec![plain()])], &[]),
            of(&[batch(2, 5, vec![plain(), plain()])], &[]),
            of(&[batch(1, 6, vec![plain(), plain()])], &[]),
            of(
                &[batch(
                    1,
                    5,
                    vec![plain(), NewEvent::raw("b", "1").tags(["x", "y"])],
                )],
                &[],
            ),
            of(
                &[batch(
                    1,
                    5,
                    vec![plain(), NewEvent::raw("a", "1 ").tags(["x", "y"])],
                )],
                &[],
            ),
            of(
                &[batch(
                    1,
                    5,
                    vec![plain(), NewEvent::raw("a", "1").tags(["y", "x"])],
                )],
                &[],
            ),
            of(&[batch(1, 5, vec![plain(), plain().schema_version(2)])], &[]),
            of(&[batch(1, 5, vec![plain(), plain().correlation_id("c")])], &[]),
            of(&[batch(1, 5, vec![plain()])], &[]),
            of(&[batch(1, 5, vec![plain(), plain()])], &["k"]),
            of(&[batch(1, 5, vec![plain(), plain()])], &["l"]),
        ];
        for (place, sum) in sums.iter().enumerate() {
            for (other_place, other) in sums.iter().enumerate() {
                let difference = sum.difference(other);
                assert_eq!(
                    difference.is_none(),
                    place == other_place,
                    "{place} {other_place}"
                );
            }
        }
    }
}

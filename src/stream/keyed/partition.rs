//! How the events of a stream are told apart by key. Pure.

use std::fmt;
use std::sync::Arc;

use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;

pub(crate) type PartitionKey = dyn Fn(&EventRecord) -> Option<String> + Send + Sync;

/// More calls at once than this are a mistake.
pub(crate) const WORKERS_MAX: u32 = 1_024;
/// How far a stream looks ahead when it is not told.
pub(crate) const LOOKAHEAD_BATCHES: u32 = 1_024;
/// What is in hand of so many batches is looked through when a call begins or ends.
pub(crate) const LOOKAHEAD_BATCHES_MAX: u32 = 65_536;

/// What a user says of parallelism by key.
#[derive(Clone)]
pub(crate) struct Partition {
    /// How many calls may be under way at once.
    pub(crate) workers: u32,
    pub(crate) key: Arc<PartitionKey>,
    /// How many batches, from the oldest unsettled one on, may be in hand.
    pub(crate) lookahead_batches: u32,
}

/// What is in order among itself, with one call at a time: the events of a key, or those that have none.
///
/// Keys are told apart by a hash that is fixed, so that keys which share a lane do so in every process and version. That
/// they do costs nothing but some parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lane {
    Keyless,
    Of(u64),
}

/// Events of one batch that share a lane.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) lane: Lane,
    pub(crate) events: EventBatch,
}

impl Partition {
    /// What is wrong with it, if something is.
    pub(crate) fn problem(&self) -> Option<String> {
        let out_of_range =
            |what, value, unit, max| Some(format!("{what} has {value} {unit}, from 1 to {max} are allowed"));
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            out_of_range("partition_by", self.workers, "workers", WORKERS_MAX)
        } else if !(1..=LOOKAHEAD_BATCHES_MAX).contains(&self.lookahead_batches) {
            out_of_range(
                "lookahead",
                self.lookahead_batches,
                "batches",
                LOOKAHEAD_BATCHES_MAX,
            )
        } else {
            None
        }
    }

    pub(crate) fn lane(&self, event: &EventRecord) -> Lane {
        (self.key)(event).map_or(Lane::Keyless, |key| Lane::Of(hash(&key)))
    }

    /// Shares a batch out, in the order of the first events.
    pub(crate) fn share_out(&self, batch: &EventBatch) -> Vec<Share> {
        let mut places: Vec<(Lane, Vec<usize>)> = Vec::new();
        let mut found = std::collections::HashMap::new();
        for (place, event) in batch.iter().enumerate() {
            let lane = self.lane(event);
            let index = *found.entry(lane).or_insert_with(|| {
                places.push((lane, Vec::new()));
                places.len() - 1
            });
            places[index].1.push(place);
        }
        if let [(lane, _)] = places[..] {
            let events = batch.clone();
            return vec![Share { lane, events }];
        }
        let share = |(lane, places): (Lane, Vec<usize>)| {
            let events = batch.pick(places.into_iter())?;
            Some(Share { lane, events })
        };
        places.into_iter().filter_map(share).collect()
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Partition")
            .field("workers", &self.workers)
            .field("lookahead_batches", &self.lookahead_batches)
            .finish_non_exhaustive()
    }
}

/// FNV-1a with 64 bits, of the bytes of a key.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::batch::CommittedBatch;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    #[test]
    fn the_hash_of_a_key_is_what_it_always_was() {
        for (key, golden) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
            ("order:7", 0xdeb8_6a9f_3499_8820),
            ("ü", 0x0ac2_0a07_b718_07ea),
        ] {
            assert_eq!(hash(key), golden, "{key:?} is {:#x}", hash(key));
        }
    }

    fn by_type() -> Partition {
        Partition {
            workers: 2,
            key: Arc::new(|event| (event.event_type() != "-").then(|| event.event_type().to_owned())),
            lookahead_batches: 1,
        }
    }

    #[test]
    fn a_batch_is_shared_out_by_key_and_what_has_none_stays_together() {
        let batch = |types: &str| {
            let events = types.chars().map(|name| NewEvent::new(name.to_string(), 1));
            let (records, _) = check_batch(events, &Limits::default()).unwrap();
            EventBatch::whole(Arc::new(CommittedBatch::stamp(records, 5, Timestamp::EPOCH)))
        };
        let shares = by_type().share_out(&batch("ab-a-"));
        let shapes: Vec<_> = shares
            .iter()
            .map(|share| {
                let sequences: Vec<u64> = share.events.iter().map(EventRecord::sequence).collect();
                (share.lane, sequences)
            })
            .collect();
        let expected = [
            (Lane::Of(hash("a")), vec![5, 8]),
            (Lane::Of(hash("b")), vec![6]),
            (Lane::Keyless, vec![7, 9]),
        ];
        assert_eq!(shapes, expected);
        assert_eq!(shares[0].events.last_sequence(), 8);
        // What is all of one lane is the batch itself.
        let whole = by_type().share_out(&batch("aaa"));
        assert_eq!((whole.len(), whole[0].events.last_sequence()), (1, 7));
    }

    #[test]
    fn numbers_out_of_their_range_are_named() {
        assert_eq!(by_type().problem(), None);
        let none = Partition {
            workers: 0,
            ..by_type()
        };
        assert!(none.problem().unwrap().contains("0 workers"));
        let blind = Partition {
            lookahead_batches: 0,
            ..by_type()
        };
        assert!(blind.problem().unwrap().contains("0 batches"));
    }
}

//! What a log holds, counted.

use std::fmt::Display;
use std::time::SystemTime;

use crate::clock::Day;
use crate::log::Extent;

/// How many events a log holds, of which types, and since when; what [`statistics`](crate::Store::statistics) gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStatistics {
    /// How many events there are.
    pub events: u64,
    /// The last committed sequence; 0 in an empty log.
    pub head: u64,
    /// Everything up to this sequence was pruned; 0: nothing.
    pub pruned_through: u64,
    /// When the first of the events was recorded.
    pub first_recorded_at: Option<SystemTime>,
    /// When the last of the events was recorded.
    pub last_recorded_at: Option<SystemTime>,
    /// The size of the database file, without its write-ahead log; of a log in memory, what its batches weigh there.
    pub bytes: u64,
    /// How much of that is free, and is used again before the file grows.
    pub free_bytes: u64,
    /// How many [idempotency keys](crate::Store::append_once) are remembered.
    pub idempotency_keys: u64,
    /// The types of which there are events, the most frequent first.
    pub types: Vec<TypeStatistics>,
    /// The days of UTC on which events were recorded, in order.
    pub days: Vec<DayStatistics>,
}

/// How many events of a type there are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeStatistics {
    /// The event type.
    pub event_type: String,
    /// How many.
    pub events: u64,
}

/// How many events of a day there are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DayStatistics {
    /// The day's first moment, in UTC.
    pub start: SystemTime,
    /// How many.
    pub events: u64,
}

impl LogStatistics {
    pub(crate) fn of(extent: Extent) -> Self {
        Self {
            head: extent.head,
            pruned_through: extent.pruned_through,
            ..Self::default()
        }
    }

    /// Takes the types with their counts, in whatever order. Those without events are left out.
    pub(crate) fn take_types(&mut self, counts: impl IntoIterator<Item = (impl Display, u64)>) {
        self.types = counts
            .into_iter()
            .filter(|(_, events)| *events > 0)
            .map(|(event_type, events)| TypeStatistics {
                event_type: event_type.to_string(),
                events,
            })
            .collect();
        self.types.sort_by(|one, other| {
            let more = other.events.cmp(&one.events);
            more.then_with(|| one.event_type.cmp(&other.event_type))
        });
        self.events = self.types.iter().map(|counted| counted.events).sum();
    }

    /// Takes the days with their counts, in order.
    pub(crate) fn take_days(&mut self, counts: impl IntoIterator<Item = (Day, u64)>) {
        let days = counts.into_iter().filter(|(_, events)| *events > 0);
        self.days = days
            .map(|(day, events)| DayStatistics {
                start: day.start().into(),
                events,
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_type_comes_first_and_one_without_events_not_at_all() {
        let mut statistics = LogStatistics::default();
        statistics.take_types([("b", 2), ("gone", 0), ("a", 2), ("c", 7)]);
        let names: Vec<&str> = statistics
            .types
            .iter()
            .map(|counted| &*counted.event_type)
            .collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert_eq!(statistics.events, 11);
    }
}

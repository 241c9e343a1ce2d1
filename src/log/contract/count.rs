//! What is said of a whole log, counted event by event.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::log::Extent;
use crate::log::statistics::LogStatistics;

/// Counts events, given in order, by their type and by the time at which they were recorded. What a log knows besides, its bytes and its
/// idempotency keys, are fields to be set.
///
/// ```
/// use millstream::contract::{Extent, Timestamp, count};
///
/// let extent = Extent { pruned_through: 0, head: 3 };
/// let events = [("placed", 1), ("paid", 2), ("placed", 2)];
/// let events = events.map(|(name, micros)| (name, Timestamp::from_micros(micros)));
/// let statistics = count(extent, events);
/// assert_eq!((statistics.events, &*statistics.types[0].event_type), (3, "placed"));
/// ```
pub fn count<'a>(extent: Extent, events: impl IntoIterator<Item = (&'a str, Timestamp)>) -> LogStatistics {
    let mut statistics = LogStatistics::of(extent);
    let (mut types, mut days) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    for (event_type, recorded_at) in events {
        *types.entry(event_type).or_default() += 1;
        *days.entry(recorded_at.day()).or_default() += 1;
        statistics.first_recorded_at.get_or_insert(recorded_at.into());
        statistics.last_recorded_at = Some(recorded_at.into());
    }
    statistics.take_types(types);
    statistics.take_days(days);
    statistics
}

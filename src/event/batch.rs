//! The events of one append, committed and delivered as one.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Timestamp;
use crate::error::{ReadError, UndecodableEvent};
use crate::event::draft;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;

/// The range of one committed batch with its events, or with those of them that a page holds.
///
/// Invariants: the events are sorted by sequence and lie inside the range; the range is not empty.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "contract"),
    allow(unreachable_pub, reason = "exported with `contract`")
)]
pub struct CommittedBatch {
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    pub(crate) recorded_at: Timestamp,
    /// Whether there may be one that cannot be decoded among the events, so that nobody looks for it in vain.
    pub(crate) may_have_faults: bool,
    pub(crate) events: Vec<EventRecord>,
}

impl CommittedBatch {
    /// Gives checked events their place in the log: consecutive sequences from `first_sequence` on (L1).
    pub(crate) fn stamp(mut events: Vec<EventRecord>, first_sequence: u64, recorded_at: Timestamp) -> Self {
        for (event, sequence) in events.iter_mut().zip(first_sequence..) {
            event.sequence = sequence;
            event.recorded_at = recorded_at;
        }
        Self {
            first_sequence,
            last_sequence: first_sequence + events.len() as u64 - 1,
            recorded_at,
            // What cannot be decoded is not appended.
            may_have_faults: false,
            events,
        }
    }

    /// Refuses a batch with an event that cannot be decoded.
    pub(crate) fn decodable(&self) -> Result<(), ReadError> {
        if !self.may_have_faults {
            return Ok(());
        }
        match self.events.iter().find_map(EventRecord::fault) {
            None => Ok(()),
            Some(fault) => Err(ReadError::Undecodable(fault.clone())),
        }
    }

    /// What the batch weighs in memory, as budgets count it.
    pub(crate) fn weight_bytes(&self) -> usize {
        weight_bytes_of(&self.events)
    }
}

/// What the events of a batch weigh in memory.
pub(crate) fn weight_bytes_of(events: &[EventRecord]) -> usize {
    // The texts of a batch stand side by side in a buffer that may hold those of a whole page.
    let texts = match (events.first(), events.last()) {
        (Some(first), Some(last)) => last.texts().end - first.texts().start,
        _ => 0,
    };
    draft::weight_bytes(events.len(), texts)
}

/// Which events of a committed batch a delivery shows.
#[derive(Clone, Debug)]
enum Selection {
    /// Neighbours: all of them, one, or what lies after a position. It needs no memory of its own.
    Run {
        first: usize,
        end: usize,
    },
    Indexes(Arc<[u32]>),
    /// Some events that are delivered as a batch of their own.
    Picked(Arc<Picked>),
}

/// Events of a committed batch that are a batch of their own: of the range that they have.
#[derive(Debug)]
struct Picked {
    first_sequence: u64,
    last_sequence: u64,
    indexes: Box<[u32]>,
}

/// One committed batch as a handler gets it: all of its events, or those that the query selects.
///
/// Cloning is cheap and copies no event: every stream that gets the batch shares it.
#[derive(Clone, Debug)]
pub struct EventBatch {
    batch: Arc<CommittedBatch>,
    selection: Selection,
    /// What was committed up to here is history for whoever it is delivered to.
    history_through: u64,
}

impl EventBatch {
    /// The part of `batch` after `position` that `query` selects, if there is any.
    pub(crate) fn select(batch: Arc<CommittedBatch>, query: &EventQuery, position: u64) -> Option<Self> {
        let events = &batch.events;
        let after = events.partition_point(|event| event.sequence <= position);
        let selects_all = query.selects_everything();
        let is_shown = |index: &usize| selects_all || query.matches(&events[*index]);
        let first = (after..events.len()).find(is_shown)?;
        let is_hidden = |index: &usize| !is_shown(index);
        let end = (first + 1..events.len()).find(is_hidden).unwrap_or(events.len());
        let mut others = (end..events.len()).filter(is_shown).peekable();
        let selection = if others.peek().is_none() {
            Selection::Run { first, end }
        } else {
            let indexes = (first..end).chain(others).map(|index| index as u32);
            Selection::Indexes(indexes.collect())
        };
        Some(Self {
            batch,
            selection,
            history_through: 0,
        })
    }

    /// A batch of which every event that is held is shown.
    pub(crate) fn whole(batch: Arc<CommittedBatch>) -> Self {
        let selection = Selection::Run {
            first: 0,
            end: batch.events.len(),
        };
        Self {
            batch,
            selection,
            history_through: 0,
        }
    }

    /// The same as it is delivered in a run for which everything up to this sequence is history.
    pub(crate) fn delivered_after(self, history_through: u64) -> Self {
        Self {
            history_through,
            ..self
        }
    }

    /// What is shown after a sequence, if anything is.
    pub(crate) fn rest(&self, after: u64) -> Option<Self> {
        let events = &self.batch.events;
        let is_left = |index: &u32| events[*index as usize].sequence > after;
        let selection = match &self.selection {
            Selection::Run { first, end } => {
                let begin = events.partition_point(|event| event.sequence <= after);
                Selection::Run {
                    first: begin.max(*first),
                    end: *end,
                }
            }
            Selection::Indexes(indexes) => {
                Selection::Indexes(indexes.iter().copied().filter(is_left).collect())
            }
            Selection::Picked(picked) => {
                let left = picked.indexes.iter().copied().filter(is_left);
                return self.picked(left.collect());
            }
        };
        let rest = Self {
            batch: Arc::clone(&self.batch),
            selection,
            history_through: self.history_through,
        };
        rest.iter().next().is_some().then_some(rest)
    }

    /// Those of the shown events that stand at these places among them, as a batch of its own: its range is theirs. It shares the
    /// committed batch. Nothing, when there are none.
    pub(crate) fn pick(&self, places: impl Iterator<Item = usize>) -> Option<Self> {
        let index = |place: usize| match &self.selection {
            Selection::Run { first, .. } => (first + place) as u32,
            Selection::Indexes(indexes) => indexes[place],
            Selection::Picked(picked) => picked.indexes[place],
        };
        self.picked(places.map(index).collect())
    }

    fn picked(&self, indexes: Box<[u32]>) -> Option<Self> {
        let sequence = |index: &u32| self.batch.events[*index as usize].sequence;
        let picked = Picked {
            first_sequence: sequence(indexes.first()?),
            last_sequence: sequence(indexes.last()?),
            indexes,
        };
        Some(Self {
            batch: Arc::clone(&self.batch),
            selection: Selection::Picked(Arc::new(picked)),
            history_through: self.history_through,
        })
    }

    /// What is shown from one sequence through another, as a batch of its own with that range; nothing, when it shows nothing.
    /// What is delivered in parts has keys of its own that way.
    pub(crate) fn part(&self, first_sequence: u64, last_sequence: u64) -> Option<Self> {
        self.part_of(first_sequence, last_sequence, |_| true)
    }

    /// The same, of some of the events.
    pub(crate) fn part_of(
        &self,
        first_sequence: u64,
        last_sequence: u64,
        is_meant: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        let range = first_sequence..=last_sequence;
        let events = self
            .iter()
            .filter(|event| range.contains(&event.sequence) && is_meant(event.sequence));
        let events: Vec<_> = events.cloned().collect();
        if events.is_empty() {
            return None;
        }
        let part = Self::whole(Arc::new(CommittedBatch {
            first_sequence,
            last_sequence,
            recorded_at: self.batch.recorded_at,
            may_have_faults: self.batch.may_have_faults,
            events,
        }));
        Some(part.delivered_after(self.history_through))
    }

    /// Why the first of the shown events that cannot be decoded cannot be.
    pub(crate) fn fault(&self) -> Option<&UndecodableEvent> {
        if !self.batch.may_have_faults {
            return None;
        }
        self.iter().find_map(EventRecord::fault)
    }

    /// What is shown before an event, as a batch of its own; nothing, when nothing is.
    pub(crate) fn before(&self, sequence: u64) -> Option<Self> {
        let count = self.iter().take_while(|event| event.sequence < sequence).count();
        self.pick(0..count)
    }

    /// The committed batch with nothing but the selected events; shared, when that is all of them.
    pub(crate) fn into_selected(self) -> Arc<CommittedBatch> {
        if self.len() == self.batch.events.len() {
            return self.batch;
        }
        Arc::new(CommittedBatch {
            first_sequence: self.first_sequence(),
            last_sequence: self.last_sequence(),
            recorded_at: self.batch.recorded_at,
            may_have_faults: self.batch.may_have_faults,
            events: self.iter().cloned().collect(),
        })
    }

    /// The last sequence of the committed batch that it is of, or of the part that a page holds.
    pub(crate) fn committed_through(&self) -> u64 {
        self.batch.last_sequence
    }

    /// What the committed batch weighs in memory, which this keeps alive.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.batch.weight_bytes()
    }

    /// How many events are shown. Never 0: a batch of which nothing is selected is not delivered.
    #[allow(clippy::len_without_is_empty, reason = "a delivered batch is never empty")]
    pub fn len(&self) -> usize {
        match &self.selection {
            Selection::Run { first, end } => end - first,
            Selection::Indexes(indexes) => indexes.len(),
            Selection::Picked(picked) => picked.indexes.len(),
        }
    }

    /// The selected events, in the log's order.
    pub fn iter(&self) -> Events<'_> {
        Events {
            batch: self,
            front: 0,
        }
    }

    /// The first sequence of the committed batch, selected or not. Of a part that is delivered by itself, its own.
    pub fn first_sequence(&self) -> u64 {
        match &self.selection {
            Selection::Picked(picked) => picked.first_sequence,
            Selection::Run { .. } | Selection::Indexes(_) => self.batch.first_sequence,
        }
    }

    /// The last sequence of the committed batch, selected or not: use it as the key that makes an effect idempotent. Of a part
    /// that is delivered by itself, its own.
    pub fn last_sequence(&self) -> u64 {
        match &self.selection {
            Selection::Picked(picked) => picked.last_sequence,
            Selection::Run { .. } | Selection::Indexes(_) => self.batch.last_sequence,
        }
    }

    /// Whether it is history: it was committed before the run began in which it is delivered. Otherwise it is news, however late it is
    /// delivered.
    ///
    /// A run begins when the stream is registered in this process: what the log held then, its head included, is history, and what is
    /// committed from then on is news, also to a handler that is far behind, and in parts, groups, retries, and dead letters that are
    /// retried. When the cursor is [moved from outside](crate::StreamControl::reset) while the stream runs, a run begins as the
    /// stream heeds that. To a [reader](crate::EventReader) what the log held at its first poll is history.
    ///
    /// It does **not** say whether the stream has handled the batch before. What was committed while nobody ran a durable stream is
    /// history at its next start, and was handled by nobody. So it is for effects that are worth something at once or not at
    /// all, such as a message on a screen, or an alarm. Who takes over from another handler starts with
    /// [`Start::Now`](crate::Start::Now), or [where that one stood](crate::Start::AfterStream), and has no such question.
    ///
    /// ```
    /// use millstream::{EventBatch, HandleStream};
    ///
    /// let alarm = HandleStream::new(|batch: EventBatch| async move {
    ///     if !batch.is_replay() {
    ///         println!("{} events just now", batch.len());
    ///     }
    ///     Ok::<_, std::io::Error>(())
    /// });
    /// # let _ = alarm;
    /// ```
    pub fn is_replay(&self) -> bool {
        self.first_sequence() <= self.history_through
    }

    /// When the batch was committed.
    pub fn recorded_at(&self) -> SystemTime {
        self.batch.recorded_at.into()
    }

    pub(crate) fn recorded_timestamp(&self) -> Timestamp {
        self.batch.recorded_at
    }

    fn get(&self, index: usize) -> Option<&EventRecord> {
        let index = match &self.selection {
            Selection::Run { first, end } => Some(first + index).filter(|index| index < end)?,
            Selection::Indexes(indexes) => *indexes.get(index)? as usize,
            Selection::Picked(picked) => *picked.indexes.get(index)? as usize,
        };
        self.batch.events.get(index)
    }
}

impl<'a> IntoIterator for &'a EventBatch {
    type Item = &'a EventRecord;
    type IntoIter = Events<'a>;

    fn into_iter(self) -> Events<'a> {
        self.iter()
    }
}

/// The selected events of an [`EventBatch`], in the log's order.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    batch: &'a EventBatch,
    front: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = &'a EventRecord;

    fn next(&mut self) -> Option<&'a EventRecord> {
        let event = self.batch.get(self.front)?;
        self.front += 1;
        Some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.batch.len() - self.front;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Events<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    fn batch(first: u64, types: &[&str]) -> Arc<CommittedBatch> {
        let events = types.iter().map(|name| NewEvent::new(*name, 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        Arc::new(CommittedBatch::stamp(records, first, Timestamp::EPOCH))
    }

    #[test]
    fn a_batch_weighs_what_was_checked() {
        let text = "x".repeat(1000);
        let event = || NewEvent::new("a", &text);
        for events in [
            vec![event()],
            vec![event().tag("t").correlation_id("c"), event().tag("u")],
        ] {
            let (records, bytes) = check_batch(events, &Limits::default()).unwrap();
            let batch = CommittedBatch::stamp(records, 1, Timestamp::EPOCH);
            assert_eq!(batch.weight_bytes(), bytes);
        }
    }

    #[test]
    fn a_batch_that_overlaps_the_position_is_delivered_from_there() {
        let batch = batch(5, &["a", "b", "a", "b", "a"]);
        let all = EventBatch::select(Arc::clone(&batch), &EventQuery::all(), 6).unwrap();
        let sequences: Vec<u64> = all.iter().map(EventRecord::sequence).collect();
        assert_eq!(sequences, [7, 8, 9]);
        let some = EventBatch::select(Arc::clone(&batch), &EventQuery::types(["b"]), 6).unwrap();
        assert_eq!(some.len(), 1);
        assert_eq!((some.first_sequence(), some.last_sequence()), (5, 9));
        assert!(EventBatch::select(Arc::clone(&batch), &EventQuery::all(), 9).is_none());
    }

    #[test]
    fn parts_and_rests_make_the_whole() {
        let batch = batch(5, &["a", "b", "a", "b", "a"]);
        let sequences = |part: Option<EventBatch>| {
            part.map(|part| part.iter().map(|event| event.sequence).collect::<Vec<_>>())
        };
        for (query, shown) in [
            (EventQuery::all(), vec![5, 6, 7, 8, 9]),
            (EventQuery::types(["a"]), vec![5, 7, 9]),
        ] {
            let selected = EventBatch::select(Arc::clone(&batch), &query, 0).unwrap();
            for cut in 4..=9 {
                let part = sequences(selected.part(5, cut)).unwrap_or_default();
                let rest = sequences(selected.rest(cut)).unwrap_or_default();
                assert!(
                    part.iter().all(|sequence| *sequence <= cut),
                    "{part:?} up to {cut}"
                );
                assert_eq!([part, rest].concat(), shown, "cut after {cut}");
            }
        }
        let all = EventBatch::select(batch, &EventQuery::all(), 0).unwrap();
        let part = all.part(6, 7).unwrap();
        assert_eq!((part.first_sequence(), part.last_sequence()), (6, 7));
        assert!(all.rest(9).is_none() && all.part(10, 12).is_none());
    }

    #[test]
    fn picked_events_are_a_batch_of_their_own_and_share_the_committed_one() {
        let batch = batch(5, &["a", "b", "a", "b", "a"]);
        for query in [EventQuery::all(), EventQuery::types(["a", "b"])] {
            let all = EventBatch::select(Arc::clone(&batch), &query, 5).unwrap();
            let picked = all.pick([0, 2].into_iter()).unwrap();
            let sequences = |batch: &EventBatch| batch.iter().map(|event| event.sequence).collect::<Vec<_>>();
            assert_eq!((sequences(&picked), picked.len()), (vec![6, 8], 2));
            assert_eq!((picked.first_sequence(), picked.last_sequence()), (6, 8));
            assert_eq!(picked.committed_through(), 9);
            assert!(Arc::ptr_eq(&picked.batch, &batch));
            let rest = picked.rest(6).unwrap();
            assert_eq!((sequences(&rest), rest.first_sequence()), (vec![8], 8));
            assert!(picked.rest(8).is_none() && all.pick([].into_iter()).is_none());
            let selected = picked.into_selected();
            assert_eq!((selected.first_sequence, selected.events.len()), (6, 2));
        }
    }

    #[test]
    fn neighbours_are_shown_like_events_that_lie_apart() {
        let batch = batch(1, &["a", "b", "b", "c", "b"]);
        let shown = |names: &[&str], after| {
            let selected = EventBatch::select(Arc::clone(&batch), &EventQuery::types(names.to_vec()), after);
            selected.map(|selected| {
                let sequences: Vec<u64> = selected.iter().map(EventRecord::sequence).collect();
                assert_eq!(sequences.len(), selected.len());
                assert_eq!(selected.into_selected().events.len(), sequences.len());
                sequences
            })
        };
        assert_eq!(shown(&["a"], 0), Some(vec![1]));
        assert_eq!(shown(&["a", "b"], 0), Some(vec![1, 2, 3, 5]));
        assert_eq!(shown(&["b"], 2), Some(vec![3, 5]));
        assert_eq!(shown(&["b", "c"], 1), Some(vec![2, 3, 4, 5]));
        assert_eq!(shown(&["a", "b", "c"], 0), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(shown(&["a"], 1), None);
    }
}

//! What is checked of the stream that handles several keys at once: its cursor is the low watermark of what it did, and the
//! order is that of each key (S2, D2, D3).

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{Checked, End, ensure};
use crate::source;

pub(crate) const NAME: &str = "keyed";
/// How many batches may be unstored, and how many in hand.
pub(crate) const CHECKPOINT: u32 = 8;
pub(crate) const LOOKAHEAD: u32 = 24;

/// What the log says of an event: its key, and the number of its batch.
struct Event {
    key: Option<String>,
    batch: usize,
}

#[derive(Default)]
pub(crate) struct KeyedCheck {
    events: Vec<Event>,
    batches: usize,
    /// The cursor as the last kill left it.
    cursor: usize,
    /// How many batches at most came again after a kill, in part or as a whole.
    pub(crate) repeats_max: usize,
}

impl KeyedCheck {
    pub(crate) fn check(&mut self, cursor: i64, pruned: usize, effects: &[String], end: End) -> Checked {
        let cursor = cursor as usize;
        ensure(cursor >= self.cursor, || {
            format!("{NAME}: the cursor went back from {} to {cursor}", self.cursor)
        })?;
        let (taken, mut last) = (self.read_calls(effects)?, BTreeMap::new());
        // A new name began behind what was pruned then.
        let began = if self.cursor == 0 { pruned } else { self.cursor };
        for sequence in &taken {
            let event = &self.events[sequence - 1];
            let earlier = last.insert(&event.key, *sequence).unwrap_or(self.cursor);
            let missed =
                (earlier.max(began) + 1..*sequence).find(|other| self.events[other - 1].key == event.key);
            ensure(earlier < *sequence && missed.is_none(), || {
                format!(
                    "{NAME}: of {:?}, {sequence} was handled after {earlier}",
                    event.key
                )
            })?;
        }
        let taken: BTreeSet<usize> = taken.into_iter().collect();
        let missed = (began + 1..=cursor).find(|sequence| !taken.contains(sequence));
        ensure(missed.is_none(), || {
            format!("{NAME}: the cursor is at {cursor}, but {missed:?} was not handled")
        })?;
        let ahead: BTreeSet<usize> = taken
            .range(cursor + 1..)
            .map(|sequence| self.events[sequence - 1].batch)
            .collect();
        self.repeats_max = self.repeats_max.max(ahead.len());
        let allowed = (CHECKPOINT + LOOKAHEAD) as usize;
        ensure(ahead.len() <= allowed, || {
            format!(
                "{NAME}: {} batches were handled after the cursor, {allowed} are allowed",
                ahead.len()
            )
        })?;
        if end == End::Closed {
            let head = self.events.len();
            ensure(cursor == head, || format!("{NAME}: closed at {cursor} of {head}"))?;
        }
        self.cursor = cursor;
        Ok(())
    }

    /// The events that were handled, in order. A call had those of one key of one batch.
    fn read_calls(&self, effects: &[String]) -> Checked<Vec<usize>> {
        let mut taken = Vec::new();
        for effect in effects {
            let call = effect
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<usize>, _>>()?;
            let events = call.iter().map(|sequence| self.events.get(sequence - 1));
            let mut of = events.map(|event| event.map(|event| (&event.key, event.batch)));
            let first = of.next().flatten();
            ensure(first.is_some() && of.all(|other| other == first), || {
                format!("{NAME}: a call was given {effect}")
            })?;
            taken.extend(call);
        }
        Ok(taken)
    }

    /// What came into the log since it was looked at last.
    pub(crate) fn add_events(&mut self, events: &[source::Event]) -> Checked {
        for event in events {
            let sequence = event.sequence as usize;
            ensure(sequence == self.events.len() + 1, || {
                format!("{NAME}: {sequence} comes after {}", self.events.len())
            })?;
            self.batches += usize::from(event.batch_index == 0);
            self.events.push(Event {
                key: event.key.clone(),
                batch: self.batches,
            });
        }
        Ok(())
    }
}

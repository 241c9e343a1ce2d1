//! What a reactor's handler answers, and how that is checked. Pure.

use std::sync::Arc;

use crate::error::InvalidReaction;
use crate::event::batch::EventBatch;
use crate::event::cause::Cause;
use crate::event::evolution::Evolution;
use crate::event::intake;
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::log::reaction::CheckedReaction;
use crate::log::request::{Condition, ExpectedContext};
use crate::stream::react::{Answer, Reply, TooDeep};

/// What the handler of a [`Reactor`](crate::Reactor) answers a batch with: new events, or nothing.
///
/// The events are one append: all of them are in the log, or none. Each carries in its metadata what caused it:
///
/// | key | meaning |
/// | --- | --- |
/// | `causation_id` | the event of the batch that caused it, as `event:` and its sequence; [`Metadata::caused_by`](crate::Metadata::caused_by) gives the sequence. The last event of the batch, unless [`caused_by`](Self::caused_by) names another |
/// | `correlation_id` | that of its cause; when the cause has none, `event:` and the sequence of the cause, which so becomes the root of the chain. One that the handler gave the event stays |
/// | `reaction_depth` | that of its cause and 1 more; an event without it has depth 0 |
///
/// ```
/// use millstream::{EventBatch, NewEvent, Reaction};
///
/// fn answer(batch: &EventBatch) -> Reaction {
///     let placed = batch.iter().filter(|event| event.event_type() == "order-placed");
///     placed.fold(Reaction::nothing(), |reaction, order| {
///         reaction.caused_by(order.sequence(), NewEvent::new("payment-asked", order.payload().json().ok()))
///     })
/// }
/// # let _ = answer;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a reaction is what the handler returns"]
pub struct Reaction {
    events: Vec<Caused>,
    condition: Option<(EventQuery, ExpectedContext)>,
}

/// An event, and which one caused it, if that was said.
#[derive(Clone, Debug)]
struct Caused {
    event: NewEvent,
    cause: Option<u64>,
}

/// What a reaction may be.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) evolution: Option<Arc<Evolution>>,
    pub(crate) depth_max: u32,
}

impl Reaction {
    /// Nothing is appended. The batch is handled, and the cursor moves as that of any durable stream.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These events, in this order.
    pub fn events(events: impl IntoIterator<Item = NewEvent>) -> Self {
        events.into_iter().fold(Self::nothing(), Self::and)
    }

    /// One event more, caused by the last event of the batch.
    pub fn and(mut self, event: NewEvent) -> Self {
        self.events.push(Caused { event, cause: None });
        self
    }

    /// One event more, caused by the event of the batch that has this sequence. Any other sequence is a failure of the handler.
    pub fn caused_by(mut self, sequence: u64, event: NewEvent) -> Self {
        let cause = Some(sequence);
        self.events.push(Caused { event, cause });
        self
    }

    /// Only if the context that the query selects is still the one that the handler looked at, as in
    /// [`append_if`](crate::Store::append_if). When it moved, nothing is appended, and the handler is called again with the same
    /// batch, to decide on what it finds then.
    ///
    /// The check is made inside the transaction. A reaction has one condition, the one given last; without events it has nothing to
    /// guard and is not checked.
    pub fn only_if(mut self, query: &EventQuery, expected: impl Into<ExpectedContext>) -> Self {
        self.condition = Some((query.clone(), expected.into()));
        self
    }

    /// Writes down what caused the events, and checks every limit (L5).
    pub(crate) fn check(self, batch: &EventBatch, rules: &Rules) -> Result<Reply, InvalidReaction> {
        if self.events.is_empty() {
            return Ok(None);
        }
        let mut events = Vec::with_capacity(self.events.len());
        for Caused { event, cause: named } in self.events {
            let cause = match named {
                None => batch.iter().last(),
                Some(sequence) => batch.iter().find(|event| event.sequence() == sequence),
            };
            let Some(record) = cause else {
                return Err(InvalidReaction::UnknownCause {
                    sequence: named.unwrap_or(0),
                    first_sequence: batch.first_sequence(),
                    last_sequence: batch.last_sequence(),
                });
            };
            let cause = Cause::of(record);
            if cause.depth() > u64::from(rules.depth_max) {
                return Ok(Some(Box::new(Answer::TooDeep(TooDeep {
                    cause: record.sequence(),
                    depth: cause.depth(),
                    depth_max: rules.depth_max,
                }))));
            }
            events.push(event.caused_by(&cause));
        }
        let (events, bytes) = intake::check(events, &rules.limits, rules.evolution.as_deref())?;
        let condition = self
            .condition
            .map(|(query, expected)| Condition { query, expected });
        Ok(Some(Box::new(Answer::Append(CheckedReaction {
            events,
            bytes,
            condition,
        }))))
    }
}

impl From<NewEvent> for Reaction {
    fn from(event: NewEvent) -> Self {
        Self::nothing().and(event)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::batch::CommittedBatch;
    use crate::event::new_event::check_batch;

    const RULES: fn() -> Rules = || Rules {
        limits: Limits::default(),
        evolution: None,
        depth_max: 3,
    };

    /// A batch from sequence 5 on.
    fn batch(events: impl IntoIterator<Item = NewEvent>) -> EventBatch {
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        EventBatch::whole(Arc::new(CommittedBatch::stamp(records, 5, Timestamp::EPOCH)))
    }

    fn metadata(reaction: Reaction, batch: &EventBatch) -> Vec<String> {
        let Some(Answer::Append(checked)) = reaction.check(batch, &RULES()).unwrap().map(|answer| *answer)
        else {
            panic!("it can be appended");
        };
        let texts = checked
            .events
            .iter()
            .map(|event| event.metadata().unwrap().as_str());
        texts.map(str::to_owned).collect()
    }

    #[test]
    fn the_cause_is_the_last_event_unless_another_is_named() {
        let batch = batch([
            NewEvent::new("a", 1).correlation_id("order-7"),
            NewEvent::new("b", 2),
        ]);
        let event = || NewEvent::new("c", 3);
        let reaction = Reaction::from(event())
            .caused_by(5, event())
            .caused_by(5, event().correlation_id("own").causation_id("forged"));
        assert_eq!(
            metadata(reaction, &batch),
            [
                r#"{"causation_id":"event:6","correlation_id":"event:6","reaction_depth":1}"#,
                r#"{"causation_id":"event:5","correlation_id":"order-7","reaction_depth":1}"#,
                r#"{"causation_id":"event:5","correlation_id":"own","reaction_depth":1}"#,
            ]
        );
    }

    #[test]
    fn a_chain_counts_its_depth_and_ends_at_the_limit() {
        let at = |depth: serde_json::Value| batch([NewEvent::new("a", 1).metadata("reaction_depth", depth)]);
        let answer = |batch: &EventBatch| {
            let reply = Reaction::from(NewEvent::new("b", 2)).check(batch, &RULES());
            *reply.unwrap().unwrap()
        };
        let within = metadata(NewEvent::new("b", 2).into(), &at(2.into()));
        assert!(within[0].contains(r#""reaction_depth":3"#), "{within:?}");
        for (found, expected) in [(3, 4), (u64::MAX, u64::MAX)] {
            let Answer::TooDeep(chain) = answer(&at(found.into())) else {
                panic!("{found} is too deep");
            };
            assert_eq!((chain.cause, chain.depth, chain.depth_max), (5, expected, 3));
        }
        // What is no depth is none.
        let odd = metadata(NewEvent::new("b", 2).into(), &at("deep".into()));
        assert!(odd[0].contains(r#""reaction_depth":1"#), "{odd:?}");
    }

    #[test]
    fn what_cannot_be_appended_is_named() {
        let batch = batch([NewEvent::new("a", 1)]);
        let refused = |reaction: Reaction| reaction.check(&batch, &RULES()).err().unwrap().to_string();
        let foreign = refused(Reaction::nothing().caused_by(6, NewEvent::new("b", 2)));
        assert!(
            foreign.contains("event 6") && foreign.contains("5 to 5"),
            "{foreign}"
        );
        let untyped = refused(NewEvent::new("", 2).into());
        assert!(untyped.contains("event type is empty"), "{untyped}");
        assert!(Reaction::nothing().check(&batch, &RULES()).unwrap().is_none());
    }
}

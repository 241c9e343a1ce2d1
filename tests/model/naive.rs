//! The log as a plain list, and the meaning of a query in a few lines, written without a look at the crate.

use millstream::{EventFilter, EventQuery, NewEvent};
use serde_json::{Number, Value};

/// One event, as it was appended or is to be.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) event_type: &'static str,
    pub(crate) tags: Vec<&'static str>,
    pub(crate) payload: &'static str,
}

/// One alternative of a query. `None`: no constraint.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) types: Option<Vec<&'static str>>,
    pub(crate) tags: Option<Vec<&'static str>>,
    pub(crate) payloads: Option<Vec<&'static str>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Query(pub(crate) Vec<Filter>);

/// A committed batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) events: Vec<Event>,
}

/// Every batch that was committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(pub(crate) Vec<Batch>);

impl Event {
    pub(crate) fn to_append(&self) -> NewEvent {
        NewEvent::raw(self.event_type, self.payload).tags(&self.tags)
    }
}

impl Query {
    pub(crate) fn to_ask(&self) -> EventQuery {
        EventQuery::any(self.0.iter().map(|filter| {
            let mut asked = match &filter.types {
                Some(types) => EventFilter::types(types.iter().copied()),
                None => EventFilter::all(),
            };
            if let Some(tags) = &filter.tags {
                asked = asked.tags(tags.iter().copied());
            }
            if let Some(payloads) = &filter.payloads {
                asked = asked.payloads(payloads.iter().map(|text| json(text)));
            }
            asked
        }))
    }

    fn selects(&self, event: &Event) -> bool {
        self.0.iter().any(|filter| {
            filter
                .types
                .as_ref()
                .is_none_or(|types| types.contains(&event.event_type))
                && filter
                    .tags
                    .as_ref()
                    .is_none_or(|tags| !tags.is_empty() && tags.iter().all(|tag| event.tags.contains(tag)))
                && filter.payloads.as_ref().is_none_or(|predicates| {
                    predicates
                        .iter()
                        .any(|predicate| says(&json(event.payload), &json(predicate)))
                })
        })
    }
}

impl Log {
    pub(crate) fn head(&self) -> u64 {
        self.0
            .last()
            .map_or(0, |batch| batch.first + batch.events.len() as u64 - 1)
    }

    pub(crate) fn append(&mut self, events: Vec<Event>) {
        let first = self.head() + 1;
        self.0.push(Batch { first, events });
    }

    /// What is selected after a position: the range of each batch, and the selected sequences of it.
    pub(crate) fn select(&self, query: &Query, after: u64) -> Vec<(u64, u64, Vec<u64>)> {
        let selected = self.0.iter().map(|batch| {
            let last = batch.first + batch.events.len() as u64 - 1;
            let numbered = (batch.first..).zip(&batch.events);
            let chosen = numbered.filter(|(sequence, event)| *sequence > after && query.selects(event));
            (
                batch.first,
                last,
                chosen.map(|(sequence, _)| sequence).collect::<Vec<_>>(),
            )
        });
        selected
            .filter(|(_, _, sequences)| !sequences.is_empty())
            .collect()
    }

    /// The selected sequences after a position.
    pub(crate) fn sequences(&self, query: &Query, after: u64) -> Vec<u64> {
        self.select(query, after)
            .into_iter()
            .flat_map(|(_, _, sequences)| sequences)
            .collect()
    }

    pub(crate) fn event(&self, sequence: u64) -> &Event {
        let batch = self
            .0
            .iter()
            .rfind(|batch| batch.first <= sequence)
            .expect("the sequence is in the log");
        &batch.events[(sequence - batch.first) as usize]
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the alphabet is JSON")
}

/// Whether `payload` says all that `predicate` says.
fn says(payload: &Value, predicate: &Value) -> bool {
    match predicate {
        Value::Object(members) => payload.as_object().is_some_and(|found| {
            members
                .iter()
                .all(|(key, wanted)| found.get(key).is_some_and(|value| says(value, wanted)))
        }),
        Value::Array(elements) => payload.as_array().is_some_and(|found| {
            elements
                .iter()
                .all(|wanted| found.iter().any(|candidate| says(candidate, wanted)))
        }),
        Value::Number(wanted) => payload
            .as_number()
            .is_some_and(|found| value(found) == value(wanted)),
        other => payload == other,
    }
}

/// A number's value: whole numbers exactly, others as the nearest float.
fn value(number: &Number) -> Result<i128, u64> {
    let float = number.as_f64().expect("a JSON number has a nearest float");
    match number.as_i128() {
        Some(whole) => Ok(whole),
        None if float.fract() == 0.0 && float.abs() < 1e30 => Ok(float as i128),
        None => Err(float.to_bits()),
    }
}

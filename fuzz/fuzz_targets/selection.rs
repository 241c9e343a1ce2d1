//! Selection by the bus's index, by the log's SQL, and by asking each query about each event: all the same.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use millstream::internals::{select_by_index, select_by_sql, select_naively};
use millstream::{EventFilter, EventQuery, NewEvent};
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
struct Case {
    events: Vec<Event>,
    queries: Vec<Vec<Filter>>,
}

#[derive(Arbitrary, Debug)]
struct Event {
    event_type: u8,
    tags: Vec<u8>,
    payload: Payload,
}

#[derive(Arbitrary, Debug)]
struct Filter {
    types: Option<Vec<u8>>,
    tags: Option<Vec<u8>>,
    payloads: Option<Vec<Payload>>,
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Null,
    Flag(bool),
    Small(i8),
    Large(u64),
    Float(f64),
    Text(u8),
    Member(u8, Box<Payload>),
    Members(Box<Payload>, Box<Payload>),
    List(Vec<Payload>),
}

/// Few words, so that events and queries meet; odd ones, so that they meet in odd places.
const WORDS: [&str; 8] = ["a", "b", "ab", "ü", "a\"b", "a\\", "1", "a','b"];

fn word(byte: u8) -> &'static str {
    WORDS[usize::from(byte) % WORDS.len()]
}

impl Payload {
    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Flag(flag) => json!(flag),
            Self::Small(number) => json!(number),
            Self::Large(number) => json!(number),
            Self::Float(number) => json!(number),
            Self::Text(byte) => json!(word(*byte)),
            Self::Member(key, value) => json!({ word(*key): value.json() }),
            Self::Members(one, other) => json!({ "a": one.json(), "b": other.json() }),
            Self::List(values) => values.iter().map(Self::json).collect(),
        }
    }
}

impl Event {
    fn new_event(&self) -> NewEvent {
        let tags = self.tags.iter().map(|tag| word(*tag));
        NewEvent::new(word(self.event_type), self.payload.json()).tags(tags)
    }
}

impl Filter {
    fn event_filter(&self) -> EventFilter {
        let words = |bytes: &Vec<u8>| bytes.iter().map(|byte| word(*byte)).collect::<Vec<_>>();
        let mut filter = match &self.types {
            Some(types) => EventFilter::types(words(types)),
            None => EventFilter::all(),
        };
        if let Some(tags) = &self.tags {
            filter = filter.tags(words(tags));
        }
        if let Some(payloads) = &self.payloads {
            filter = filter.payloads(payloads.iter().map(Payload::json));
        }
        filter
    }
}

fuzz_target!(|case: Case| {
    let events = || {
        case.events
            .iter()
            .take(64)
            .map(Event::new_event)
            .collect::<Vec<_>>()
    };
    let filters = |query: &Vec<Filter>| EventQuery::any(query.iter().map(Filter::event_filter));
    let queries: Vec<EventQuery> = case.queries.iter().take(16).map(filters).collect();
    let naive = select_naively(&queries, events());
    assert_eq!(select_by_sql(&queries, events()), naive, "SQL against matching");
    let selecting: Vec<usize> = (0..queries.len())
        .filter(|&query| !naive[query].is_empty())
        .collect();
    assert_eq!(
        select_by_index(&queries, events()),
        selecting,
        "the index against matching"
    );
});

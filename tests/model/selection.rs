//! The bus finds by its index what asking each query about each event finds, whatever the payloads look like.
//!
//! Predicates are parts of the payloads beside them, spelled differently, so that most of them meet something; some have
//! one value changed, so that they just miss it. The same is asked of the log on a server.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use millstream::internals::{select_by_index, select_naively};
use millstream::{EventBatch, EventFilter, EventQuery, NewEvent, Store};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::TestRunner;

use crate::common::postgres::{Database, database};
use crate::config;

const TYPES: &[&str] = &["a", "b"];
const TAGS: &[&str] = &["x", "y"];
/// Few, so that members repeat; and one that looks like a part of a path.
const KEYS: &[&str] = &["n", "m", "n.m", ""];

/// Scalars by value: what stands in one row is equal.
const SCALARS: &[&[&str]] = &[
    &["0", "-0", "0.0", "-0.0", "0e5"],
    &["1", "1.0", "10e-1", "0.1e1"],
    &["-1", "-1.0"],
    &["1.5", "15e-1"],
    &["0.1", "1e-1", "0.1000000000000000055511151231257827"],
    &["9007199254740992", "9007199254740992.0"],
    &["9007199254740993"],
    &["9223372036854775807"],
    &[
        "9223372036854775808",
        "9223372036854775808.0",
        "9.223372036854775808e18",
    ],
    &["-9223372036854775808", "-9223372036854775808.0"],
    &["18446744073709551615"],
    &[
        "18446744073709551616",
        "18446744073709551616.0",
        "18446744073709551617",
    ],
    &["100000000000000000000", "1e20"],
    &["1e300", "10e299"],
    &["5e-324"],
    &["null"],
    &["true"],
    &["false"],
    &["\"\""],
    &["\"1\"", "\"\\u0031\""],
    &["\"ü\"", "\"\\u00fc\""],
    &["\"null\""],
    // What a server cannot hold, and what is longer than its index keeps.
    &["\"\\u0000\""],
    &["\"a\\u0000\""],
    &["1e-400", "0e-5"],
];

#[derive(Clone, Debug)]
enum Json {
    /// Row and column of `SCALARS`.
    Scalar(Index, Index),
    Array(Vec<Json>),
    /// A key may be there twice: the last one counts.
    Object(Vec<(&'static str, Json)>),
}

/// How a part is taken of a payload: one number after the other says what is kept.
#[derive(Clone, Debug)]
struct Cut(Vec<u8>);

#[derive(Clone, Debug)]
struct Filter {
    types: Option<Vec<&'static str>>,
    tags: Option<Vec<&'static str>>,
    /// Parts of the payloads of these events.
    payloads: Option<Vec<(Index, Cut)>>,
}

#[derive(Clone, Debug)]
struct Event {
    event_type: &'static str,
    tags: Vec<&'static str>,
    payload: Json,
}

fn json() -> impl Strategy<Value = Json> {
    let scalar = any::<(Index, Index)>().prop_map(|(row, column)| Json::Scalar(row, column));
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            3 => prop::collection::vec((select(KEYS), inner), 0..4).prop_map(Json::Object),
        ]
    })
}

fn event() -> impl Strategy<Value = Event> {
    (select(TYPES), subsequence(TAGS, 0..=2), json()).prop_map(|(event_type, tags, payload)| Event {
        event_type,
        tags,
        payload,
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    let words = |words: &'static [&'static str]| {
        prop_oneof![
            4 => Just(None),
            3 => subsequence(words, 1..=2).prop_map(Some),
            1 => Just(Some(Vec::new())),
        ]
    };
    let cut = prop::collection::vec(any::<u8>(), 1..24).prop_map(Cut);
    let payloads = prop_oneof![
        1 => Just(None),
        8 => prop::collection::vec((any::<Index>(), cut), 0..3).prop_map(Some),
    ];
    (words(TYPES), words(TAGS), payloads).prop_map(|(types, tags, payloads)| Filter {
        types,
        tags,
        payloads,
    })
}

impl Json {
    fn text(&self) -> String {
        match self {
            Self::Scalar(row, column) => {
                let spellings: &&[&str] = row.get(SCALARS);
                (*column.get(spellings)).to_owned()
            }
            Self::Array(elements) => {
                let elements: Vec<String> = elements.iter().map(Self::text).collect();
                format!("[{}]", elements.join(","))
            }
            Self::Object(members) => {
                let members = members
                    .iter()
                    .map(|(key, value)| format!("{key:?}:{}", value.text()));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
        }
    }

    /// A part of the value, of the same meaning as far as it goes, unless the cut changes something.
    fn part(&self, cut: &mut impl Iterator<Item = u8>) -> String {
        let mut keeps = || cut.next().is_none_or(|number| number % 3 != 0);
        match self {
            Self::Scalar(row, _) => {
                let number = usize::from(cut.next().unwrap_or(1));
                let same = row.get(SCALARS);
                let row = if number % 16 == 0 {
                    SCALARS[number / 16 % SCALARS.len()]
                } else {
                    same
                };
                row[number % row.len()].to_owned()
            }
            Self::Array(elements) => {
                let kept: Vec<&Json> = elements.iter().filter(|_| keeps()).collect();
                let parts: Vec<String> = kept.iter().rev().map(|element| element.part(cut)).collect();
                format!("[{}]", parts.join(","))
            }
            Self::Object(members) => {
                let last: BTreeMap<_, _> = members.iter().map(|(key, value)| (key, value)).collect();
                let kept: Vec<_> = last.into_iter().filter(|_| keeps()).collect();
                let parts = kept
                    .iter()
                    .map(|(key, value)| format!("{key:?}:{}", value.part(cut)));
                format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Filter {
    fn to_ask(&self, events: &[Event]) -> EventFilter {
        let mut asked = match &self.types {
            Some(types) => EventFilter::types(types.iter().copied()),
            None => EventFilter::all(),
        };
        if let Some(tags) = &self.tags {
            asked = asked.tags(tags.iter().copied());
        }
        if let Some(payloads) = &self.payloads {
            asked = asked.payloads(payloads.iter().map(|(event, Cut(numbers))| {
                let part = event.get(events).payload.part(&mut numbers.iter().copied());
                serde_json::from_str(&part).expect("a part of JSON is JSON")
            }));
        }
        asked
    }
}

#[test]
fn the_index_selects_by_payload_what_asking_everyone_selects() {
    let events = prop::collection::vec(event(), 1..5);
    let queries = prop::collection::vec(prop::collection::vec(filter(), 0..3), 1..12);
    let outcome = TestRunner::new(config(2_000)).run(&(events, queries), |(events, queries)| {
        let asked: Vec<EventQuery> = queries
            .iter()
            .map(|query| EventQuery::any(query.iter().map(|filter| filter.to_ask(&events))))
            .collect();
        let to_append: Vec<NewEvent> = events
            .iter()
            .map(|event| NewEvent::raw(event.event_type, event.payload.text()).tags(&event.tags))
            .collect();
        let naive = select_naively(&asked, to_append.clone());
        let concerned: Vec<usize> = (0..asked.len())
            .filter(|&query| !naive[query].is_empty())
            .collect();
        prop_assert_eq!(select_by_index(&asked, to_append), concerned);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// The sequences behind a position that the server's log gives for each query.
async fn read(store: &Store, queries: &[EventQuery], after: u64) -> Vec<Vec<u64>> {
    let mut selected = Vec::new();
    for query in queries {
        let batches: Vec<EventBatch> = store.read(query).after(after).try_collect().await.expect("reads");
        let events = batches.iter().flat_map(EventBatch::iter);
        selected.push(events.map(|event| event.sequence() - after).collect());
    }
    selected
}

#[test]
fn the_server_selects_what_asking_everyone_selects() {
    let Some(database) = database() else { return };
    // Some of the members are indexed, so that predicates with and without an index are asked.
    let builder = ["/n", "/m/n", "/"]
        .into_iter()
        .fold(Store::builder(), |builder, pointer| {
            builder.index_payload(pointer)
        });
    let store: Store = Database::open(&database, builder);
    let runtime = tokio::runtime::Runtime::new().expect("makes a runtime");
    let events = prop::collection::vec(event(), 1..5);
    let queries = prop::collection::vec(prop::collection::vec(filter(), 0..3), 1..12);
    let outcome = TestRunner::new(config(200)).run(&(events, queries), |(events, queries)| {
        let asked: Vec<EventQuery> = queries
            .iter()
            .map(|query| EventQuery::any(query.iter().map(|filter| filter.to_ask(&events))))
            .collect();
        let to_append: Vec<NewEvent> = events
            .iter()
            .map(|event| NewEvent::raw(event.event_type, event.payload.text()).tags(&event.tags))
            .collect();
        let naive = select_naively(&asked, to_append.clone());
        let selected = runtime.block_on(async {
            let appended = store.append(to_append).await.expect("appends");
            read(&store, &asked, appended.first_sequence - 1).await
        });
        prop_assert_eq!(selected, naive);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

//! Random histories, on both logs, against a list.
//!
//! A history appends, reads, registers and ends streams, lets handlers fail and wait, and opens the log again, cleanly or
//! not. What the store says and delivers is compared with what a plain list says. `PROPTEST_CASES` sets how many
//! histories are tried.

#[path = "../common/mod.rs"]
mod common;
mod index;
mod keyed;
mod letters;
mod naive;
mod run;
mod selection;
mod steering;

use std::time::Duration;

use millstream::internals;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestRunner;

use crate::naive::{Event, Filter, Log, Query};
use crate::run::{Medium, World};

const TYPES: &[&str] = &["a", "b", "ä", "it's \"c\""];
const TAGS: &[&str] = &["x", "y:1", "ü", "\"z\\"];
const PAYLOADS: &[&str] = &[
    "1",
    "1.0",
    "10e-1",
    "0",
    "-0.0",
    "1.5",
    "9007199254740993",
    "9007199254740992",
    "9007199254740992.0",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "null",
    "true",
    "\"ü\"",
    "[]",
    "{}",
    "[1, [2.0, null]]",
    "{\"n\": 1, \"s\": \"ü\"}",
    "{\"n\": 1.0, \"list\": [{\"n\": 2, \"m\": 3}, 4]}",
    "{\"list\": [{\"n\": 2.0}]}",
    "{\"n\": {}}",
];

/// How many queries a history has, and so how many names of durable streams: each has a query of its own.
const QUERIES: usize = 4;
/// How many live streams there can be at once.
const LIVE: usize = 2;

/// What a caller of `append_if` expects.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// What the log says.
    TheVersion,
    /// So much less or more than that.
    TheVersionBut(i64),
    /// Nothing after the head, less so many.
    NothingAfterTheHeadBut(u64),
}

#[derive(Clone, Copy, Debug)]
enum Begin {
    Beginning,
    Now,
    /// After this part of the log, in percent.
    After(u64),
}

#[derive(Clone, Copy, Debug)]
enum Store {
    Coalesced,
    Strict,
    Every(u32),
}

/// One of the streams, if it runs.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Live(usize),
    Durable(usize),
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Event>),
    AppendIf(Vec<Event>, usize, Expected),
    Query(usize, u64),
    OpenLive(usize, usize),
    OpenDurable(usize, Begin, Store),
    Fail(Slot, u32),
    Pause(Slot),
    Resume(Slot),
    End(Slot),
    Drop(Slot),
    Settle,
    Reopen,
    Crash,
}

#[derive(Clone, Debug)]
struct History {
    window_bytes: usize,
    page_batches: usize,
    queries: Vec<Query>,
    steps: Vec<Step>,
}

fn event() -> impl Strategy<Value = Event> {
    let tags = subsequence(TAGS, 0..=3);
    (select(TYPES), tags, select(PAYLOADS)).prop_map(|(event_type, tags, payload)| Event {
        event_type,
        tags,
        payload,
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..=4)
}

fn filter() -> impl Strategy<Value = Filter> {
    let of = |words: &'static [&'static str], most: usize| {
        prop_oneof![
            3 => Just(None),
            5 => subsequence(words, 1..=most).prop_map(Some),
            1 => Just(Some(Vec::new())),
        ]
    };
    (of(TYPES, 3), of(TAGS, 2), of(PAYLOADS, 2)).prop_map(|(types, tags, payloads)| Filter {
        types,
        tags,
        payloads,
    })
}

fn query() -> impl Strategy<Value = Query> {
    prop::collection::vec(filter(), 0..=3).prop_map(Query)
}

fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![
        (0..LIVE).prop_map(Slot::Live),
        (0..QUERIES).prop_map(Slot::Durable)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        Just(Expected::TheVersion),
        (-3..=3i64).prop_map(Expected::TheVersionBut),
        (0..=3u64).prop_map(Expected::NothingAfterTheHeadBut),
    ];
    let begin = prop_oneof![
        3 => Just(Begin::Beginning),
        1 => Just(Begin::Now),
        2 => (0..=100u64).prop_map(Begin::After),
    ];
    let store = prop_oneof![
        Just(Store::Coalesced),
        Just(Store::Strict),
        (1..=3u32).prop_map(Store::Every)
    ];
    prop_oneof![
        12 => events().prop_map(Step::Append),
        4 => (events(), 0..QUERIES, expected).prop_map(|(events, query, expected)| Step::AppendIf(events, query, expected)),
        2 => (0..QUERIES, 0..=100u64).prop_map(|(query, after)| Step::Query(query, after)),
        3 => (0..LIVE, 0..QUERIES).prop_map(|(slot, query)| Step::OpenLive(slot, query)),
        6 => (0..QUERIES, begin, store).prop_map(|(name, begin, store)| Step::OpenDurable(name, begin, store)),
        3 => (slot(), 1..=5u32).prop_map(|(slot, times)| Step::Fail(slot, times)),
        2 => slot().prop_map(Step::Pause),
        2 => slot().prop_map(Step::Resume),
        2 => slot().prop_map(Step::End),
        1 => slot().prop_map(Step::Drop),
        2 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn history() -> impl Strategy<Value = History> {
    // A batch of one small event weighs some 350 bytes.
    let window_bytes = select(vec![0, 400, 800, 1_200, 1 << 20]);
    let page_batches = select(vec![1, 2, 3, 256]);
    let queries = prop::collection::vec(query(), QUERIES);
    let steps = prop::collection::vec(step(), 5..60);
    (window_bytes, page_batches, queries, steps).prop_map(|(window_bytes, page_batches, queries, steps)| {
        History {
            window_bytes,
            page_batches,
            queries,
            steps,
        }
    })
}

/// So many cases, unless `PROPTEST_CASES` says otherwise.
fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

/// Lives through random histories, and shortens the one that fails.
fn try_all<S: Strategy>(config: ProptestConfig, histories: S, live: impl AsyncFn(S::Value)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let outcome = TestRunner::new(config).run(&histories, |history| {
        runtime.block_on(async {
            let done = tokio::time::timeout(PATIENCE, live(history));
            assert!(done.await.is_ok(), "the history hangs");
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// How long a history may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn check(medium: Medium) {
    try_all(config(250), history(), async |history: History| {
        World::new(medium, &history).live(&history.steps).await;
    });
}

#[test]
fn every_history_in_a_file_is_that_of_a_plain_list() {
    check(Medium::File);
}

#[test]
fn every_history_in_memory_is_that_of_a_plain_list() {
    check(Medium::Memory);
}

fn check_letters(medium: Medium) {
    try_all(config(150), letters::life(), async |life| {
        letters::live(life, medium).await;
    });
}

#[test]
fn every_failing_stream_in_a_file_settles_each_event_once_and_keeps_the_order_of_keys() {
    check_letters(Medium::File);
}

#[test]
fn every_failing_stream_in_memory_settles_each_event_once_and_keeps_the_order_of_keys() {
    check_letters(Medium::Memory);
}

#[test]
fn index_and_sql_select_what_a_plain_list_selects() {
    let queries = prop::collection::vec(query(), 0..8);
    let events = prop::collection::vec(event(), 1..6);
    let outcome = TestRunner::new(config(500)).run(&(queries, events), |(queries, events)| {
        let asked: Vec<_> = queries.iter().map(Query::to_ask).collect();
        let to_append: Vec<_> = events.iter().map(Event::to_append).collect();
        let mut log = Log::default();
        log.append(events);
        let selected: Vec<_> = queries.iter().map(|query| log.sequences(query, 0)).collect();
        let concerned = selected
            .iter()
            .enumerate()
            .filter(|(_, sequences)| !sequences.is_empty());
        let concerned: Vec<usize> = concerned.map(|(index, _)| index).collect();
        prop_assert_eq!(internals::select_by_index(&asked, to_append.clone()), concerned);
        prop_assert_eq!(
            internals::select_naively(&asked, to_append.clone()),
            &selected[..]
        );
        prop_assert_eq!(internals::select_by_sql(&asked, to_append), selected);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

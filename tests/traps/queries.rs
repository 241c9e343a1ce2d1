//! Queries: where the SQL of the replay and the selection in memory could differ, and where a query could take for ever.

use millstream::{AppendError, DurableStream, EventFilter, EventQuery, ExpectedContext, NewEvent, Store};
use serde_json::json;

use crate::common::{Recorder, append, in_time, log, sequences, takes_all};
use crate::{Place, write_by_hand};

/// Appends the events to both kinds of log, and compares what a query selects from the file, from memory, and live.
async fn compare(events: &[NewEvent], queries: &[EventQuery]) {
    let place = Place::new();
    let stores = [
        place.open_with(Store::builder().window_bytes(0)),
        Store::in_memory().unwrap(),
    ];
    let mut live = Vec::new();
    for query in queries {
        let recorder = Recorder::new();
        live.push((
            recorder.clone(),
            stores[1].stream_to(query, recorder.handler()).await.unwrap(),
        ));
    }
    for store in &stores {
        for event in events {
            store.append([event.clone()]).await.unwrap();
        }
    }
    stores[1].settled().await.unwrap();
    let all = stores[1].query(&EventQuery::all()).await.unwrap().events;
    for (query, (recorder, _)) in queries.iter().zip(&live) {
        let expected: Vec<u64> = all
            .iter()
            .filter(|event| query.matches(event))
            .map(|event| event.sequence())
            .collect();
        assert_eq!(recorder.sequences(), expected, "live: {query:?}");
        for store in &stores {
            assert_eq!(sequences(&log(store, query).await), expected, "read: {query:?}");
            let version = expected.last().copied().unwrap_or(0);
            // The conditions of appends select in the writer's transaction.
            let moved = match version {
                0 => ExpectedContext::version(1),
                _ => ExpectedContext::nothing_after(version - 1),
            };
            let refused = store.append_if([NewEvent::new("late", 1)], query, moved).await;
            assert!(
                matches!(refused, Err(AppendError::Conflict { .. })),
                "{refused:?}: {query:?}"
            );
            assert_eq!(
                store.query(query).await.unwrap().context_version,
                version,
                "query: {query:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_and_memory_agree_about_odd_tags_and_types() {
    let events = [
        NewEvent::new("a", 1),
        NewEvent::new("A", 1).tag("x"),
        NewEvent::new("ä", 1).tag("ä"),
        NewEvent::new("a\u{308}", 1).tag("a\u{308}"),
        NewEvent::new("it's", 1).tags(["\"", "\\", "\",\""]),
        NewEvent::new("%", 1).tags(["a b", " a", "🙂", "x,y", "[]"]),
    ];
    let anything = || EventFilter::all().payload(json!({"never": true}));
    let queries = [
        EventQuery::tags([""]),
        EventQuery::types([""]),
        // Filters that no index serves make the log ask the query about every row.
        EventQuery::any([EventFilter::all().tags([""]), anything()]),
        EventQuery::any([EventFilter::all().tags(["x\ny"]), anything()]),
        EventQuery::any([EventFilter::all().tags(["\",\""]), anything()]),
        EventQuery::any([EventFilter::types(["A"]).tags(["x", ""]), anything()]),
        EventQuery::types(["ä"]),
        EventQuery::types(["a\u{308}"]),
        EventQuery::types(["a", "A", "%", "it's"]),
        EventQuery::tags(["ä"]),
        EventQuery::tags(["\"", "\\"]),
        EventQuery::tags(["\",\""]),
        EventQuery::tags(["🙂", " a"]),
        EventQuery::tags(["a"]),
        EventQuery::types(["a\u{0}b"]),
        EventQuery::any([EventFilter::types(["a"]), EventFilter::types([""; 0])]),
        EventFilter::types(["a"]).tags([""; 0]).into(),
        EventFilter::all().payloads([]).into(),
    ];
    compare(&events, &queries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_and_memory_agree_about_numbers_and_nested_payloads() {
    let payloads = [
        "1",
        "1.0",
        "1e0",
        "-0.0",
        "0",
        "9007199254740993",
        "9007199254740992",
        "18446744073709551614",
        "9007199254740992.0",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "null",
        "true",
        "\"1\"",
        "[]",
        "{}",
        "[1,[2,{\"a\":null}]]",
        "{\"a\":1,\"a\":2}",
        "{\"a\":[1,2,3],\"b\":{\"c\":\"ü\"}}",
    ];
    let events: Vec<NewEvent> = payloads
        .iter()
        .filter(|text| serde_json::from_str::<serde_json::Value>(text).is_ok())
        .map(|text| NewEvent::raw("n", *text))
        .collect();
    let predicates = [
        json!(1),
        json!(1.0),
        json!(0),
        json!(-0.0),
        json!(9_007_199_254_740_993_u64),
        json!(u64::MAX - 1),
        json!(9_007_199_254_740_992.0),
        json!(u64::MAX),
        json!(1.844_674_407_370_955_2e19),
        json!(null),
        json!([]),
        json!({}),
        json!([[{}]]),
        json!([[2.0]]),
        json!({"a": 2}),
        json!({"a": [3, 1]}),
        json!({"b": {"c": "ü"}}),
        json!({"a": {}}),
    ];
    let queries: Vec<EventQuery> = predicates
        .iter()
        .flat_map(|predicate| {
            let alone = EventFilter::all().payload(predicate.clone());
            [
                alone.clone().into(),
                EventFilter::types(["n"]).payload(predicate.clone()).into(),
                EventQuery::any([alone, EventFilter::types(["m"])]),
            ]
        })
        .collect();
    compare(&events, &queries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_and_memory_agree_about_very_long_queries() {
    let events = [
        NewEvent::new("t3", 1).tags(["g1", "g2"]),
        NewEvent::new("t70000", 1).tag("g3"),
    ];
    let words = |letter: &str, count: usize| {
        (0..count)
            .map(|number| format!("{letter}{number}"))
            .collect::<Vec<_>>()
    };
    let queries = [
        EventQuery::types(words("t", 100_000)),
        EventQuery::tags(words("g", 5_000)),
        EventFilter::types(words("t", 100_000)).tags(["g1"]).into(),
        EventFilter::types(words("t", 40_000)).tags(["g1", "g2"]).into(),
        EventQuery::any(
            words("t", 63)
                .into_iter()
                .map(|name| EventFilter::types([name]).tags(["g1", "g2"])),
        ),
        EventQuery::any(
            words("t", 2_000)
                .into_iter()
                .map(|name| EventFilter::types([name]).tags(["g1"])),
        ),
    ];
    compare(&events, &queries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sparse_query_over_a_long_log_ends_and_can_be_cancelled() {
    let place = Place::new();
    place.open().close().await.unwrap();
    write_by_hand(&place.by_hand(), "noise", 1..=350_000, 7);
    let store = place.open();
    let (first, _) = append(&store, "wanted", 2).await;
    let by_type = EventQuery::types(["wanted"]);
    let by_payload = EventQuery::from(EventFilter::all().payload(json!(1)));
    let recorders = [Recorder::new(), Recorder::new()];
    let mut streams = Vec::new();
    for (index, (query, recorder)) in [by_type, by_payload].iter().zip(&recorders).enumerate() {
        let name = DurableStream::new(format!("sparse-{index}"));
        streams.push(
            store
                .stream_to_durable(&name, query, recorder.handler())
                .await
                .unwrap(),
        );
    }
    let cancelled = DurableStream::new("cancelled");
    let slow = EventQuery::from(EventFilter::all().payload(json!({"never": [1, {"a": 2}]})));
    let cancelled = store
        .stream_to_durable(&cancelled, &slow, takes_all())
        .await
        .unwrap();
    cancelled.unsubscribe();
    in_time("the long read is given up", cancelled.stopped()).await;
    append(&store, "noise", 1).await;
    in_time("the log is read", store.settled()).await.unwrap();
    assert_eq!(recorders[0].sequences(), [first, first + 1]);
    assert_eq!(recorders[1].sequences(), [first + 1]);
    for stream in streams {
        stream.unsubscribe();
        stream.stopped().await;
        assert_eq!(
            stream.status().cursor,
            Some(store.head()),
            "the cursor claims what was scanned, and no less"
        );
    }
}

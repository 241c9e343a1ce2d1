//! What is selected by indexed paths of payloads is what asking each event selects, and the server uses its indexes for it.

use millstream::internals::{is_subset, server_search};
use millstream::{EventFilter, EventQuery, NewEvent, Store};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use crate::common::in_time;
use crate::common::postgres::{Database, database, on_connection};

async fn open(database: &Database, pointers: &[&str]) -> Store {
    let builder = pointers.iter().fold(database.builder(), |builder, pointer| {
        builder.index_payload(*pointer)
    });
    builder.connect(&database.address).await.expect("opens")
}

/// Payloads that a server and this program might see differently.
fn hard() -> Vec<String> {
    let long = |end: &str| format!(r#"{{"n":"{}{end}"}}"#, "ü".repeat(300));
    let deep = |levels: usize| format!(r#"{{"n":1,"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let mut payloads: Vec<String> = [
        r#"{"n":1}"#,
        r#"{"n":1.0,"m":2}"#,
        r#"{"n":10e-1}"#,
        r#"{"n":"1"}"#,
        r#"{"n":true}"#,
        r#"{"n":null}"#,
        r#"{"n":[1]}"#,
        r#"{"n":{"m":1}}"#,
        r#"{"n":{"m":1},"n":{"m":"x"}}"#,
        r#"{"n":{"m":"x"},"n":{}}"#,
        r#"{"n":2,"n":1}"#,
        r#"{"n":1,"n":2}"#,
        r#"{"n":0.1}"#,
        r#"{"n":0.1000000000000000055511151231257827}"#,
        r#"{"n":9007199254740992}"#,
        r#"{"n":9007199254740993}"#,
        r#"{"n":18446744073709551615}"#,
        r#"{"n":18446744073709551616}"#,
        r#"{"n":-0.0}"#,
        r#"{"n":5e-324}"#,
        r#"{"n":1e-400}"#,
        r#"{"n":1e400}"#,
        r#"{"n":-1e400}"#,
        r#"{"n":"a\u0000b"}"#,
        r#"{"n":"x","m":"\u0000"}"#,
        r#"{"n":"\ud800"}"#,
        r#"{"n":"\ud83d\ude00"}"#,
        r#"{"n":"\u0031"}"#,
        r#"{"0":1}"#,
        r#"[{"n":1}]"#,
        "1",
        "no JSON",
    ]
    .map(String::from)
    .to_vec();
    payloads.extend([long("a"), long("b"), deep(100), deep(200), deep(100_000)]);
    payloads
}

fn predicates() -> Vec<Value> {
    let long = |end: &str| json!({"n": format!("{}{end}", "ü".repeat(300))});
    let mut predicates = vec![
        json!({"n": 1}),
        json!({"n": 1.0, "m": 2}),
        json!({"n": 2}),
        json!({"n": "1"}),
        json!({"n": true}),
        json!({"n": null}),
        json!({"n": {"m": 1}}),
        json!({"n": {"m": "x"}}),
        json!({"n": 0.1}),
        json!({"n": 9_007_199_254_740_992_u64}),
        json!({"n": 9_007_199_254_740_993_u64}),
        json!({"n": u64::MAX}),
        json!({"n": 18_446_744_073_709_551_616.0}),
        json!({"n": 0}),
        json!({"n": 5e-324}),
        json!({"n": "a\0b"}),
        json!({"n": "x"}),
        json!({"n": "x", "m": "\0"}),
        json!({"n": "\u{1f600}"}),
        json!({"0": 1}),
    ];
    predicates.extend([long("a"), long("b")]);
    predicates
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_path_finds_what_asking_each_payload_finds_however_hard_it_is() {
    let Some(database) = database() else { return };
    let store = open(&database, &["/n", "/n/m", "/0"]).await;
    let payloads = hard();
    let (texts, count) = (payloads.clone(), payloads.len() as i64);
    let path = format!("SET search_path TO {}", database.schema);
    // Past the store, which refuses some of them.
    on_connection(&database.address, async move |client| {
        client.batch_execute(&path).await.expect("sets the path");
        let insert = "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, payload)
            SELECT number, 0, 1, 0, 'a', payload FROM unnest($1::text[]) WITH ORDINALITY AS row (payload, number)";
        client.execute(insert, &[&texts]).await.expect("inserts");
        let advance = "UPDATE millstream_log SET head = $1";
        client.execute(advance, &[&count]).await.expect("advances");
    });
    let parsed: Vec<Option<Value>> = payloads
        .iter()
        .map(|text| serde_json::from_str(text).ok())
        .collect();
    let mut found = 0;
    for predicate in predicates() {
        let selects = |payload: &Option<Value>| {
            payload
                .as_ref()
                .is_some_and(|payload| is_subset(&predicate, payload))
        };
        let expected: Vec<u64> = (1..)
            .zip(&parsed)
            .filter(|(_, payload)| selects(payload))
            .map(|(sequence, _)| sequence)
            .collect();
        let query = EventQuery::from(EventFilter::all().payload(predicate.clone()));
        let context = store.query(&query).await.expect("reads");
        let events: Vec<u64> = context.events.iter().map(|event| event.sequence()).collect();
        assert_eq!(events, expected, "{predicate}");
        let refused = store.append_if([NewEvent::new("b", 1)], &query, context.context_version + 1);
        assert!(refused.await.is_err(), "{predicate} has not moved so far");
        found += expected.len();
    }
    assert!(found > 20, "the predicates select something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_indexed_once_by_whoever_comes_first_and_stays_for_all() {
    let Some(database) = database() else { return };
    let store = open(&database, &[]).await;
    let order = |number: usize| NewEvent::new("order-placed", json!({"order": number}));
    store.append((0..100).map(order)).await.unwrap();
    let opened = futures::future::join_all((0..4).map(|_| open(&database, &["/order", "/a~1'b"])));
    let stores = in_time("all have opened it", opened).await;
    let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema()
        AND indexname LIKE 'event_by_payload%'";
    assert_eq!(database.number(indexes), 2);
    let query = EventQuery::from(EventFilter::all().payload(json!({"order": 7})));
    for store in stores {
        assert_eq!(store.query(&query).await.unwrap().events.len(), 1);
        store.close().await.unwrap();
    }
    let many: Vec<String> = (0..15).map(|number| format!("/p{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let builder = many.iter().fold(database.builder(), |builder, pointer| {
        builder.index_payload(*pointer)
    });
    let refused = builder.connect(&database.address).await.expect_err("is refused");
    assert!(refused.to_string().contains("index_payload"), "{refused}");
}

/// The plan of the search for a query, over a log of many events.
fn plan(database: &Database, query: &EventQuery, pointers: &[&str]) -> String {
    let (sql, texts) = server_search(query, pointers).expect("something is searched");
    let path = format!(
        "SET search_path TO {}; SET plan_cache_mode = force_custom_plan",
        database.schema
    );
    on_connection(&database.address, async move |client| {
        client.batch_execute(&path).await.expect("sets the path");
        let (after, rows_max, through) = (0_i64, 64_i64, 20_000_i64);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&after, &rows_max];
        if !texts.is_empty() {
            parameters.push(&through);
        }
        parameters.extend(texts.iter().map(|texts| texts as &(dyn ToSql + Sync)));
        let lines = client.query(&format!("EXPLAIN {sql}"), &parameters).await;
        let lines = lines.expect("is planned");
        let lines: Vec<String> = lines.iter().map(|line| line.get(0)).collect();
        lines.join("\n")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_searches_with_an_index_for_every_shape_of_a_query() {
    let Some(database) = database() else { return };
    let pointers = ["/order", "/a/b"];
    open(&database, &pointers).await.close().await.unwrap();
    database
        .execute(
            "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload)
             SELECT n, 0, 1, 0, 'type-' || n % 500, ARRAY['tag:' || n % 1000, 'all'],
                 '{\"order\":' || n || ',\"a\":{\"b\":\"x' || n || '\"}}' FROM generate_series(1, 20000) n;
             UPDATE millstream_log SET head = 20000; ANALYZE event",
        )
        .unwrap();
    let order = EventFilter::all().payload(json!({"order": 7}));
    let shapes: [(EventQuery, &[&str]); 7] = [
        (EventQuery::all(), &["event_pkey"]),
        (EventQuery::types(["type-7"]), &["event_by_type"]),
        (EventQuery::tags(["tag:7"]), &["event_by_tag"]),
        (order.clone().into(), &["event_by_payload"]),
        (
            EventFilter::all()
                .payloads([json!({"order": 7}), json!({"a": {"b": "x9"}})])
                .into(),
            &["event_by_payload"],
        ),
        (
            EventFilter::types(["type-7"]).payload(json!({"order": 7})).into(),
            &["event_by_payload", "event_by_type"],
        ),
        (
            EventQuery::any([order, EventFilter::types(["type-9"]).tags(["tag:9"])]),
            &["event_by_payload"],
        ),
    ];
    for (query, indexes) in shapes {
        let plan = plan(&database, &query, &pointers);
        assert!(!plan.contains("Seq Scan"), "{query:?}: {plan}");
        assert!(
            indexes.iter().any(|index| plan.contains(index)),
            "{query:?}: {plan}"
        );
    }
}

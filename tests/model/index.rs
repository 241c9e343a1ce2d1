//! Long logs in files with a small index, so that entries are spilled and merged many times over: what a query finds by tag,
//! by several tags, by type and by an indexed path is what a list of the events says, also with a second store at work on
//! the same file, after reopening, and while chores of the index fail.

use std::ops::Range;
use std::path::Path;

use millstream::internals::{FaultPoint, with_faults, with_small_index};
use millstream::{EventFilter, EventQuery, EventRecord, NewEvent, Store};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

const ORDERS: u64 = 40;
const CUSTOMERS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// So many batches, of one to five events, by the first or the second store.
    Append {
        batches: u64,
        by_second: bool,
    },
    Query {
        order: u64,
        customer: u64,
    },
    Reopen,
}

/// What the events are made of: everything follows from their number.
fn event(number: u64) -> NewEvent {
    let (order, customer) = (number * 7 % ORDERS, number * 5 % CUSTOMERS);
    let event_type = ["placed", "paid"][(number % 3 / 2) as usize];
    let event = NewEvent::new(event_type, json!({"order": order, "number": number}));
    match number % 4 {
        0 => event,
        _ => event.tags([format!("order:{order}"), format!("customer:{customer}")]),
    }
}

fn queries(order: u64, customer: u64) -> Vec<EventQuery> {
    let (order_tag, customer_tag) = (format!("order:{order}"), format!("customer:{customer}"));
    vec![
        EventQuery::tags([&order_tag]),
        EventQuery::tags([&order_tag, &customer_tag]),
        EventFilter::types(["paid"])
            .payload(json!({"order": order}))
            .into(),
        EventQuery::any([
            EventFilter::types(["paid"]).tags([&customer_tag]),
            EventFilter::all().payload(json!({"order": order, "number": order})),
        ]),
    ]
}

fn open(path: &Path) -> Store {
    let builder = with_small_index(Store::builder()).index_payload("/order");
    // Now and then a chore fails; the next one comes a second later, so it must be rare.
    let chores = std::sync::atomic::AtomicU64::new(0);
    let builder = with_faults(builder, move |point| {
        point == FaultPoint::BeforeUpkeep
            && chores.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 400 == 399
    });
    builder
        .durability(millstream::Durability::Relaxed)
        .open(path)
        .unwrap()
}

async fn play(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let mut stores = [open(&path), open(&path)];
    let mut count = 0;
    for step in steps {
        match *step {
            Step::Append { batches, by_second } => {
                for batch in 0..batches {
                    let events: Range<u64> = count + 1..count + 2 + batch % 5;
                    count = events.end - 1;
                    stores[usize::from(by_second)]
                        .append(events.map(event))
                        .await
                        .unwrap();
                }
            }
            Step::Query { order, customer } => check(&stores, order, customer).await,
            Step::Reopen => {
                stores[0].close().await.unwrap();
                stores[0] = open(&path);
            }
        }
    }
    check(&stores, 0, 0).await;
}

/// Both stores find what asking every event finds.
async fn check(stores: &[Store; 2], order: u64, customer: u64) {
    let all = stores[0].query(&EventQuery::all()).await.unwrap().events;
    for query in queries(order, customer) {
        let expected: Vec<u64> = all
            .iter()
            .filter(|event| query.matches(event))
            .map(EventRecord::sequence)
            .collect();
        for store in stores {
            let found = store.query(&query).await.unwrap().events;
            let found: Vec<u64> = found.iter().map(EventRecord::sequence).collect();
            assert_eq!(found, expected, "{query:?} of {} events", all.len());
        }
    }
}

#[test]
fn the_index_finds_what_asking_every_event_finds() {
    let step = prop_oneof![
        4 => (1..60_u64, any::<bool>()).prop_map(|(batches, by_second)| Step::Append { batches, by_second }),
        3 => (0..ORDERS, 0..CUSTOMERS).prop_map(|(order, customer)| Step::Query { order, customer }),
        1 => Just(Step::Reopen),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = std::env::var("PROPTEST_CASES").map_or(16, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    runner
        .run(&prop::collection::vec(step, 10..40), |steps| {
            runtime.block_on(play(&steps));
            Ok(())
        })
        .unwrap();
}

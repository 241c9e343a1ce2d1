//! Many streams on their way through the same stretch of the log, which share its pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::internals::{FaultPoint, with_faults};
use millstream::{DurableStream, EventFilter, EventQuery, EventStream, NewEvent, Start, Store};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::Place;
use crate::common::{Recorder, in_time, takes_all};

const BATCHES: u64 = 400;

/// Batches of 1 to 5 events of two types, with a tag each, and a number as payload.
fn batch(number: u64) -> Vec<NewEvent> {
    let event = |index: u64| {
        let event_type = if (number + index).is_multiple_of(3) {
            "a"
        } else {
            "b"
        };
        let payload = json!({"n": index, "text": "x".repeat(200)});
        NewEvent::new(event_type, payload).tag(format!("t:{}", number % 7))
    };
    (0..=number % 5).map(event).collect()
}

async fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        store.append(batch(number)).await.unwrap();
    }
}

/// Ten queries of every kind: everything, by type, by tag, by payload alone, and mixed.
fn queries() -> Vec<EventQuery> {
    let payload = |n: u64| EventFilter::all().payload(json!({"n": n}));
    vec![
        EventQuery::all(),
        EventQuery::all(),
        EventQuery::types(["a"]),
        EventQuery::types(["b"]),
        EventQuery::types(["a", "b"]),
        EventQuery::tags(["t:3"]),
        payload(0).into(),
        payload(4).into(),
        EventQuery::any([EventFilter::types(["a"]).tags(["t:1"]), payload(3)]),
        EventQuery::types(["none"]),
    ]
}

/// A window and a shelf of a few pages, and pages of a few batches.
fn narrow() -> millstream::StoreBuilder {
    Store::builder().window_bytes(256 << 10).page_batches(16)
}

/// What each query selects of the numbered batches, by the plain definition.
fn expected(query: &EventQuery, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let events: Vec<NewEvent> = numbers.flat_map(batch).collect();
    let queries = [query.clone()];
    millstream::internals::select_naively(&queries, events).remove(0)
}

async fn attach(store: &Store, start: Start) -> Vec<(EventQuery, Recorder, EventStream)> {
    let mut streams = Vec::new();
    for (number, query) in queries().into_iter().enumerate() {
        let recorder = Recorder::new();
        let name = DurableStream::new(format!("s{number}")).start(start.clone());
        let stream = store.stream_to_durable(&name, &query, recorder.handler()).await;
        streams.push((query, recorder, stream.unwrap()));
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_share_pages_get_what_each_query_selects_while_others_append() {
    let place = Place::new();
    let store = place.open_with(narrow());
    fill(&store, 0..BATCHES).await;
    let store_again = {
        store.close().await.unwrap();
        place.open_with(narrow())
    };
    let streams = attach(&store_again, Start::Beginning).await;
    fill(&store_again, BATCHES..BATCHES + 100).await;
    in_time("all streams are settled", store_again.settled())
        .await
        .unwrap();
    for (query, recorder, _stream) in &streams {
        assert_eq!(
            recorder.sequences(),
            expected(query, 0..BATCHES + 100),
            "{query:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_begins_inside_a_batch_cuts_it_for_nobody_else() {
    let place = Place::new();
    let store = place.open_with(narrow());
    fill(&store, 0..BATCHES).await;
    store.close().await.unwrap();
    let store = place.open_with(narrow());
    // Sequences 11 to 15 are one batch.
    let inside = Recorder::new();
    let name = DurableStream::new("inside").start(Start::After(12));
    let begun = store.stream_all_durable(&name, inside.handler()).await.unwrap();
    let whole = Recorder::new();
    let name = DurableStream::new("whole");
    let all = store.stream_all_durable(&name, whole.handler()).await.unwrap();
    in_time("both are settled", store.settled()).await.unwrap();
    let head = store.head();
    assert_eq!(inside.sequences(), (13..=head).collect::<Vec<_>>());
    assert_eq!(whole.sequences(), (1..=head).collect::<Vec<_>>());
    assert_eq!(
        whole.deliveries().len() as u64,
        BATCHES,
        "each batch comes as one"
    );
    drop((begun, all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_begins_inside_a_batch_of_a_page_that_is_there_gets_the_rest_of_it() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 0..BATCHES).await;
    store.close().await.unwrap();
    let store = place.open();
    let whole = DurableStream::new("whole");
    let all = store.stream_all_durable(&whole, takes_all()).await.unwrap();
    in_time("all pages were read", all.caught_up()).await.unwrap();
    // Sequences 11 to 15 are one batch.
    let inside = Recorder::new();
    let name = DurableStream::new("inside").start(Start::After(12));
    let begun = store.stream_all_durable(&name, inside.handler()).await.unwrap();
    in_time("the rest was delivered", begun.caught_up())
        .await
        .unwrap();
    assert_eq!(inside.sequences(), (13..=store.head()).collect::<Vec<_>>());
    drop((begun, all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_and_streams_that_leave_cost_the_others_nothing() {
    let place = Place::new();
    let store = place.open_with(narrow());
    fill(&store, 0..BATCHES).await;
    store.close().await.unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reads);
    let store = place.open_with(with_faults(narrow(), move |point| {
        point == FaultPoint::BeforeRead && counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    }));
    let mut streams = attach(&store, Start::Beginning).await;
    // Two leave while they are being served, one stands still.
    let gone = [streams.remove(6), streams.remove(1)];
    for (_, _, stream) in gone {
        stream.unsubscribe();
    }
    let (slow, gate) = (Recorder::new(), Arc::new(Semaphore::new(3)));
    let name = DurableStream::new("slow");
    let standing = store.stream_all_durable(&name, slow.gated(&gate)).await.unwrap();
    for (query, recorder, stream) in &streams {
        in_time("the stream has caught up", stream.caught_up())
            .await
            .unwrap();
        assert_eq!(recorder.sequences(), expected(query, 0..BATCHES), "{query:?}");
    }
    gate.add_permits(BATCHES as usize);
    in_time("the slow one has caught up", standing.caught_up())
        .await
        .unwrap();
    assert_eq!(slow.sequences(), (1..=store.head()).collect::<Vec<_>>());
    assert!(reads.load(Ordering::Relaxed) > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_removed_by_hand_in_the_middle_of_a_replay_lose_nothing_else() {
    let place = Place::new();
    let store = place.open_with(narrow());
    fill(&store, 0..BATCHES).await;
    store.close().await.unwrap();
    let store = place.open_with(narrow());
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let mut streams = Vec::new();
    for number in 0..3 {
        let name = DurableStream::new(format!("s{number}"));
        streams.push(
            store
                .stream_all_durable(&name, recorder.gated(&gate))
                .await
                .unwrap(),
        );
    }
    gate.add_permits(90);
    recorder.batches(90).await;
    let removed = 700..=900u64;
    let file = place.by_hand();
    file.execute("DELETE FROM event WHERE sequence BETWEEN 700 AND 900", [])
        .unwrap();
    gate.add_permits(3 * BATCHES as usize);
    in_time("all are settled", store.settled()).await.unwrap();
    let mut times = vec![0; store.head() as usize + 1];
    for sequence in recorder.sequences() {
        times[sequence as usize] += 1;
    }
    for (sequence, times) in (0u64..).zip(times).skip(1) {
        let is_right = times == 3 || (removed.contains(&sequence) && times < 3);
        assert!(is_right, "event {sequence} came {times} times");
    }
}

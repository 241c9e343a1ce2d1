//! Events that cannot be brought up, and the streams that meet them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use millstream::{
    DeadLetterState, DurableStream, EventBatch, EventQuery, FailureCategory, FailurePolicy, HandleStream,
    NewEvent, Start, StopCause, Store,
};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{eventually, in_time};
use crate::{placed, seen, today, written};

/// The calls that a handler got, each as the sequences that it was given.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Vec<u64>>>>);

impl Calls {
    fn note(&self, batch: &EventBatch) {
        let sequences = batch.iter().map(|event| event.sequence()).collect();
        self.0.lock().unwrap().push(sequences);
    }

    fn handler(&self) -> HandleStream {
        let calls = self.clone();
        HandleStream::new(move |batch: EventBatch| {
            calls.note(&batch);
            async { Ok::<_, std::io::Error>(()) }
        })
    }

    fn all(&self) -> Vec<Vec<u64>> {
        self.0.lock().unwrap().clone()
    }
}

/// A log whose second batch, of the events 2 to 4, has one in its midst that panics an upcaster; behind it event 5.
async fn poisoned(folder: &TempDir) -> Store {
    let path = folder.path().join("log.db");
    let store = Store::open(&path).unwrap();
    store.append([placed(1)]).await.unwrap();
    store.append([placed(2), placed(13), placed(3)]).await.unwrap();
    store.append([NewEvent::new("other", 1)]).await.unwrap();
    store.close().await.unwrap();
    today().open(&path).unwrap()
}

fn orders() -> EventQuery {
    EventQuery::types(["order-received"])
}

async fn letters(store: &Store, name: &str) -> Vec<(u64, u64, DeadLetterState, Option<FailureCategory>)> {
    let letters: Vec<_> = store.dead_letters(name).list().try_collect().await.unwrap();
    let shape = letters.into_iter().map(|letter| {
        (
            letter.first_sequence,
            letter.last_sequence,
            letter.state,
            letter.category,
        )
    });
    shape.collect()
}

#[tokio::test]
async fn d5_a_stream_stops_before_what_cannot_be_decoded_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = poisoned(&folder).await;
    let (calls, others) = (Calls::default(), Calls::default());
    let ledger = DurableStream::new("ledger");
    let stream = store
        .stream_to_durable(&ledger, &orders(), calls.handler())
        .await
        .unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let told = cause.to_string();
    assert!(matches!(cause, StopCause::HandlerFailed { .. }), "{cause:?}");
    for part in [
        "event 3",
        "\"order-placed\"",
        "schema version 1",
        "panicked: unlucky",
    ] {
        assert!(told.contains(part), "{told:?} lacks {part:?}");
    }
    // No attempt would end in another way, so there is one.
    assert_eq!(calls.all(), [vec![1], vec![2]]);
    assert_eq!(stream.status().cursor, Some(1));
    let other = DurableStream::new("other");
    let query = EventQuery::types(["other"]);
    let stream = store
        .stream_to_durable(&other, &query, others.handler())
        .await
        .unwrap();
    in_time("the other one catches up", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(others.all(), [vec![5]]);
    assert_eq!(stream.status().position, 5);
}

#[tokio::test]
async fn d5_the_policy_of_its_category_sets_that_event_aside_alone() {
    for (policy, state) in [
        (FailurePolicy::park(), DeadLetterState::Parked),
        (FailurePolicy::skip(), DeadLetterState::Skipped),
        (
            FailurePolicy::park_key(|event| event.tags().next().map(str::to_owned)),
            DeadLetterState::Parked,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = poisoned(&folder).await;
        let calls = Calls::default();
        let ledger = DurableStream::new("ledger").on(FailureCategory::Undecodable, policy);
        let stream = store
            .stream_to_durable(&ledger, &orders(), calls.handler())
            .await
            .unwrap();
        in_time("it catches up", stream.caught_up()).await.unwrap();
        assert_eq!(calls.all(), [vec![1], vec![2], vec![4]]);
        let letter = (3, 3, state, Some(FailureCategory::Undecodable));
        assert_eq!(letters(&store, "ledger").await, [letter]);
    }
}

#[tokio::test]
async fn d5_groups_and_keys_meet_it_as_single_batches_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = poisoned(&folder).await;
    let parks = |name| DurableStream::new(name).on(FailureCategory::Undecodable, FailurePolicy::park());
    let calls = Calls::default();
    let noted = calls.clone();
    let group = HandleStream::group(8, Duration::ZERO, move |batches: Vec<EventBatch>| {
        batches.iter().for_each(|batch| noted.note(batch));
        async { Ok::<_, std::io::Error>(()) }
    });
    let stream = store
        .stream_to_durable(&parks("group"), &orders(), group)
        .await
        .unwrap();
    in_time("the group catches up", stream.caught_up()).await.unwrap();
    assert_eq!(calls.all().concat(), [1, 2, 4]);
    let by_order = parks("keyed").partition_by(4, |event| event.tags().next().map(str::to_owned));
    let calls = Calls::default();
    let stream = store
        .stream_to_durable(&by_order, &orders(), calls.handler())
        .await
        .unwrap();
    in_time("the keys catch up", stream.caught_up()).await.unwrap();
    let mut given = calls.all().concat();
    given.sort_unstable();
    assert_eq!(given, [1, 2, 4]);
    for name in ["group", "keyed"] {
        assert_eq!(letters(&store, name).await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn d5_what_was_parked_is_handled_by_a_program_that_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    written(
        &path,
        [NewEvent::new("order-placed", json!({"order": 1})).schema_version(2)],
    )
    .await;
    let ledger = DurableStream::new("ledger").on(FailureCategory::Undecodable, FailurePolicy::park());
    let behind = Store::builder()
        .newest_version("order-placed", 1)
        .open(&path)
        .unwrap();
    let stream = behind
        .stream_all_durable(&ledger, Calls::default().handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(letters(&behind, "ledger").await.len(), 1);
    behind.close().await.unwrap();
    let store = Store::builder()
        .newest_version("order-placed", 2)
        .open(&path)
        .unwrap();
    let calls = Calls::default();
    let _stream = store.stream_all_durable(&ledger, calls.handler()).await.unwrap();
    assert_eq!(store.dead_letters("ledger").retry_all().await.unwrap().handled, 1);
    assert_eq!(calls.all(), [vec![1]]);
    assert!(letters(&store, "ledger").await.is_empty());
}

#[tokio::test]
async fn s3_what_a_program_behind_appends_is_brought_up_live_and_a_panic_stops_no_append() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = today()
        .poll_interval(Duration::from_millis(5))
        .open(&path)
        .unwrap();
    let behind = Store::open(&path).unwrap();
    let (calls, live) = (Calls::default(), Calls::default());
    let parks = DurableStream::new("ledger")
        .start(Start::Now)
        .on(FailureCategory::Undecodable, FailurePolicy::park());
    let by_payload =
        millstream::EventFilter::types(["order-received"]).payload(json!({"total": {"cents": 1200}}));
    let stream = store
        .stream_to_durable(&parks, &by_payload.into(), calls.handler())
        .await
        .unwrap();
    let plain = store.stream_to(&orders(), live.handler()).await.unwrap();
    behind.append([placed(1)]).await.unwrap();
    behind.append([placed(13)]).await.unwrap();
    behind.append([placed(2)]).await.unwrap();
    let refused = store.append([placed(13)]).await.unwrap_err().to_string();
    assert!(refused.contains("panicked: unlucky"), "{refused}");
    store.append([placed(3)]).await.unwrap();
    eventually("all of it is seen", || store.head() == 4).await;
    stream.caught_up().await.unwrap();
    assert_eq!(calls.all(), [[1], [3], [4]]);
    assert_eq!(letters(&store, "ledger").await.len(), 1);
    // A stream without a policy does with it what it does with any failure.
    let cause = in_time("the live stream stops", plain.stopped()).await;
    assert!(cause.to_string().contains("event 2"), "{cause}");
    assert_eq!(live.all(), [[1]]);
    let shown = store.query(&EventQuery::tags(["order:3"])).await.unwrap();
    let open = json!({"order": 3, "total": {"cents": 1200}, "open": true});
    assert_eq!(seen(&shown.events[0]), (4, "order-received".into(), 3, open));
    // Nobody's file was changed by that.
    let stored = behind.query(&EventQuery::tags(["order:3"])).await.unwrap();
    assert_eq!(
        seen(&stored.events[0]),
        (4, "order-placed".into(), 1, json!({"order": 3, "total": 12}))
    );
}

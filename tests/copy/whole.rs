//! What a copy holds, and what goes on with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::{
    BoxError, DurableStream, EventBatch, EventQuery, NewEvent, Projection, Prune, ReadModels, Store,
};
use rusqlite::{Connection, Transaction};
use serde_json::json;

use crate::common::{Recorder, append, events, eventually, takes_all};
use crate::place::{Place, dump, payment, with_everything, with_streams};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_holds_whatever_the_source_holds() {
    let place = Place::new();
    let store = with_everything(&place).await;
    let copied = store.copy_to(place.target()).await.unwrap();
    assert_eq!((copied.head, copied.resumed_after), (store.head(), None));
    assert_eq!((copied.streams, &*copied.log_id), (4, store.log_id()));
    assert!(
        copied.dead_letters > 10 && copied.idempotency_keys > 20,
        "{copied:?}"
    );
    place.compare();
    let moved = Store::open(place.target()).unwrap();
    let verified = moved.verify().await.unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!(verified, store.verify().await.unwrap());
    // It goes on where the source stood.
    let again = moved
        .append_once("payment:59", payment(40 + 59 % 3))
        .await
        .unwrap();
    assert!(again.is_repetition);
    let next = append(&moved, "next", 1).await;
    assert_eq!(next.0, copied.head + 1, "no sequence is given again");
    let found = moved.query(&EventQuery::tags(["order:41"])).await.unwrap();
    assert!(!found.events.is_empty());
    let recorder = Recorder::new();
    let durable = DurableStream::new("newer");
    let stream = moved
        .stream_all_durable(&durable, recorder.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences().last(), Some(&next.1));
    assert!(
        recorder.sequences().len() < 5,
        "what was handled is not handled again"
    );
    let ledger = moved.stream("ledger").await.unwrap().status().await.unwrap();
    assert!(format!("{:?}", ledger.state).contains("anna"), "{ledger:?}");
    let older = moved
        .stream_all_durable(&DurableStream::new("older"), takes_all())
        .await;
    assert!(older.is_err(), "what was taken over does not come back");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_which_a_part_is_missing_is_copied_as_it_is() {
    let place = Place::new();
    let store = place.source();
    store.append_once("a", events("a", 4)).await.unwrap();
    append(&store, "b", 2).await;
    let file = Connection::open(place.path("source.db")).unwrap();
    file.execute("DELETE FROM event WHERE sequence IN (2, 4)", [])
        .unwrap();
    let copied = store.copy_to(place.target()).await.unwrap();
    assert_eq!((copied.events, copied.batches), (4, 2));
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    assert_eq!(source, target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_what_is_stored_and_not_what_upcasters_show() {
    let place = Place::new();
    let old = Store::open(place.path("source.db")).unwrap();
    old.append_once("a", [NewEvent::raw("old-name", "{\"a\":1}")])
        .await
        .unwrap();
    old.close().await.unwrap();
    let store = Store::builder()
        .rename_type("old-name", "new-name")
        .upcast("new-name", 1, |_: serde_json::Value| {
            Ok::<_, String>(json!("shown"))
        })
        .open(place.path("source.db"))
        .unwrap();
    store
        .append([NewEvent::raw("new-name", "{\"b\":2}")])
        .await
        .unwrap();
    let shown = store.query(&EventQuery::types(["new-name"])).await.unwrap();
    assert_eq!(shown.events[0].payload().as_str(), "\"shown\"");
    store.copy_to(place.target()).await.unwrap();
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    assert_eq!(source, target);
    // A log in memory has both.
    let in_memory = Store::builder()
        .upcast("a", 1, |_: serde_json::Value| Ok::<_, String>(json!("shown")))
        .in_memory()
        .unwrap();
    in_memory.append([NewEvent::raw("a", "7")]).await.unwrap();
    in_memory.copy_to(place.path("memory.db")).await.unwrap();
    let stored = Store::open(place.path("memory.db")).unwrap();
    let stored = stored.query(&EventQuery::all()).await.unwrap().events;
    assert_eq!(
        (stored[0].payload().as_str(), stored[0].schema_version()),
        ("7", 1)
    );
}

/// What a store tells of its events.
async fn told(store: &Store) -> Vec<String> {
    let events = store.query(&EventQuery::all()).await.unwrap().events;
    let told = events.iter().map(|event| {
        let tags: Vec<&str> = event.tags().collect();
        let metadata = event.metadata().map(|metadata| metadata.as_str().to_owned());
        let (kind, version) = (event.event_type(), event.schema_version());
        let (place, payload) = ((event.sequence(), event.recorded_at()), event.payload().as_str());
        format!("{place:?} {kind} {version} {tags:?} {payload} {metadata:?}")
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_memory_becomes_one_in_a_file() {
    let place = Place::new();
    let store = Store::in_memory().unwrap();
    for number in 0..20 {
        store
            .append_once(format!("payment:{number}"), payment(40 + number % 3))
            .await
            .unwrap();
    }
    with_streams(&store).await;
    let _ = store
        .prune(Prune::before(5).past_cursors().past_dead_letters())
        .await
        .unwrap();
    let copied = store.copy_to(place.target()).await.unwrap();
    assert_eq!(
        (copied.head, copied.pruned_through, copied.idempotency_keys),
        (40, 4, 18)
    );
    let moved = Store::open(place.target()).unwrap();
    assert_eq!(moved.log_id(), store.log_id());
    assert!(moved.verify().await.unwrap().is_sound());
    assert_eq!(told(&store).await, told(&moved).await);
    assert!(
        moved
            .append_once("payment:9", payment(40))
            .await
            .unwrap()
            .is_repetition
    );
    assert_eq!(moved.streams().await.unwrap().len(), 4);
    // An empty one, too.
    let copied = Store::in_memory()
        .unwrap()
        .copy_to(place.path("empty.db"))
        .await
        .unwrap();
    assert_eq!((copied.head, copied.events), (0, 0));
    assert!(
        Store::open(place.path("empty.db"))
            .unwrap()
            .verify()
            .await
            .unwrap()
            .is_sound()
    );
}

/// Counts events, and how often it was asked to.
#[derive(Clone)]
struct Counts(Arc<AtomicU64>);

impl Projection for Counts {
    fn name(&self) -> &str {
        "counts"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::all()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE counts (sequence INTEGER PRIMARY KEY)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            self.0.fetch_add(1, Ordering::SeqCst);
            tx.execute("INSERT INTO counts VALUES (?1)", [event.sequence() as i64])?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_follow_a_move() {
    let place = Place::new();
    let store = place.source();
    append(&store, "a", 7).await;
    let applied = Arc::new(AtomicU64::new(0));
    let models = ReadModels::open(place.path("views.db")).unwrap();
    let model = models
        .project(&store, Counts(Arc::clone(&applied)))
        .await
        .unwrap();
    model.caught_up().await.unwrap();
    store.close().await.unwrap();
    drop((model, models));
    let store = place.source();
    store.copy_to(place.target()).await.unwrap();
    store.close().await.unwrap();
    let moved = Store::open(place.target()).unwrap();
    let models = ReadModels::open(place.path("views.db")).unwrap();
    let model = models
        .project(&moved, Counts(Arc::clone(&applied)))
        .await
        .unwrap();
    append(&moved, "b", 2).await;
    model.caught_up().await.unwrap();
    eventually("all are applied", || applied.load(Ordering::SeqCst) == 9).await;
    moved.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_in_the_logs_own_file_is_built_anew_in_the_copy() {
    let place = Place::new();
    let store = place.source();
    append(&store, "a", 7).await;
    let counts = || Counts(Arc::default());
    let model = ReadModels::in_log(&store)
        .unwrap()
        .project(counts())
        .await
        .unwrap();
    model.caught_up().await.unwrap();
    store.copy_to(place.target()).await.unwrap();
    store.close().await.unwrap();
    let moved = Store::open(place.target()).unwrap();
    let model = ReadModels::in_log(&moved)
        .unwrap()
        .project(counts())
        .await
        .unwrap();
    append(&moved, "b", 2).await;
    model.caught_up().await.unwrap();
    let count =
        model.read(|rows| rows.query_row("SELECT count(*) FROM counts", [], |row| row.get::<_, i64>(0)));
    assert_eq!(count.await.unwrap(), 9);
    moved.close().await.unwrap();
}

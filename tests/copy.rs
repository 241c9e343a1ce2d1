//! A log is copied into another one, with everything that belongs to it. What both hold is compared in SQL.

#[path = "common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::executor::block_on;
use millstream::{
    BoxError, Copied, CopyError, CopyPhase, Durability, DurableStream, EventBatch, EventQuery, FailurePolicy,
    HandleStream, HandlerError, NewEvent, OpenError, Projection, Prune, ReadModels, Retry, RetryLetters,
    Start, Store,
};
use rusqlite::types::Value;
use rusqlite::{Connection, Transaction};
use serde_json::json;
use tempfile::TempDir;

use common::{Recorder, append, events, eventually, takes_all};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A log in a file, which need not survive a power cut.
    fn source(&self) -> Store {
        let builder = Store::builder().durability(Durability::Relaxed);
        builder.open(self.path("source.db")).unwrap()
    }

    fn target(&self) -> PathBuf {
        self.path("target.db")
    }

    /// What both files hold has to be the same.
    fn compare(&self) {
        let [source, target] = [self.path("source.db"), self.target()].map(|path| dump(&path));
        for (of_source, of_target) in source.iter().zip(&target) {
            assert_eq!(of_source, of_target);
        }
        assert!(source.iter().all(|rows| !rows.is_empty()), "{source:?}");
    }
}

/// Everything that a copy takes over, in the words of SQL.
fn dump(path: &Path) -> [Vec<Vec<Value>>; 6] {
    let log = Connection::open(path).unwrap();
    let rows = |sql: &str| -> Vec<Vec<Value>> {
        let mut statement = log.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect());
        rows.unwrap().map(Result::unwrap).collect()
    };
    [
        "SELECT sequence, batch_index, batch_size, recorded_at, name, schema_version, tags, payload, metadata
         FROM event JOIN event_type ON id = type ORDER BY sequence",
        "SELECT name, position, query, log_id, epoch, owner, steering, paused_by, paused_at, updated_at, retry
         FROM cursor ORDER BY name",
        "SELECT * FROM dead_letter ORDER BY stream, first_sequence",
        "SELECT * FROM idempotency_key ORDER BY first_sequence",
        "SELECT log_id, removed_through, pruned_through, pruned_recorded_at, epoch, copy_of FROM log",
        "SELECT path FROM index_path",
    ]
    .map(rows)
}

fn payment(number: u64) -> [NewEvent; 2] {
    let paid = NewEvent::new("order-paid", json!({"order": number, "note": "grüße \"x\"\n"}));
    [
        paid.tags([format!("order:{number}"), String::from("ä \"b\" \\")])
            .correlation_id("c-1"),
        NewEvent::raw("spaced", "{ \"n\" : 1.0 }").schema_version(3),
    ]
}

/// A durable stream that sets events aside by key, so that some are parked, some queue, and one was retried.
async fn with_letters(store: &Store) {
    let by_tag = FailurePolicy::park_key(|event| event.tags().next().map(str::to_owned));
    let durable = DurableStream::new("mailer").on_failure(by_tag);
    let handle = HandleStream::new(|batch: EventBatch| async move {
        match batch.iter().find(|event| event.has_tag("order:40")) {
            Some(event) => Err(HandlerError::at(event.sequence(), "no such address")),
            None => Ok(()),
        }
    });
    let query = EventQuery::types(["order-paid"]);
    let stream = store
        .stream_to_durable(&durable, &query, handle.retry(Retry::never()))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let control = store.stream("mailer").await.unwrap();
    let asked = control.ask_for_retry(RetryLetters::All, "anna", Duration::from_secs(60));
    assert_eq!(asked.await.unwrap().ended().await.unwrap().failed, 1);
    stream.unsubscribe();
    stream.stopped().await;
}

/// Streams of every kind: at rest, paused, taken over, with letters.
async fn with_streams(store: &Store) {
    with_letters(store).await;
    for name in ["ledger", "older"] {
        let stream = store
            .stream_all_durable(&DurableStream::new(name), takes_all())
            .await;
        let stream = stream.unwrap();
        stream.caught_up().await.unwrap();
        stream.unsubscribe();
        stream.stopped().await;
    }
    store.stream("ledger").await.unwrap().pause("anna").await.unwrap();
    let newer = DurableStream::new("newer").start(Start::AfterStream("older".into()));
    let newer = store.stream_all_durable(&newer, takes_all()).await.unwrap();
    newer.unsubscribe();
    newer.stopped().await;
}

/// A log with whatever a log can have: pruned at its beginning, with batches that were removed by hand inside it and at its end.
async fn with_everything(place: &Place) -> Store {
    let builder = Store::builder()
        .durability(Durability::Relaxed)
        .index_payload("/order");
    let store = builder.open(place.path("source.db")).unwrap();
    for number in 0..60 {
        store
            .append_once(format!("payment:{number}"), payment(40 + number % 3))
            .await
            .unwrap();
        append(&store, "counted", 1 + number as usize % 4).await;
    }
    with_streams(&store).await;
    let pruned = store
        .prune(Prune::before(100).past_cursors().past_dead_letters())
        .await;
    assert!(pruned.unwrap().pruned_through > 90);
    append(&store, "last", 3).await;
    let head = store.head();
    let file = Connection::open(place.path("source.db")).unwrap();
    let removed = file.execute(
        "DELETE FROM event WHERE sequence - batch_index IN
             (SELECT sequence FROM event WHERE sequence > 150 AND batch_index = 0 ORDER BY sequence LIMIT 2)
         OR sequence > ?1",
        [head as i64 - 3],
    );
    assert!(removed.unwrap() > 4);
    store
}

async fn refused_as_partial(path: &Path) {
    match Store::open(path) {
        Err(OpenError::PartialCopy { path: named, log_id }) => {
            assert_eq!((named.as_path(), log_id.len()), (path, 32));
        }
        other => panic!("{other:?}"),
    }
}

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

/// Copies until so many pages are there, and drops the copy then.
async fn cut_off(store: &Store, target: &Path, pages: u64) {
    let (reached, on) = (tokio::sync::oneshot::channel(), mpsc::channel::<()>());
    let (mut tell, mut seen) = (Some(reached.0), 0);
    let (go, wait) = on;
    {
        let copy = store.copy_with_progress(target, move |_| {
            seen += 1;
            if seen == pages {
                drop(tell.take().map(|tell| tell.send(())));
                drop(wait.recv());
            }
        });
        tokio::select! {
            outcome = copy => panic!("it ended: {outcome:?}"),
            at = reached.1 => at.unwrap(),
        }
    }
    // The copy is dropped, and hears of it when it goes on.
    drop(go);
}

/// A log of so many batches, which is many pages.
async fn long(place: &Place, batches: usize) -> Store {
    let store = place.source();
    let appends = (0..batches).map(|number| {
        let store = &store;
        async move {
            store
                .append_once(format!("k:{number}"), events("counted", 1 + number % 3))
                .await
                .unwrap()
        }
    });
    futures::future::join_all(appends).await;
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_cut_off_is_no_log_and_goes_on_where_it_was() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    let mut after = 0;
    // While events go over, and while both sides are compared.
    for pages in [1, 1, 3] {
        cut_off(&store, &place.target(), pages).await;
        refused_as_partial(&place.target()).await;
        let file = Connection::open(place.target()).unwrap();
        let head: i64 = file
            .query_row("SELECT max(sequence) FROM event", [], |row| row.get(0))
            .unwrap();
        assert!(head > after, "{head} after {after}");
        after = head;
    }
    append(&store, "later", 2).await;
    let copied = store.copy_to(place.target()).await.unwrap();
    assert_eq!(
        (copied.head, copied.resumed_after),
        (store.head(), Some(after as u64))
    );
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    assert_eq!(source, target);
    let at_once = store.copy_to(place.path("at-once.db")).await.unwrap();
    assert_eq!(at_once.checksum, copied.checksum);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_is_copied_as_it_was_at_one_moment() {
    let place = Place::new();
    let store = long(&place, 2_000).await;
    let recorder = Recorder::new();
    let stream = store
        .stream_all_durable(&DurableStream::new("busy"), recorder.handler())
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                append(&store, "meanwhile", 2).await;
            }
        }
    });
    let before = store.head();
    let copied = store.copy_to(place.target()).await.unwrap();
    is_over.store(true, Ordering::SeqCst);
    appending.await.unwrap();
    assert!(copied.head >= before && copied.head < store.head(), "{copied:?}");
    stream.unsubscribe();
    stream.stopped().await;
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    let events = target[0].len();
    assert_eq!(source[0][..events], target[0]);
    assert_eq!(copied.events, events as u64);
    let moved = Store::open(place.target()).unwrap();
    assert!(moved.verify().await.unwrap().is_sound());
    let status = moved.stream("busy").await.unwrap().status().await.unwrap();
    assert!(status.cursor <= Some(copied.head), "{status:?}");
    // Nobody runs it here.
    let control = moved.stream("busy").await.unwrap();
    let asked = control
        .ask_for_retry(RetryLetters::All, "anna", Duration::from_secs(60))
        .await;
    assert!(asked.is_err(), "nobody runs the stream of a copy");
}

/// Copies, and does something with the source when so many pages are there.
async fn copy_and_at_page(
    store: &Store,
    target: &Path,
    page: u64,
    does: impl Fn(&Store) + Send + 'static,
) -> (Result<Copied, CopyError>, u64) {
    let seen = Arc::new(AtomicU64::new(0));
    let (told, source) = (Arc::clone(&seen), store.clone());
    let copied = store.copy_with_progress(target, move |progress| {
        assert!(progress.done_sequences <= progress.total_sequences);
        if told.fetch_add(1, Ordering::SeqCst) + 1 == page {
            does(&source);
        }
    });
    (copied.await, seen.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_meanwhile_is_pruned_in_the_copy() {
    // Pages 1 to 3 are copied, then both sides are compared.
    for (page, before) in [(1, 500), (1, 5_500), (3, 2_500), (4, 2_500)] {
        let place = Place::new();
        let store = long(&place, 3_000).await;
        let (copied, pages) = copy_and_at_page(&store, &place.target(), page, move |store| {
            let pruned = block_on(store.prune(Prune::before(before).past_cursors())).unwrap();
            assert!(pruned.pruned_through > before - 5);
            // Its key is free again, and used for something else.
            let again = store.append_once_blocking("k:0", events("again", 2)).unwrap();
            assert!(!again.is_repetition);
        })
        .await;
        let copied = copied.unwrap();
        assert!(pages > page, "{pages}");
        let moved = Store::open(place.target()).unwrap();
        let verified = moved.verify().await.unwrap();
        assert!(verified.is_sound(), "{page} {before}: {verified:?}");
        let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
        if page <= 3 {
            assert_eq!(source, target, "{page} {before}");
            continue;
        }
        let is_copied =
            |row: &[Value]| matches!(row[0], Value::Integer(sequence) if sequence as u64 <= copied.head);
        // It came too late for the copy, which is the log as it was before.
        let of_source: Vec<_> = source[0].iter().filter(|row| is_copied(row)).collect();
        let of_target = target[0]
            .iter()
            .skip(target[0].len() - of_source.len())
            .collect::<Vec<_>>();
        assert_eq!(of_source, of_target);
        assert_eq!(
            (copied.pruned_through, copied.events),
            (0, target[0].len() as u64)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_is_at_the_target_is_refused_and_left_untouched() {
    let place = Place::new();
    let store = place.source();
    append(&store, "a", 5).await;
    let other = Store::open(place.path("other.db")).unwrap();
    append(&other, "b", 1).await;
    other.close().await.unwrap();
    std::fs::write(place.path("text.db"), "x".repeat(5_000)).unwrap();
    let foreign = Connection::open(place.path("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE other (a)").unwrap();
    drop(foreign);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::copy(fixtures.join("format-5.sqlite"), place.path("older.db")).unwrap();
    let copied = store.copy_to(place.path("copied.db")).await.unwrap();
    for (name, expected) in [
        ("other.db", "choose another target"),
        ("older.db", "choose another target"),
        ("copied.db", "a copy of it that is whole"),
        ("text.db", "not an SQLite database"),
        ("foreign.db", "another SQLite database"),
    ] {
        let before = std::fs::read(place.path(name)).unwrap();
        let refused = store.copy_to(place.path(name)).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{name}: {refused}");
        assert_eq!(std::fs::read(place.path(name)).unwrap(), before, "{name}");
    }
    match store.copy_to(place.path("source.db")).await {
        Err(CopyError::TargetIsALog {
            log_id, is_of_source, ..
        }) => {
            assert_eq!((log_id, is_of_source), (copied.log_id, true));
        }
        other => panic!("{other:?}"),
    }
    let missing = store.copy_to(place.path("no/such/folder.db")).await;
    assert!(matches!(missing, Err(CopyError::Open(_))), "{missing:?}");
    let server = store.copy_to("postgres://anna:secret@host/shop").await;
    match server {
        Err(CopyError::Open(OpenError::NotBuiltIn { location, feature })) => {
            assert_eq!((&*location, feature), ("postgres://anna@host/shop", "postgres"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_only_for_its_own_source() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    cut_off(&store, &place.target(), 1).await;
    let other = Store::in_memory().unwrap();
    append(&other, "a", 1).await;
    match other.copy_to(place.target()).await {
        Err(CopyError::TargetIsOfAnother { found, source_id, .. }) => {
            assert_eq!((&*found, &*source_id), (store.log_id(), other.log_id()));
        }
        other => panic!("{other:?}"),
    }
    store.copy_to(place.target()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_what_the_source_is_does_not_become_a_log() {
    for damage in [
        "DELETE FROM event WHERE sequence = 7",
        "DROP TRIGGER event_is_immutable; UPDATE event SET payload = '9' WHERE sequence = 7",
        "DROP TRIGGER event_is_immutable; UPDATE event SET recorded_at = recorded_at - 1 WHERE sequence = 1",
        "DELETE FROM idempotency_key WHERE first_sequence = 1",
        "UPDATE idempotency_key SET key = 'x' WHERE first_sequence = 1",
    ] {
        let place = Place::new();
        let store = long(&place, 1_200).await;
        cut_off(&store, &place.target(), 1).await;
        Connection::open(place.target())
            .unwrap()
            .execute_batch(damage)
            .unwrap();
        for _ in 0..2 {
            let refused = store.copy_to(place.target()).await;
            assert!(
                matches!(refused, Err(CopyError::Differs { .. })),
                "{damage}: {refused:?}"
            );
            refused_as_partial(&place.target()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_copies_to_one_target_one_goes_on() {
    let place = Place::new();
    let store = long(&place, 6_000).await;
    let both =
        futures::future::join_all([store.copy_to(place.target()), store.copy_to(place.target())]).await;
    let (whole, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    assert_eq!(whole.len(), 1, "{refused:?}");
    let is_told = matches!(
        refused[0],
        Err(CopyError::TargetInUse { .. } | CopyError::TargetIsALog { .. })
    );
    assert!(is_told, "{refused:?}");
    assert!(
        Store::open(place.target())
            .unwrap()
            .verify()
            .await
            .unwrap()
            .is_sound()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_ends_with_both_sides_compared() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    let (tell, told) = mpsc::channel();
    store
        .copy_with_progress(place.target(), move |progress| drop(tell.send(progress)))
        .await
        .unwrap();
    let told: Vec<_> = told.iter().collect();
    let compared = told.partition_point(|progress| progress.phase == CopyPhase::Copying);
    let done = |range: &[millstream::CopyProgress]| -> Vec<u64> {
        range.iter().map(|progress| progress.done_sequences).collect()
    };
    for phase in [&told[..compared], &told[compared..]] {
        assert!(phase.len() > 2 && done(phase).is_sorted(), "{phase:?}");
        let last = phase.last().unwrap();
        assert_eq!(last.done_sequences, last.total_sequences);
    }
    assert!(
        told[compared..]
            .iter()
            .all(|progress| progress.phase == CopyPhase::Verifying)
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

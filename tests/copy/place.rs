//! Logs to be copied, and what is in their files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::{
    Durability, DurableStream, EventBatch, EventQuery, FailurePolicy, HandleStream, HandlerError, NewEvent,
    Prune, Retry, RetryLetters, Start, Store,
};
use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::common::{append, events, takes_all};

pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A log in a file, which need not survive a power cut.
    pub(crate) fn source(&self) -> Store {
        let builder = Store::builder().durability(Durability::Relaxed);
        builder.open(self.path("source.db")).unwrap()
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("target.db")
    }

    /// What both files hold has to be the same.
    pub(crate) fn compare(&self) {
        let [source, target] = [self.path("source.db"), self.target()].map(|path| dump(&path));
        for (of_source, of_target) in source.iter().zip(&target) {
            assert_eq!(of_source, of_target);
        }
        assert!(source.iter().all(|rows| !rows.is_empty()), "{source:?}");
    }
}

/// Everything that a copy takes over, in the words of SQL.
pub(crate) fn dump(path: &Path) -> [Vec<Vec<Value>>; 6] {
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

pub(crate) fn payment(number: u64) -> [NewEvent; 2] {
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
pub(crate) async fn with_streams(store: &Store) {
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
pub(crate) async fn with_everything(place: &Place) -> Store {
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

/// A log of so many batches, which is many pages.
pub(crate) async fn long(place: &Place, batches: usize) -> Store {
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

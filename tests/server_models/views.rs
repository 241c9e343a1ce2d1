//! Views on the server: documents by key, kept exactly once, and found as those of files are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use millstream::internals::DocumentTable;
use millstream::{
    BoxError, Condition, EventQuery, FailurePolicy, NewEvent, Retry, ServerDocuments, ServerModelOptions,
    Store, View, ViewError, ViewQuery,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::common::{eventually, in_time};
use crate::fixture::{Place, models};
use crate::naive;

/// An id, and the document that is to be there, if any.
type Put = (String, Vec<Value>);

/// Each event puts a document, or removes it.
fn documents(name: &str, indexes: &[String]) -> View<Value> {
    let view = View::<Value>::new(name, 1)
        .try_key(|event| event.payload().decode::<Put>().map(|(id, _)| Some(id)))
        .try_evolve(|_, event| {
            event
                .payload()
                .decode::<Put>()
                .map(|(_, put)| put.into_iter().next())
        });
    indexes.iter().fold(view, |view, path| view.index(path))
}

fn put(id: &str, document: &Value) -> NewEvent {
    NewEvent::new("put", json!([id, [document]]))
}

async fn all(documents: &ServerDocuments<Value>, query: ViewQuery) -> Result<Vec<String>, ViewError> {
    let (mut found, mut query) = (Vec::new(), query);
    loop {
        let page = documents.query(&query).await?;
        found.extend(page.documents.into_iter().map(|(id, _)| id));
        let Some(next) = page.next else { return Ok(found) };
        query = query.after(next.to_string().parse::<millstream::PageToken>()?);
    }
}

/// The server, a file and a plain walk find the same, in the same order.
async fn check(store: &Store, bytes: &[u8]) {
    let (stored, mut indexes, asked) = naive::case(bytes);
    indexes.sort();
    indexes.dedup();
    let table = DocumentTable::new(&stored, &indexes).expect("the paths are paths");
    let (models, name) = (models(store), format!("case {}", store.head()));
    if !stored.is_empty() {
        let puts = stored.iter().map(|(id, document)| put(id, document));
        store.append(puts).await.unwrap();
    }
    let documents = models.view(documents(&name, &indexes)).await.unwrap();
    in_time("it is at the head", documents.caught_up()).await.unwrap();
    let listed: BTreeMap<String, Value> = documents.list("").try_collect().await.unwrap();
    assert_eq!(listed, stored);
    for asked in &asked {
        let query = asked.query();
        let found = all(&documents, query.clone()).await;
        if !asked.is_valid() {
            assert!(
                matches!(found, Err(ViewError::InvalidCondition { .. })),
                "{asked:?}: {found:?}"
            );
            continue;
        }
        let (mut found, mut expected) = (found.unwrap(), asked.find(&stored));
        if asked.sorts_structures(&stored) {
            // The server's text of an array or an object is another one.
            found.sort();
            expected.sort();
        }
        assert_eq!(found, expected, "{asked:?} of {stored:?}");
        let counts = (
            documents.count(&query).await.unwrap(),
            table.count(&query).unwrap(),
        );
        assert_eq!(
            counts,
            (expected.len() as u64, expected.len() as u64),
            "{asked:?}"
        );
    }
    // The next case finds nothing.
    models.remove(&name, 1).await.unwrap();
    if !stored.is_empty() {
        let removed = stored.keys().map(|id| NewEvent::new("put", json!([id, []])));
        store.append(removed).await.unwrap();
    }
}

#[test]
fn what_the_server_finds_is_what_a_file_finds_and_what_the_words_say() {
    let Some(place) = Place::new() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(place.store());
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(60, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    let outcome = TestRunner::new(config).run(&bytes, |bytes| {
        runtime.block_on(check(&store, &bytes));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(store.close()).unwrap();
}

/// Counts its events, by tag, with a bounded cache and a failure on demand.
fn counts(fails_at: &Arc<AtomicU64>, failures: &Arc<AtomicU64>) -> View<u64> {
    let (fails_at, failures) = (Arc::clone(fails_at), Arc::clone(failures));
    View::<u64>::new("counts", 1)
        .cache_documents_max(3)
        .key(|event| event.tags().next().map(str::to_owned))
        .try_evolve(move |count, event| {
            if event.sequence() == fails_at.load(Ordering::SeqCst) {
                failures.fetch_add(1, Ordering::SeqCst);
                return Err(BoxError::from("told to fail"));
            }
            let count: Option<u64> = count;
            Ok(match event.event_type() {
                "removed" => None,
                _ => Some(count.unwrap_or(0) + 1),
            })
        })
}

async fn folded(store: &Store) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut reader = store.read(&EventQuery::all());
    while let Some(batch) = reader.try_next().await.unwrap() {
        for event in &batch {
            let id = event.tags().next().unwrap().to_owned();
            match event.event_type() {
                "removed" => drop(counts.remove(&id)),
                _ => *counts.entry(id).or_insert(0) += 1,
            }
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_documents_are_a_fold_over_the_log_whatever_the_cache_forgets_and_whatever_fails() {
    let Some(place) = Place::new() else { return };
    let (fails_at, failures) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let options = ServerModelOptions::default()
        .retry(Retry::default().attempts_max(3))
        .on_failure(FailurePolicy::stop());
    let mut store = place.store().await;
    for round in 0..4_u64 {
        let documents = models(&store)
            .view_with(counts(&fails_at, &failures), &options)
            .await
            .unwrap();
        for batch in 0..10_u64 {
            let events = (0..8_u64).map(|number| {
                let id = format!("{}", (number * 7 + batch * 3 + round) % 6);
                let name = if (number + batch).is_multiple_of(9) {
                    "removed"
                } else {
                    "counted"
                };
                NewEvent::new(name, ()).tag(id)
            });
            let appended = store.append(events).await.unwrap();
            if batch == 5 {
                // Fails in the middle of the next batch, and once more.
                fails_at.store(appended.last_sequence + 5, Ordering::SeqCst);
            }
            if batch == 6 {
                let before = failures.load(Ordering::SeqCst);
                eventually("it has failed", || failures.load(Ordering::SeqCst) > before).await;
                fails_at.store(0, Ordering::SeqCst);
            }
        }
        in_time("it is at the head", documents.caught_up()).await.unwrap();
        let listed: BTreeMap<String, u64> = documents.list("").try_collect().await.unwrap();
        assert_eq!(listed, folded(&store).await);
        store.close().await.unwrap();
        store = place.store().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_got_listed_and_found_by_an_index_whatever_their_size() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let view = documents("documents", &["/owner".to_owned()]);
    let documents = models(&store).view(view).await.unwrap();
    let long = "x".repeat(20_000);
    let id = format!("{}\u{10ffff}", "i".repeat(1_020));
    for (id, owner) in [
        ("a:1", "anna"),
        ("a:2", "ben"),
        ("b:1", &*long),
        (&*id, &*format!("{long}y")),
    ] {
        store.append([put(id, &json!({ "owner": owner }))]).await.unwrap();
    }
    in_time("it is at the head", documents.caught_up()).await.unwrap();
    assert_eq!(documents.get("a:1").await.unwrap().unwrap()["owner"], "anna");
    assert_eq!(documents.get("a:3").await.unwrap(), None);
    let listed: Vec<(String, Value)> = documents.list("a:").try_collect().await.unwrap();
    assert_eq!(listed.len(), 2);
    let many = documents.get_many(["a:1", "b:1", "c"]).await.unwrap();
    assert_eq!(many.keys().collect::<Vec<_>>(), ["a:1", "b:1"]);
    let found = async |condition| all(&documents, ViewQuery::filter(condition)).await.unwrap();
    assert_eq!(found(Condition::equals("/owner", &*long)).await, ["b:1"]);
    assert_eq!(found(Condition::greater("/owner", &*long)).await, [id.as_str()]);
    assert_eq!(found(Condition::starts_with("/owner", "an")).await, ["a:1"]);
    // The plan of a condition searches the index, when the server may not walk through the table.
    let plan = documents
        .read(async |tx| {
            tx.batch_execute("SET LOCAL enable_seqscan = off").await?;
            let rows = tx
                .query(
                    "EXPLAIN SELECT id FROM document WHERE
                     CASE jsonb_typeof((body -> 'owner')) WHEN 'null' THEN 1 WHEN 'boolean' THEN 2 WHEN 'number' THEN 3 WHEN 'string' THEN 4
                     WHEN 'array' THEN 5 WHEN 'object' THEN 5 ELSE 0 END = 4",
                    &[],
                )
                .await?;
            Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("; "))
        })
        .await
        .unwrap();
    assert!(
        plan.contains("document_1") && plan.contains("Index Cond"),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_refused_with_what_is_wrong() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let wrong = models(&store)
        .view(documents("documents", &["owner".to_owned()]))
        .await;
    assert!(wrong.unwrap_err().to_string().contains("JSON pointer"));
    let twice = ["/a".to_owned(), "/a".to_owned()];
    let twice = models(&store).view(documents("documents", &twice)).await;
    assert!(twice.unwrap_err().to_string().contains("indexed twice"));
    let documents = models(&store).view(documents("documents", &[])).await.unwrap();
    for path in ["owner", "/a~", &"/long".repeat(100), "/a\0"] {
        let error = documents
            .query(&ViewQuery::all().sort_by(path))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, ViewError::InvalidPath { path: named, .. } if named == path),
            "{error}"
        );
    }
    let error = documents.query(&ViewQuery::all().limit(0)).await.unwrap_err();
    assert!(
        matches!(error, ViewError::InvalidLimit { value: 0, .. }),
        "{error}"
    );
}

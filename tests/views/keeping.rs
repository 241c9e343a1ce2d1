//! R1 for views: documents follow the log exactly once, whatever fails in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream::{
    BoxError, Documents, FailureCategory, FailurePolicy, ModelOptions, NewEvent, ReadModelError, Retry,
    StopCause, View,
};
use serde_json::json;

use crate::common::{eventually, in_time};
use crate::fixture::{Account, Place, Sabotage, accounts, closed, expected, listed, moved, opened};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_view_holds_what_a_fold_over_the_log_gives() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let view = accounts(1, &Arc::default());
    let documents = models.view(&store, view.clone()).await.unwrap();
    for round in 0..20 {
        let id = format!("account:{}", round % 3);
        let events = match round % 7 {
            5 => vec![moved(&id, 5), closed(&id)],
            6 => vec![
                closed("account:0"),
                opened("account:0", "ben"),
                moved("account:0", 1),
            ],
            _ => vec![moved(&id, round), moved("account:0", 1)],
        };
        let appended = store.append(events).await.unwrap();
        in_time("the write is read", documents.wait_for(appended))
            .await
            .unwrap();
        assert_eq!(listed(&documents).await, expected(&store).await);
    }
    let events = store.query(&millstream::EventQuery::all()).await.unwrap().events;
    assert_eq!(view.fold_records(&events).unwrap(), expected(&store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_a_failed_attempt_made_of_documents_is_not_applied_twice() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let sabotage = Arc::new(Sabotage::default());
    // What is in the cache when the attempt begins counts too.
    store.append([moved("a", 1), moved("b", 1)]).await.unwrap();
    let documents = models.view(&store, accounts(1, &sabotage)).await.unwrap();
    documents.caught_up().await.unwrap();
    sabotage.fails_at.store(5, Ordering::SeqCst);
    let appended = store
        .append([moved("a", 10), moved("b", 10), moved("a", 100)])
        .await
        .unwrap();
    eventually("it has failed twice", || {
        sabotage.failures.load(Ordering::SeqCst) > 1
    })
    .await;
    sabotage.fails_at.store(0, Ordering::SeqCst);
    in_time("it recovers", documents.wait_for(appended))
        .await
        .unwrap();
    assert_eq!(listed(&documents).await, expected(&store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_commit_that_fails_leaves_nothing_in_the_cache() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let options = ModelOptions::default().retry(Retry::never());
    let documents = models
        .view_on_demand_with(&store, accounts(1, &Arc::default()), &options)
        .await
        .unwrap();
    store.append([moved("a", 1)]).await.unwrap();
    documents.catch_up().await.unwrap();
    // The position cannot be moved, which is the last thing in the transaction.
    let build = rusqlite::Connection::open(place.build()).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE OF position ON millstream_build
         BEGIN SELECT raise(ABORT, 'told to fail'); END";
    build.execute_batch(refuse).unwrap();
    store.append([moved("a", 10)]).await.unwrap();
    documents.catch_up().await.unwrap_err();
    build.execute_batch("DROP TRIGGER refuse").unwrap();
    documents.catch_up().await.unwrap();
    assert_eq!(documents.get("a").await.unwrap().unwrap().cents, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_cache_smaller_than_a_transaction_loses_nothing() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    for round in 0..30_i64 {
        let ids = (0..9).map(|number| format!("account:{}", (round * 7 + number * number) % 11));
        store
            .append(ids.map(|id| match id.as_str() {
                "account:4" if round % 5 == 0 => closed(&id),
                _ => moved(&id, round),
            }))
            .await
            .unwrap();
    }
    let small = |view: View<Account>, documents_max, bytes_max| {
        view.cache_documents_max(documents_max).cache_bytes_max(bytes_max)
    };
    for (version, view) in [
        (1, (1, 1_000_000)),
        (2, (3, 1_000_000)),
        (3, (100, 0)),
        (4, (100, 150)),
    ] {
        let view = small(accounts(version, &Arc::default()), view.0, view.1);
        let documents = models.view_on_demand(&store, view).await.unwrap();
        documents.catch_up().await.unwrap();
        assert_eq!(listed(&documents).await, expected(&store).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_it_goes_on_after_a_restart_from_what_is_stored() {
    let place = Place::new();
    for round in 0..3 {
        let (store, models) = (place.store(), place.models());
        let documents = models.view(&store, accounts(1, &Arc::default())).await.unwrap();
        let appended = store.append([moved("a", round), moved("a", 1)]).await.unwrap();
        in_time("it is applied", documents.wait_for(appended))
            .await
            .unwrap();
        assert_eq!(listed(&documents).await, expected(&store).await);
        store.close().await.unwrap();
    }
    let stored = rusqlite::Connection::open(place.build()).unwrap();
    let json: String = stored
        .query_row("SELECT json FROM document WHERE id = 'a'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(
        json, r#"{"owner":"","cents":6,"moves":6}"#,
        "readable with sqlite3"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_an_undecodable_event_is_one_for_the_failure_policy_too() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let documents = models
        .view_with(
            &store,
            accounts(1, &Arc::default()),
            &ModelOptions::default().retry(Retry::never()),
        )
        .await
        .unwrap();
    let wrong = NewEvent::new("moved", json!({ "cents": "much" })).tag("a");
    store.append([moved("b", 1), wrong]).await.unwrap();
    let cause = in_time("it stops", documents.stopped()).await.unwrap();
    let StopCause::HandlerFailed { category, error, .. } = cause else {
        panic!("{cause}");
    };
    assert_eq!(category, FailureCategory::Undecodable);
    assert!(
        error.contains("\"account\"") && error.contains("event 2"),
        "{error}"
    );
    drop(documents);
    let options = ModelOptions::default()
        .retry(Retry::never())
        .on(FailureCategory::Undecodable, FailurePolicy::park());
    let documents = models
        .view_with(&store, accounts(1, &Arc::default()), &options)
        .await
        .unwrap();
    let appended = store.append([moved("a", 5)]).await.unwrap();
    in_time("it goes on", documents.wait_for(appended)).await.unwrap();
    assert_eq!(documents.get("a").await.unwrap().unwrap().cents, 5);
    assert_eq!(
        documents.get("b").await.unwrap(),
        None,
        "the batch is parked as a whole"
    );
}

#[tokio::test]
async fn an_event_of_several_documents_changes_each_of_them_once() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let view = View::<i64>::new("balance", 1)
        .try_keys(|event| {
            let (from, to, _) = event.payload().decode::<(String, String, i64)>()?;
            Ok::<_, BoxError>(vec![from, to])
        })
        .try_evolve(|id, balance, event| {
            let (from, _, cents) = event.payload().decode::<(String, String, i64)>()?;
            let cents = if id == from { -cents } else { cents };
            Ok::<_, BoxError>(Some(balance.unwrap_or(0) + cents))
        });
    let transfers = [("anna", "ben", 5), ("ben", "chloe", 2), ("chloe", "chloe", 1)];
    let events = || transfers.map(|transfer| NewEvent::new("transferred", transfer));
    let folded = view.fold(events()).unwrap();
    let documents: Documents<i64> = models.view_on_demand(&store, view).await.unwrap();
    store.append(events()).await.unwrap();
    documents.catch_up().await.unwrap();
    let balances = documents.get_many(["anna", "ben", "chloe"]).await.unwrap();
    assert_eq!(balances, folded);
    let balances: Vec<i64> = balances.into_values().collect();
    assert_eq!(balances, [-5, 3, 1], "one that is named twice evolves once");
}

#[tokio::test]
async fn an_id_that_is_refused_fails_the_event_and_says_why() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let view = View::<u64>::new("count", 1)
        .try_key(|event| event.payload().decode().map(Some))
        .evolve(|count, _| Some(count.unwrap_or(0) + 1));
    let options = ModelOptions::default().retry(Retry::never());
    let documents = models.view_on_demand_with(&store, view, &options).await.unwrap();
    store
        .append([NewEvent::new("set", "x".repeat(1_024))])
        .await
        .unwrap();
    documents.catch_up().await.unwrap();
    store
        .append([NewEvent::new("set", "x".repeat(1_025))])
        .await
        .unwrap();
    let failed = documents.catch_up().await.unwrap_err();
    let ReadModelError::Apply { error, .. } = failed else {
        panic!("{failed}");
    };
    assert!(
        error.contains("event 2") && error.contains("1025 bytes"),
        "{error}"
    );
}

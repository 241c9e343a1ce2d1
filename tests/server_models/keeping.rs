//! R1 and R2 where nothing goes wrong: rows are a fold over the log, over restarts, beside other versions, and for whoever reads.

use std::sync::Arc;

use millstream::{DurableStream, EventQuery, ReadModelError, ServerModelOptions, Store};

use crate::common::{eventually, in_time, takes_all};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, in_memory, models, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_rows_are_a_fold_over_the_log_and_restarts_repeat_nothing() {
    let Some(place) = Place::new() else { return };
    for round in 0..3 {
        let store = place.store().await;
        let sabotage = Arc::<Sabotage>::default();
        let model = models(&store).project(Counts::with(&sabotage)).await.unwrap();
        append_types(&store, &["a", "b"]).await;
        let last = append_types(&store, &["a"]).await;
        in_time("readers see it", model.wait_for(last)).await.unwrap();
        assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
        assert_eq!(model.status().position, last);
        let applied: Vec<u64> = sabotage.calls().iter().map(|(first, _)| *first).collect();
        assert!(applied.iter().all(|first| *first > 3 * round), "{applied:?}");
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catching_up_applies_many_batches_at_once_and_live_applies_one() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    for _ in 0..50 {
        append_types(&store, &["a", "b"]).await;
    }
    let options = ServerModelOptions::default().transaction_events_max(40);
    let model = models(&store)
        .project_with(Counts::new(1), &options)
        .await
        .unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let transactions = async || {
        let counted = "SELECT count(DISTINCT transaction) FROM seen";
        let counted = model.read(async |tx| tx.query_one(counted, &[]).await?.try_get::<_, i64>(0));
        counted.await.unwrap()
    };
    // As many as a transaction takes are not always there when it begins.
    let caught_up = transactions().await;
    assert!((3..=6).contains(&caught_up), "{caught_up}");
    for round in 1..=3 {
        let last = append_types(&store, &["a"]).await;
        model.wait_for(last).await.unwrap();
        assert_eq!(transactions().await, caught_up + round);
    }
    let largest = "SELECT max(count) FROM (SELECT count(*) FROM seen GROUP BY transaction) AS found (count)";
    let largest: i64 = model
        .read(async |tx| tx.query_one(largest, &[]).await?.try_get(0))
        .await
        .unwrap();
    assert!(largest <= 40, "{largest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_removed_is_gone_for_readers_and_is_built_anew() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a", "b"]).await;
    let models = models(&store);
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let schema = model.schema().await.unwrap();
    assert_eq!(schema, format!("{}_counts_1_1", place.database.schema));
    models.remove("counts", 1).await.unwrap();
    in_time("its stream has stopped", model.stopped()).await;
    let is_gone = model.read(async |_| Ok(())).await;
    assert!(
        matches!(&is_gone, Err(ReadModelError::NoSuchModel { name }) if name == "counts"),
        "{is_gone:?}"
    );
    let missing = models.remove("counts", 1).await;
    assert!(matches!(missing, Err(ReadModelError::NoSuchModel { name }) if name == "counts@1"));
    drop(model);
    let again = models.project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", again.caught_up()).await.unwrap();
    assert_eq!(in_memory(&again).await, [(1, 1), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_one_moment_cannot_write_and_see_the_log_beside_it() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    let last = append_types(&store, &["a"]).await;
    model.wait_for(last).await.unwrap();
    let count = "SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM event)";
    let (before, after, events) = model
        .read(async |tx| {
            let before: i64 = tx.query_one(count, &[]).await?.try_get(0)?;
            // Applied while this transaction is under way, which the writer does not wait for.
            let last = append_types(&store, &["a"]).await;
            in_time("the writer goes on", model.wait_for(last)).await.unwrap();
            let row = tx.query_one(count, &[]).await?;
            Ok((before, row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?))
        })
        .await
        .unwrap();
    assert_eq!((before, after, events), (1, 1, 1));
    let written = model
        .read(async |tx| tx.batch_execute("DELETE FROM seen").await)
        .await;
    let error = written.unwrap_err().to_string();
    assert!(error.contains("counts"), "{error}");
    assert_eq!(rows(&model).await["a"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_appends_and_other_streams_do_not_wait_for_a_projection() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sabotage = Arc::<Sabotage>::default();
    sabotage.is_bad(1);
    sabotage.hangs.store(true, std::sync::atomic::Ordering::SeqCst);
    let model = models(&store).project(Counts::with(&sabotage)).await.unwrap();
    let other = DurableStream::new("other");
    let other = store.stream_all_durable(&other, takes_all()).await.unwrap();
    append_types(&store, &["a"]).await;
    eventually("the projection hangs in its transaction", || {
        !sabotage.calls().is_empty()
    })
    .await;
    for _ in 0..20 {
        in_time("it is appended", append_types(&store, &["b"])).await;
    }
    in_time("the other one is at the head", other.caught_up())
        .await
        .unwrap();
    assert_eq!(model.status().position, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_version_selects_is_passed_without_a_transaction() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sparse = Counts {
        query: EventQuery::types(["a"]),
        ..Counts::new(1)
    };
    let model = models(&store).project(sparse).await.unwrap();
    for name in ["b", "a", "b", "b"] {
        append_types(&store, &[name]).await;
    }
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(in_memory(&model).await, [(2, 1)]);
    assert_eq!(model.status().lag, 0);
}

#[tokio::test]
async fn a_log_elsewhere_has_no_read_models_on_a_server() {
    let refused = millstream::ServerModels::of(&Store::in_memory().unwrap());
    assert!(matches!(refused, Err(ReadModelError::NoServer)));
}

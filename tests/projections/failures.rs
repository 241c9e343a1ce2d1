//! D5 for read models: what fails is rolled back, tried again, and set aside as the policy says; nothing is applied twice.

use std::sync::atomic::Ordering;

use millstream::{
    DeadLetterError, FailureCategory, FailurePolicy, ModelOptions, ReadModelError, Retry, StopCause,
};

use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, append_types, folded, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_a_failed_attempt_left_in_memory_is_not_applied_twice() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a", "b", "c"]).await;
    let projection = Counts::new(1);
    let (query, sabotage) = (projection.query.clone(), projection.sabotage.clone());
    sabotage.fails_at.store(2, Ordering::SeqCst);
    let model = models.project(&store, projection).await.unwrap();
    eventually("it has failed", || sabotage.rollbacks.load(Ordering::SeqCst) > 1).await;
    assert_eq!(model.status().position, 0);
    sabotage.fails_at.store(0, Ordering::SeqCst);
    in_time("it recovers", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
    let counted: Vec<(i64, i64)> = model
        .read(|connection| {
            let mut seen = connection.prepare("SELECT sequence, in_memory FROM seen ORDER BY sequence")?;
            seen.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
        .unwrap();
    assert_eq!(
        counted,
        [(1, 1), (2, 2), (3, 3)],
        "as if there had been one attempt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_batch_is_parked_as_a_whole_and_applied_once_when_it_is_retried() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let projection = Counts::new(1);
    let (query, sabotage) = (projection.query.clone(), projection.sabotage.clone());
    sabotage.fails_at.store(3, Ordering::SeqCst);
    // An event is named, and its whole batch was rolled back: those before it must not count as handled.
    sabotage.names.store(true, Ordering::SeqCst);
    let options = ModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let model = models
        .project_with(&store, projection.clone(), &options)
        .await
        .unwrap();
    append_types(&store, &["a"]).await;
    append_types(&store, &["b", "b", "b"]).await;
    let last = append_types(&store, &["c"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await.get("b"), None);
    let letters = store.dead_letters("counts@1");
    let (letter, _) = letters.show(2).await.unwrap();
    assert_eq!((letter.first_sequence, letter.last_sequence), (2, 4));
    let failed = letters.retry(2).await;
    assert!(
        matches!(failed, Err(DeadLetterError::HandlerFailed { .. })),
        "{failed:?}"
    );
    sabotage.fails_at.store(0, Ordering::SeqCst);
    letters.retry(2).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
    // A crash between the model's commit and the removal of the letter brings the letter again.
    let log = rusqlite::Connection::open(place.path("log.db")).unwrap();
    let copied = "INSERT INTO dead_letter SELECT * FROM kept";
    sabotage.fails_at.store(7, Ordering::SeqCst);
    append_types(&store, &["d", "d"]).await;
    let last = append_types(&store, &["e"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    log.execute_batch("CREATE TEMP TABLE kept AS SELECT * FROM dead_letter")
        .unwrap();
    sabotage.fails_at.store(0, Ordering::SeqCst);
    letters.retry(6).await.unwrap();
    log.execute_batch(copied).unwrap();
    letters.retry(6).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_letter_at_the_end_that_was_retried_does_not_come_again_after_a_restart() {
    let place = Place::new();
    let projection = Counts::new(1);
    let (query, sabotage) = (projection.query.clone(), projection.sabotage.clone());
    let options = ModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    {
        let (store, models) = (place.store(), place.models());
        sabotage.fails_at.store(2, Ordering::SeqCst);
        let model = models
            .project_with(&store, projection.clone(), &options)
            .await
            .unwrap();
        append_types(&store, &["a"]).await;
        let last = append_types(&store, &["b"]).await;
        in_time("it is parked", model.wait_for(last)).await.unwrap();
        sabotage.fails_at.store(0, Ordering::SeqCst);
        store.dead_letters("counts@1").retry(2).await.unwrap();
        store.close().await.unwrap();
    }
    let (store, models) = (place.store(), place.models());
    let model = models.project_with(&store, projection, &options).await.unwrap();
    model.caught_up().await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_panic_and_the_end_of_retries_stop_the_stream_and_the_store_goes_on() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let projection = Counts::new(1);
    let sabotage = projection.sabotage.clone();
    sabotage.fails_at.store(1, Ordering::SeqCst);
    sabotage.panics.store(true, Ordering::SeqCst);
    let options = ModelOptions::default().retry(Retry::never());
    let model = models.project_with(&store, projection, &options).await.unwrap();
    let last = append_types(&store, &["a"]).await;
    let cause = in_time("it stops", model.stopped()).await.unwrap();
    let is_panic = matches!(
        cause,
        StopCause::HandlerFailed {
            category: FailureCategory::Panic,
            ..
        }
    );
    assert!(is_panic, "{cause}");
    assert!(matches!(model.wait_for(last).await, Err(ReadModelError::Wait(_))));
    append_types(&store, &["a"]).await;
    sabotage.panics.store(false, Ordering::SeqCst);
    sabotage.fails_at.store(0, Ordering::SeqCst);
    drop(model);
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    model.caught_up().await.unwrap();
    assert_eq!(rows(&model).await["a"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_on_demand_the_failure_is_given_to_who_asked() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let projection = Counts::new(1);
    let sabotage = projection.sabotage.clone();
    for _ in 0..3 {
        append_types(&store, &["a", "b"]).await;
    }
    sabotage.fails_at.store(5, Ordering::SeqCst);
    let options = ModelOptions::default().retry(Retry::never());
    let model = models.on_demand_with(&store, projection, &options).await.unwrap();
    for panics in [false, true] {
        sabotage.panics.store(panics, Ordering::SeqCst);
        let failed = model.catch_up().await;
        let expected = matches!(
            failed,
            Err(ReadModelError::Apply {
                last_sequence: 6,
                version: 1,
                ..
            })
        );
        assert!(expected, "{failed:?}");
        assert_eq!(model.status().position, 4, "what comes before it is applied");
    }
    sabotage.fails_at.store(0, Ordering::SeqCst);
    model.catch_up().await.unwrap();
    assert_eq!(rows(&model).await["a"], 3);
}

//! R1 and D5 for read models on a server: what fails is rolled back with all that it left in memory, and the failure policy has its say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::TryStreamExt;
use millstream::{
    DeadLetter, FailureCategory, FailurePolicy, Retry, ServerModel, ServerModelOptions, StopCause, Store,
};

use crate::common::{eventually, hasty, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, in_memory, models, rows};

/// A log of three batches, whose second one is bad.
async fn ill(place: &Place, options: &ServerModelOptions) -> (Store, ServerModel, Arc<Sabotage>) {
    ill_with(place, options, Arc::default()).await
}

async fn ill_with(
    place: &Place,
    options: &ServerModelOptions,
    sabotage: Arc<Sabotage>,
) -> (Store, ServerModel, Arc<Sabotage>) {
    let store = place.store().await;
    for names in [&["a"][..], &["b", "b"], &["c"]] {
        append_types(&store, names).await;
    }
    sabotage.is_bad(3);
    let model = models(&store)
        .project_with(Counts::with(&sabotage), options)
        .await;
    (store, model.unwrap(), sabotage)
}

async fn letters(store: &Store) -> Vec<DeadLetter> {
    store.dead_letters("counts@1").list().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_a_failed_attempt_left_in_memory_is_not_applied_twice() {
    let Some(place) = Place::new() else { return };
    let (_store, model, sabotage) = ill(&place, &ServerModelOptions::default().retry(hasty())).await;
    eventually("it has failed", || sabotage.rollbacks.load(Ordering::SeqCst) > 2).await;
    sabotage.heal();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(in_memory(&model).await, [(1, 1), (2, 2), (3, 3), (4, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_by_default_the_model_stops_before_the_batch_and_a_new_handle_goes_on() {
    let Some(place) = Place::new() else { return };
    let (store, model, sabotage) = ill(&place, &ServerModelOptions::default().retry(Retry::never())).await;
    let cause = in_time("it stops", model.stopped()).await;
    assert!(
        matches!(cause, Some(StopCause::HandlerFailed { .. })),
        "{cause:?}"
    );
    assert_eq!(rows(&model).await.len(), 1, "what came before stays");
    drop(model);
    sabotage.heal();
    let model = models(&store).project(Counts::with(&sabotage)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_parked_batch_is_applied_later_and_once() {
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    for names in [false, true] {
        let Some(place) = Place::new() else { return };
        let sabotage = Arc::<Sabotage>::default();
        sabotage.names.store(names, Ordering::SeqCst);
        let (store, model, sabotage) = ill_with(&place, &options, sabotage).await;
        in_time("it is at the head", model.caught_up()).await.unwrap();
        assert_eq!(rows(&model).await.len(), 2);
        let letter = letters(&store).await.remove(0);
        assert_eq!((letter.first_sequence, letter.last_sequence), (2, 3), "all of it");
        assert_eq!(letters(&store).await.len(), 1);
        // Nothing of it is forgotten, and nothing of it is tried again, by a restart.
        store.close().await.unwrap();
        let store = place.store().await;
        let model = models(&store)
            .project_with(Counts::with(&sabotage), &options)
            .await
            .unwrap();
        in_time("it is at the head", model.caught_up()).await.unwrap();
        assert_eq!(letters(&store).await.len(), 1);
        sabotage.heal();
        for _ in 0..2 {
            let _ = store.dead_letters("counts@1").retry_all().await.unwrap();
        }
        let found: Vec<u64> = in_memory(&model).await.iter().map(|(first, _)| *first).collect();
        assert_eq!(found, [1, 2, 3, 4]);
        assert!(letters(&store).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_letter_that_was_applied_and_stayed_is_not_applied_again() {
    let Some(place) = Place::new() else { return };
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let (store, model, sabotage) = ill(&place, &options).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let copied = "CREATE TABLE kept AS SELECT * FROM dead_letter";
    place.database.execute(copied).unwrap();
    sabotage.heal();
    let _ = store.dead_letters("counts@1").retry_all().await.unwrap();
    // As if the process had died before it removed the letter.
    place
        .database
        .execute("INSERT INTO dead_letter SELECT * FROM kept")
        .unwrap();
    let _ = store.dead_letters("counts@1").retry_all().await.unwrap();
    assert!(letters(&store).await.is_empty());
    assert_eq!(rows(&model).await["b"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_skipped_batch_is_passed_over() {
    let Some(place) = Place::new() else { return };
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::skip());
    let (_store, model, _) = ill(&place, &options).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(in_memory(&model).await, [(1, 1), (4, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_and_a_call_without_end_are_failures_of_their_category() {
    let Some(place) = Place::new() else { return };
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .batch_timeout(Duration::from_millis(300))
        .on(FailureCategory::Panic, FailurePolicy::park())
        .on(FailureCategory::Timeout, FailurePolicy::park());
    let (store, model, sabotage) = ill(&place, &options).await;
    in_time("it has stopped: that was an error", model.stopped()).await;
    drop(model);
    sabotage.panics.store(true, Ordering::SeqCst);
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &options)
        .await
        .unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    sabotage.panics.store(false, Ordering::SeqCst);
    sabotage.hangs.store(true, Ordering::SeqCst);
    sabotage.is_bad(5);
    append_types(&store, &["d"]).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let found: Vec<_> = letters(&store)
        .await
        .iter()
        .map(|letter| letter.category)
        .collect();
    assert_eq!(
        found,
        [Some(FailureCategory::Panic), Some(FailureCategory::Timeout)]
    );
    assert_eq!(in_memory(&model).await, [(1, 1), (4, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_projection_that_ends_the_transaction_is_refused_and_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let (store, model, sabotage) = ill(&place, &options).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    // What begins with a question mark is done by a projection that returns the error.
    let forms = [
        ("COMMIT", "ended the transaction"),
        ("?COMMIT", "ended the transaction"),
        ("?SELECT 1 / 0", "division by zero"),
        (
            "COMMIT; INSERT INTO counted VALUES ('leak', 1)",
            "ended the transaction",
        ),
        ("ROLLBACK", "ended the transaction"),
        (
            "ROLLBACK; INSERT INTO counted VALUES ('leak', 1)",
            "ended the transaction",
        ),
        (
            "ROLLBACK; BEGIN; INSERT INTO counted VALUES ('leak', 1)",
            "statement of the projection failed",
        ),
        (
            "ROLLBACK; BEGIN READ WRITE; INSERT INTO counted VALUES ('leak', 1)",
            "ended the transaction",
        ),
        (
            "SET CONSTRAINTS ALL IMMEDIATE",
            "statement of the projection failed",
        ),
        ("SELECT 1 / 0", "statement of the projection failed"),
        (
            "INSERT INTO event SELECT * FROM event",
            "statement of the projection failed",
        ),
    ];
    for (sql, expected) in forms {
        *sabotage.sql.lock().unwrap() = Some(sql);
        let last = append_types(&store, &["bad"]).await + 1;
        sabotage.is_bad(last);
        append_types(&store, &["bad"]).await;
        in_time("it is at the head", model.caught_up()).await.unwrap();
        let letters = letters(&store).await;
        let letter = letters.last().unwrap();
        assert_eq!(letter.first_sequence, last, "{sql}");
        let cause = letter.cause.as_ref().unwrap();
        assert!(cause.contains(expected), "{sql}: {cause}");
        let leaked = rows(&model).await;
        assert!(!leaked.contains_key("leak"), "{sql}: {leaked:?}");
        let seen = in_memory(&model).await;
        assert!(
            seen.iter().all(|(sequence, _)| *sequence != last),
            "{sql}: {seen:?}"
        );
    }
}

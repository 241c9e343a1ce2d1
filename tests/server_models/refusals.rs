//! D6 and D7 for read models on a server: what does not fit is refused, with the choices, and who lost a model writes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::{
    EventQuery, Ownership, Prune, ReadModelError, ServerModelOptions, Store, StreamError, StreamState,
};

use crate::common::{eventually, hasty, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, in_memory, models, rows};

/// Keeps a model, applies some, and ends.
async fn kept(place: &Place) -> Store {
    let store = place.store().await;
    append_types(&store, &["a", "b"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    model.unsubscribe();
    model.stopped().await;
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d7_a_changed_projection_of_the_same_version_is_refused() {
    let Some(place) = Place::new() else { return };
    let store = kept(&place).await;
    let query = Counts {
        query: EventQuery::types(["a"]),
        ..Counts::new(1)
    };
    let schema = Counts {
        schema: "CREATE TABLE other ()".to_owned(),
        ..Counts::new(1)
    };
    for (changed, expected) in [(query, "query"), (schema, "schema")] {
        let refused = models(&store).project(changed).await.unwrap_err();
        assert!(
            matches!(&refused, ReadModelError::Changed { what, .. } if *what == expected),
            "{refused}"
        );
    }
    // Who was refused has let go of the name.
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d7_rows_of_another_log_or_ahead_of_this_one_are_refused() {
    let Some(place) = Place::new() else { return };
    let store = kept(&place).await;
    place
        .database
        .execute("UPDATE millstream_model SET position = 7")
        .unwrap();
    let refused = models(&store).project(Counts::new(1)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ReadModelError::AheadOfLog {
                position: 7,
                head: 2,
                ..
            }
        ),
        "{refused}"
    );
    let foreign = "UPDATE millstream_model SET position = 2, log_id = 'other'";
    place.database.execute(foreign).unwrap();
    let refused = models(&store).project(Counts::new(1)).await.unwrap_err();
    assert!(
        matches!(&refused, ReadModelError::ForeignLog { built_from, .. } if built_from == "other"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d7_a_model_that_needs_what_was_pruned_is_refused_and_a_new_one_begins_with_what_is_left() {
    let Some(place) = Place::new() else { return };
    let store = kept(&place).await;
    append_types(&store, &["c"]).await;
    append_types(&store, &["d"]).await;
    store.stream("counts@1").await.unwrap().delete().await.unwrap();
    let _ = store.prune(Prune::before(4)).await.unwrap();
    let refused = models(&store).project(Counts::new(1)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ReadModelError::Pruned {
                position: 2,
                pruned_through: 3,
                ..
            }
        ),
        "{refused}"
    );
    // It would lack what the older one has.
    let refused = models(&store).project(Counts::new(2)).await.unwrap_err();
    assert!(
        matches!(refused, ReadModelError::Pruned { position: 0, .. }),
        "{refused}"
    );
    let named_anew = Counts {
        name: "others",
        ..Counts::new(1)
    };
    let model = models(&store).project(named_anew).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(in_memory(&model).await, [(4, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_fails_or_commits_makes_nothing() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    for (schema, expected) in [
        ("CREATE TABLE broken (", "syntax"),
        ("CREATE TABLE a (); COMMIT", "ended by millstream alone"),
        (
            "CREATE TABLE a (); COMMIT; CREATE TABLE b ()",
            "ended by millstream alone",
        ),
        ("CREATE TABLE a (); ROLLBACK", "ends the transaction"),
        (
            "CREATE TABLE a (); ROLLBACK; BEGIN READ WRITE",
            "ends the transaction",
        ),
        ("CREATE TABLE event ()\0", "0x00"),
    ] {
        let wrong = Counts {
            schema: schema.to_owned(),
            ..Counts::new(1)
        };
        let refused = models(&store).project(wrong).await.unwrap_err();
        assert!(
            matches!(&refused, ReadModelError::Schema { version: 1, .. }),
            "{schema:?}: {refused}"
        );
        assert!(refused.to_string().contains(expected), "{schema:?}: {refused}");
        let made = format!(
            "SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, '{}_')",
            place.database.schema
        );
        assert_eq!(place.database.number(&made), 0, "{schema:?}");
    }
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    model.caught_up().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_model_is_kept_by_one_store_and_the_other_one_may_wait_for_it() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.store().await, place.store().await);
    let model = models(&one).project(Counts::new(1)).await.unwrap();
    let again = models(&one).project(Counts::new(1)).await.unwrap_err();
    assert!(matches!(again, ReadModelError::Active { .. }), "{again}");
    let refused = models(&other).project(Counts::new(1)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ReadModelError::Stream(StreamError::OwnedElsewhere { .. })
        ),
        "{refused}"
    );
    append_types(&one, &["a"]).await;
    model.caught_up().await.unwrap();
    let waits = tokio::spawn({
        let options = ServerModelOptions::default().ownership(Ownership::Standby);
        let models = models(&other);
        async move { models.project_with(Counts::new(1), &options).await.unwrap() }
    });
    append_types(&other, &["b"]).await;
    model.caught_up().await.unwrap();
    one.close().await.unwrap();
    let taken_over = in_time("it is taken over", waits).await.unwrap();
    append_types(&other, &["c"]).await;
    in_time("it is at the head", taken_over.caught_up())
        .await
        .unwrap();
    assert_eq!(rows(&taken_over).await, folded(&other, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_take_over_that_is_refused_ends_nobody() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    append_types(&store, &["a"]).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let takes_over = ServerModelOptions::default().ownership(Ownership::TakeOver);
    let of_another_query = Counts {
        query: EventQuery::types(["a"]),
        ..Counts::new(1)
    };
    let refused = models(&other).project_with(of_another_query, &takes_over).await;
    assert!(
        matches!(refused, Err(ReadModelError::Changed { what: "query", .. })),
        "{refused:?}"
    );
    append_types(&store, &["b"]).await;
    in_time("the owner goes on", model.caught_up()).await.unwrap();
    let owner = &other.streams().await.unwrap()[0].owner;
    assert!(owner.is_some(), "it is owned still");
}

/// The stream's row is taken from the owner, as another registration does, while its projection is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_loses_the_name_in_the_middle_of_a_transaction_writes_nothing_of_it() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sabotage = Arc::<Sabotage>::default();
    sabotage.is_bad(2);
    sabotage.hangs.store(true, Ordering::SeqCst);
    let options = ServerModelOptions::default()
        .retry(hasty())
        .batch_timeout(Duration::from_millis(200));
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &options)
        .await
        .unwrap();
    append_types(&store, &["a"]).await;
    model.caught_up().await.unwrap();
    append_types(&store, &["b"]).await;
    eventually("it is at work", || sabotage.calls().contains(&(2, 2))).await;
    let taken = "UPDATE cursor SET epoch = epoch + 1000 WHERE name = 'counts@1'";
    place.database.execute(taken).unwrap();
    // Its next attempts would succeed, if they might.
    sabotage.heal();
    let before = sabotage.calls().len();
    eventually("it has tried again, or knows that it has lost", || {
        sabotage.calls().len() > before + 1
            || model
                .status()
                .stream
                .is_some_and(|stream| matches!(stream.state, StreamState::Stopped(_)))
    })
    .await;
    assert_eq!(in_memory(&model).await, [(1, 1)]);
}

//! A read model follows the log exactly once: live, catching up, on demand, across restarts.

use std::time::Duration;

use millstream::{ModelOptions, Ownership, ReadModelError, StopCause, StreamError};

use crate::common::in_time;
use crate::fixture::{Counts, Place, append_types, folded, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_read_model_holds_what_a_fold_over_the_log_gives() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a", "b", "a"]).await;
    let projection = Counts::new(1);
    let query = projection.query.clone();
    let model = models.project(&store, projection).await.unwrap();
    for _ in 0..20 {
        let last = append_types(&store, &["a", "c"]).await;
        in_time("the write is read", model.wait_for(last)).await.unwrap();
        assert_eq!(rows(&model).await, folded(&store, &query).await);
    }
    let status = model.status();
    assert_eq!((status.position, status.lag, status.is_serving), (43, 0, true));
    assert_eq!(status.stream.unwrap().name.as_deref(), Some("counts@1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_it_goes_on_after_a_restart_where_its_own_transaction_ended() {
    let place = Place::new();
    {
        let (store, models) = (place.store(), place.models());
        append_types(&store, &["a"; 5]).await;
        let model = models.project(&store, Counts::new(1)).await.unwrap();
        model.caught_up().await.unwrap();
        store.close().await.unwrap();
    }
    // The log's cursor is only a copy: whatever it says, the model's position counts.
    let log = rusqlite::Connection::open(place.path("log.db")).unwrap();
    for cursor in [0, 9] {
        let store = place.store();
        append_types(&store, &["b", "b"]).await;
        store.close().await.unwrap();
        log.execute("UPDATE cursor SET position = ?1", [cursor]).unwrap();
        let (store, models) = (place.store(), place.models());
        let projection = Counts::new(1);
        let query = projection.query.clone();
        let model = models.project(&store, projection).await.unwrap();
        in_time("it catches up", model.caught_up()).await.unwrap();
        assert_eq!(rows(&model).await, folded(&store, &query).await);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catch_up_applies_many_batches_in_one_transaction_and_live_one_each() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    for _ in 0..100 {
        append_types(&store, &["a", "a"]).await;
    }
    let changes = |path: std::path::PathBuf| {
        let connection = rusqlite::Connection::open(path).unwrap();
        let version = |connection: &rusqlite::Connection| -> i64 {
            connection
                .pragma_query_value(None, "data_version", |row| row.get(0))
                .unwrap()
        };
        let first = version(&connection);
        move || version(&connection) - first
    };
    let options = ModelOptions::default().transaction_events_max(50);
    let model = models
        .on_demand_with(&store, Counts::new(1), &options)
        .await
        .unwrap();
    // Only whether there were changes can be seen; how many there were say the numbers in memory.
    let has_changed = changes(place.path(&place.builds()[0]));
    model.catch_up().await.unwrap();
    assert!(has_changed() > 0);
    assert_eq!(rows(&model).await["a"], 200);
    let options = ModelOptions::default().transaction_within(Duration::ZERO);
    drop(model);
    let model = models
        .project_with(&store, Counts::new(1), &options)
        .await
        .unwrap();
    let last = append_types(&store, &["b"]).await;
    model.wait_for(last).await.unwrap();
    assert_eq!(rows(&model).await["b"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_nothing_runs_in_between() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let projection = Counts::of(&["a"]);
    let (query, sabotage) = (projection.query.clone(), projection.sabotage.clone());
    let model = models.on_demand(&store, projection).await.unwrap();
    append_types(&store, &["a", "b"]).await;
    assert!(model.stream().is_none() && store.streams().await.unwrap().is_empty());
    assert_eq!(model.status().lag, 2);
    model.catch_up().await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
    let last = append_types(&store, &["b", "b"]).await;
    model.wait_for(last).await.unwrap();
    assert_eq!((model.status().position, model.status().lag), (4, 0));
    model.catch_up().await.unwrap();
    assert_eq!(
        sabotage.calls.lock().unwrap().len(),
        1,
        "nothing is applied twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_version_is_registered_once_here_and_again_when_its_handle_is_gone() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    let again = models.project(&store, Counts::new(1)).await;
    assert!(matches!(again, Err(ReadModelError::Active { version: 1, .. })));
    append_types(&store, &["a"]).await;
    model.caught_up().await.unwrap();
    drop(model);
    let model = in_time("it is free again", models.project(&store, Counts::new(1)))
        .await
        .unwrap();
    assert_eq!(rows(&model).await["a"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_model_goes_on_until_the_store_is_closed() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    models.project(&store, Counts::new(1)).await.unwrap().detach();
    append_types(&store, &["a"]).await;
    store.settled().await.unwrap();
    let again = in_time("it is refused", models.project(&store, Counts::new(1))).await;
    assert!(matches!(again, Err(ReadModelError::Active { .. })), "{again:?}");
    store.close().await.unwrap();
    let store = place.store();
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    assert_eq!(rows(&model).await["a"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_lost_a_read_model_to_another_process_writes_nothing_more() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    append_types(&store, &["a"]).await;
    model.caught_up().await.unwrap();
    // As another process would.
    let (other_store, other_models) = (place.store(), place.models());
    let refused = other_models.project(&other_store, Counts::new(1)).await;
    let stream = "counts@1";
    assert!(
        matches!(&refused, Err(ReadModelError::Stream(StreamError::OwnedElsewhere { name, .. })) if name == stream),
        "{refused:?}"
    );
    append_types(&store, &["a"]).await;
    model
        .caught_up()
        .await
        .expect("who was refused has touched nothing");
    let takes_over = ModelOptions::default().ownership(Ownership::TakeOver);
    let other = other_models
        .project_with(&other_store, Counts::new(1), &takes_over)
        .await
        .unwrap();
    append_types(&other_store, &["a"]).await;
    other.caught_up().await.unwrap();
    let last = append_types(&store, &["a"]).await;
    let cause = in_time("it stops", model.stopped()).await.unwrap();
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause}");
    other.wait_for(last).await.unwrap();
    assert_eq!(rows(&other).await["a"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_writes_nothing_and_sees_one_moment() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    append_types(&store, &["a"]).await;
    model.caught_up().await.unwrap();
    let refused = model
        .read(|connection| connection.execute("DELETE FROM counted", []))
        .await;
    assert!(
        matches!(refused, Err(ReadModelError::Query { .. })),
        "{refused:?}"
    );
    let (read_once, go_on) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let reading = model.read(move |connection| {
        let count = || connection.query_row("SELECT count FROM counted", [], |row| row.get::<_, i64>(0));
        let before = count()?;
        read_once.0.send(()).unwrap();
        go_on.1.recv().unwrap();
        Ok((before, count()?))
    });
    let writing = async {
        tokio::task::spawn_blocking(move || read_once.1.recv().unwrap())
            .await
            .unwrap();
        let last = append_types(&store, &["a"]).await;
        in_time("the reader blocks no writer", model.wait_for(last))
            .await
            .unwrap();
        go_on.0.send(()).unwrap();
    };
    let (read, ()) = tokio::join!(reading, writing);
    assert_eq!(read.unwrap(), (1, 1));
    assert_eq!(rows(&model).await["a"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_on_demand_too_only_the_newest_owner_writes() {
    let place = Place::new();
    let (store, models, others) = (place.store(), place.models(), place.models());
    append_types(&store, &["a"]).await;
    let first = models.on_demand(&store, Counts::new(1)).await.unwrap();
    let second = others.on_demand(&store, Counts::new(1)).await.unwrap();
    let lost = first.catch_up().await;
    assert!(
        matches!(lost, Err(ReadModelError::OwnershipLost { .. })),
        "{lost:?}"
    );
    second.catch_up().await.unwrap();
    assert_eq!(rows(&first).await["a"], 1, "and both can be read");
}

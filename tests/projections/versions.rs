//! R2: a read model is rebuilt, and a new version built, beside the one that serves.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use futures::StreamExt;
use millstream::internals::{FaultPoint, with_faults};
use millstream::{
    FailureCategory, FailurePolicy, ModelOptions, Projection, Promotion, ReadModelError, RequestState, Retry,
    StopCause, Store,
};

use crate::common::{append, eventually, in_time};
use crate::fixture::{Counts, Place, append_types, folded, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_new_version_is_built_beside_and_readers_follow_its_promotion() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a", "b"]).await;
    let first = models.project(&store, Counts::new(1)).await.unwrap();
    first.caught_up().await.unwrap();
    let by_hand = ModelOptions::default().promotion(Promotion::ByHand);
    let only_b = Counts {
        query: millstream::EventQuery::types(["b"]),
        ..Counts::new(2)
    };
    let second = models.project_with(&store, only_b, &by_hand).await.unwrap();
    let last = append_types(&store, &["a", "b"]).await;
    first.wait_for(last).await.unwrap();
    let waited = second.wait_for(last).await;
    assert!(
        matches!(
            waited,
            Err(ReadModelError::NotServing {
                version: 2,
                serving: 1,
                ..
            })
        ),
        "{waited:?}"
    );
    assert_eq!(
        rows(&second).await["a"],
        2,
        "readers of both see the first version"
    );
    assert_eq!(models.versions().await.unwrap().len(), 2);
    second.promote().await.unwrap();
    assert_eq!(
        rows(&first).await.get("a"),
        None,
        "readers of both see the second"
    );
    assert_eq!(rows(&second).await["b"], 2);
    let cause = in_time("the first version ends", first.stopped()).await.unwrap();
    assert!(matches!(cause, StopCause::Deleted), "{cause}");
    let names: Vec<_> = store
        .streams()
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, [Some("counts@2".to_owned())]);
    drop(first);
    eventually("the file of the first version is gone", || {
        // Whoever opens the list removes what is retired.
        drop(place.models());
        place.builds().len() == 1
    })
    .await;
    let older = models.project(&store, Counts::new(1)).await;
    assert!(
        matches!(older, Err(ReadModelError::OlderVersion { serving: 2, .. })),
        "{older:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_is_promoted_when_it_has_caught_up_though_the_older_program_is_gone() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a", "b"]).await;
    drop(models.project(&store, Counts::new(1)).await.unwrap());
    append_types(&store, &["c"]).await;
    let projection = Counts::new(2);
    let query = projection.query();
    let second = models.project(&store, projection).await.unwrap();
    in_time("it serves", second.caught_up()).await.unwrap();
    assert!(second.status().is_serving);
    assert_eq!(rows(&second).await, folded(&store, &query).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_takes_the_place_in_one_step_and_the_stream_goes_on() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    for _ in 0..300 {
        append(&store, "a", 7).await;
    }
    let projection = Counts::new(1);
    let query = projection.query();
    let model = models.project(&store, projection).await.unwrap();
    model.caught_up().await.unwrap();
    let before = place.builds();
    // What was broken in the rows is mended by a rebuild.
    let rows_file = rusqlite::Connection::open(place.path(&before[0])).unwrap();
    rows_file.execute("UPDATE counted SET count = 0", []).unwrap();
    drop(rows_file);
    let rebuild = model.rebuild().await.unwrap();
    let second = model.rebuild().await;
    assert!(
        matches!(second, Err(ReadModelError::RebuildUnderWay { .. })),
        "{second:?}"
    );
    let progress = rebuild.watch().collect::<Vec<_>>();
    let progress = tokio::spawn(progress);
    append(&store, "b", 3).await;
    in_time("it is rebuilt", rebuild.finished()).await.unwrap();
    let last = append(&store, "c", 2).await.1;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
    let seen = progress.await.unwrap();
    let end = seen.last().unwrap();
    assert!(
        end.is_finished && end.done == end.total && end.total >= 2_100,
        "{end:?}"
    );
    assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert_ne!(place.builds(), before);
    // It can be repeated, and goes on after a restart.
    in_time("it is rebuilt again", model.rebuild().await.unwrap().finished())
        .await
        .unwrap();
    drop(model);
    store.close().await.unwrap();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["d"]).await;
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    model.caught_up().await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_works_on_an_empty_log_and_with_no_matching_event() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let model = models.on_demand(&store, Counts::of(&["none"])).await.unwrap();
    for _ in 0..2 {
        let rebuild = model.rebuild().await.unwrap();
        in_time("it is rebuilt", rebuild.finished()).await.unwrap();
        assert!(rows(&model).await.is_empty());
        append_types(&store, &["a"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_that_is_cancelled_or_fails_leaves_the_old_one_serving() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a", "b", "c"]).await;
    let projection = Counts::new(1);
    let sabotage = projection.sabotage.clone();
    let options = ModelOptions::default().retry(Retry::never());
    let model = models.project_with(&store, projection, &options).await.unwrap();
    model.caught_up().await.unwrap();
    let before = place.builds();
    model.rebuild().await.unwrap().cancel();
    // A rebuild that has ended is no longer under way.
    sabotage.fails_at.store(2, Ordering::SeqCst);
    let failed = in_time("the cancelled one ends", async {
        loop {
            match model.rebuild().await {
                Ok(rebuild) => break rebuild.finished().await,
                Err(ReadModelError::RebuildUnderWay { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    let expected = matches!(
        &failed,
        Err(ReadModelError::Apply { last_sequence: 3, error, .. }) if error.contains("told to fail")
    );
    assert!(expected, "{failed:?}");
    assert_eq!(rows(&model).await.len(), 3);
    eventually("what was built is removed", || place.builds() == before).await;
    sabotage.fails_at.store(0, Ordering::SeqCst);
    let last = append_types(&store, &["d"]).await;
    model.wait_for(last).await.unwrap();
    model.rebuild().await.unwrap().finished().await.unwrap();
    assert_eq!(rows(&model).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_applies_dead_letters_that_can_be_applied_and_keeps_the_others() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let projection = Counts::new(1);
    let sabotage = projection.sabotage.clone();
    let options = ModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let model = models.project_with(&store, projection, &options).await.unwrap();
    for bad in [2, 5] {
        sabotage.fails_at.store(bad, Ordering::SeqCst);
        append_types(&store, &["a"]).await;
        append_types(&store, &["b", "b"]).await;
        let last = store.head();
        in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    }
    assert_eq!(rows(&model).await["a"], 2);
    assert_eq!(model.stream().unwrap().status().parked, 2);
    let log = rusqlite::Connection::open(place.path("log.db")).unwrap();
    log.execute_batch("CREATE TEMP TABLE kept AS SELECT * FROM dead_letter WHERE first_sequence = 2")
        .unwrap();
    // The batch with 2 can be applied now, that with 5 cannot.
    in_time("it is rebuilt", model.rebuild().await.unwrap().finished())
        .await
        .unwrap();
    let counts = rows(&model).await;
    assert_eq!((counts["a"], counts["b"]), (2, 2));
    assert_eq!(model.stream().unwrap().status().parked, 1);
    // A process that dies before the letter is removed leaves one that was applied.
    log.execute_batch("INSERT INTO dead_letter SELECT * FROM kept")
        .unwrap();
    store.dead_letters("counts@1").retry(2).await.unwrap();
    assert_eq!(rows(&model).await["b"], 2);
    let letters = store.dead_letters("counts@1");
    sabotage.fails_at.store(0, Ordering::SeqCst);
    letters.retry(5).await.unwrap();
    assert_eq!(rows(&model).await["b"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_passes_over_what_was_set_aside_because_it_cannot_be_decoded() {
    let place = Place::new();
    append_types(&place.store(), &["a", "old", "b"]).await;
    append_types(&place.store(), &["a"]).await;
    let broken = |_: serde_json::Value| Err::<serde_json::Value, _>("nobody knows what it meant");
    let store = Store::builder()
        .upcast("old", 1, broken)
        .open(place.path("log.db"))
        .unwrap();
    let options = ModelOptions::default().on(FailureCategory::Undecodable, FailurePolicy::park());
    let models = place.models();
    let model = models
        .project_with(&store, Counts::new(1), &options)
        .await
        .unwrap();
    in_time("the stream goes on", model.caught_up()).await.unwrap();
    let expected = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(rows(&model).await, expected);
    in_time("it is rebuilt", model.rebuild().await.unwrap().finished())
        .await
        .unwrap();
    assert_eq!(rows(&model).await, expected);
    assert_eq!(model.stream().unwrap().status().parked, 1);
    // A program that can read it has the letter handled.
    drop(model);
    store.close().await.unwrap();
    let store = place.store();
    let model = models
        .project_with(&store, Counts::new(1), &options)
        .await
        .unwrap();
    store.dead_letters("counts@1").retry(2).await.unwrap();
    assert_eq!(rows(&model).await["old"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_that_is_cancelled_as_it_switches_leaves_a_model_that_goes_on() {
    let place = Place::new();
    let ((at_switch, is_at_switch), (go_on, may_go_on)) = (channel(), channel());
    let (at_switch, may_go_on) = (Mutex::new(at_switch), Mutex::new(may_go_on));
    let builder = with_faults(Store::builder(), move |point| {
        if point == FaultPoint::AfterSwitch {
            at_switch.lock().unwrap().send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        false
    });
    let store = builder.open(place.path("log.db")).unwrap();
    let models = place.models();
    append_types(&store, &["a"]).await;
    let projection = Counts::new(1);
    let query = projection.query();
    let model = models.project(&store, projection).await.unwrap();
    model.caught_up().await.unwrap();
    let rebuild = model.rebuild().await.unwrap();
    tokio::task::spawn_blocking(move || is_at_switch.recv().unwrap())
        .await
        .unwrap();
    rebuild.cancel();
    go_on.send(()).unwrap();
    let last = append_types(&store, &["b"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &query).await);
    let requests = models.requests().await.unwrap();
    assert_eq!(requests[0].state, RequestState::Done, "{requests:?}");
}

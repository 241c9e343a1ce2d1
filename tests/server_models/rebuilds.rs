//! R2: a read model on a server is rebuilt beside the one that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use millstream::internals::{FaultPoint, with_faults};
use millstream::{EventQuery, FailurePolicy, Ownership, ReadModelError, Retry, ServerModelOptions};

use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, in_memory, models, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_takes_the_place_in_one_step_and_the_stream_goes_on() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    for _ in 0..300 {
        append_types(&store, &["a"; 7]).await;
    }
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let before = model.schema().await.unwrap();
    // What was broken in the rows is mended by a rebuild.
    let broken = format!("UPDATE {before}.counted SET count = 0");
    place.database.execute(&broken).unwrap();
    let rebuild = model.rebuild().await.unwrap();
    let second = model.rebuild().await;
    assert!(
        matches!(second, Err(ReadModelError::RebuildUnderWay { .. })),
        "{second:?}"
    );
    assert!(model.status().is_rebuilding);
    let progress = tokio::spawn(rebuild.watch().collect::<Vec<_>>());
    append_types(&store, &["b"; 3]).await;
    in_time("it is rebuilt", rebuild.finished()).await.unwrap();
    let last = append_types(&store, &["c", "c"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    let seen = progress.await.unwrap();
    let end = seen.last().unwrap();
    assert!(
        end.is_finished && end.done == end.total && end.total >= 2_100,
        "{end:?}"
    );
    assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert_ne!(model.schema().await.unwrap(), before);
    // It can be repeated, and goes on after a restart.
    in_time("it is rebuilt again", model.rebuild().await.unwrap().finished())
        .await
        .unwrap();
    drop(model);
    store.close().await.unwrap();
    let store = place.store().await;
    append_types(&store, &["d"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(place.builds(), 1, "what was replaced is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_readers_see_the_old_one_complete_until_the_switch_and_one_of_them_to_its_end() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let types = ["a"; 100];
    for _ in 0..30 {
        append_types(&store, &types).await;
    }
    let options = ServerModelOptions::default().transaction_events_max(200);
    let model = models(&store).project_with(Counts::new(1), &options).await;
    let model = Arc::new(model.unwrap());
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let count = "SELECT count(*) FROM seen";
    // Begun before the rebuild and ended after it: it sees one moment, and what it reads is not removed.
    model
        .read(async |tx| {
            let rebuild = model.rebuild().await.unwrap();
            let reading = async {
                let mut reads = 0;
                while model.status().is_rebuilding {
                    assert_eq!(rows(&model).await["a"], 3_000);
                    reads += 1;
                }
                reads
            };
            let (rebuilt, reads) = tokio::join!(in_time("it is rebuilt", rebuild.finished()), reading);
            rebuilt.unwrap();
            assert!(reads > 0);
            append_types(&store, &["a"]).await;
            in_time("the stream goes on", model.caught_up()).await.unwrap();
            assert_eq!(tx.query_one(count, &[]).await?.get::<_, i64>(0), 3_000);
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(rows(&model).await["a"], 3_001);
    eventually("the old one is removed behind its last reader", || {
        place.builds() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_works_on_an_empty_log_and_with_no_matching_event() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let none = Counts {
        query: EventQuery::types(["none"]),
        ..Counts::new(1)
    };
    let model = models(&store).project(none).await.unwrap();
    for _ in 0..2 {
        let rebuild = model.rebuild().await.unwrap();
        in_time("it is rebuilt", rebuild.finished()).await.unwrap();
        assert!(rows(&model).await.is_empty());
        append_types(&store, &["a"]).await;
        in_time("it is at the head", model.caught_up()).await.unwrap();
    }
    let last = append_types(&store, &["none"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await["none"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_that_is_cancelled_or_fails_leaves_the_old_one_serving() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a", "b", "c"]).await;
    let sabotage = Arc::<Sabotage>::default();
    let options = ServerModelOptions::default().retry(Retry::never());
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &options)
        .await
        .unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    sabotage.is_bad(2);
    sabotage.hangs.store(true, Ordering::SeqCst);
    let calls = sabotage.calls().len();
    let rebuild = model.rebuild().await.unwrap();
    eventually("it is in the middle of a batch", || {
        sabotage.calls().len() > calls
    })
    .await;
    assert_eq!(place.builds(), 2);
    rebuild.cancel();
    eventually("what was built is removed", || place.builds() == 1).await;
    for (panics, expected) in [(false, "told to fail"), (true, "told to panic")] {
        sabotage.hangs.store(false, Ordering::SeqCst);
        sabotage.panics.store(panics, Ordering::SeqCst);
        let failed = model.rebuild().await.unwrap().finished();
        let failed = in_time("it fails", failed).await;
        assert!(
            matches!(&failed, Err(ReadModelError::Apply { last_sequence: 3, error, .. }) if error.contains(expected)),
            "{failed:?}"
        );
        assert_eq!(place.builds(), 1, "whoever waited finds nothing of it left");
    }
    assert_eq!(rows(&model).await.len(), 3);
    sabotage.heal();
    let last = append_types(&store, &["d"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    let rebuilt = model.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    assert_eq!(rows(&model).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_applies_dead_letters_that_can_be_applied_and_keeps_the_others() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sabotage = Arc::<Sabotage>::default();
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &options)
        .await
        .unwrap();
    for bad in [2, 5] {
        sabotage.is_bad(bad);
        append_types(&store, &["a"]).await;
        let last = append_types(&store, &["b", "b"]).await;
        in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    }
    assert_eq!(rows(&model).await["a"], 2);
    assert_eq!(model.stream().unwrap().status().parked, 2);
    place
        .database
        .execute("CREATE TABLE kept AS SELECT * FROM dead_letter WHERE first_sequence = 2")
        .unwrap();
    // The batch with 2 can be applied now, that with 5 cannot.
    sabotage.heal();
    sabotage.is_bad(5);
    let rebuilt = model.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    let counts = rows(&model).await;
    assert_eq!((counts["a"], counts["b"]), (2, 2));
    assert_eq!(model.stream().unwrap().status().parked, 1);
    // A process that dies before the letter is removed leaves one that was applied.
    place
        .database
        .execute("INSERT INTO dead_letter SELECT * FROM kept")
        .unwrap();
    store.dead_letters("counts@1").retry(2).await.unwrap();
    assert_eq!(rows(&model).await["b"], 2);
    sabotage.heal();
    store.dead_letters("counts@1").retry(5).await.unwrap();
    assert_eq!(rows(&model).await["b"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_rebuild_of_an_owner_that_lost_the_model_comes_to_nothing_and_hinders_nobody() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a", "b"]).await;
    let sabotage = Arc::<Sabotage>::default();
    let model = models(&store).project(Counts::with(&sabotage)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    sabotage.is_bad(1);
    sabotage.hangs.store(true, Ordering::SeqCst);
    let rebuild = model.rebuild().await.unwrap();
    assert_eq!(place.builds(), 2);
    // Whoever takes the model over ends the rebuild of the earlier owner, which hangs and knows nothing of it.
    let other = place.store().await;
    let options = ServerModelOptions::default().ownership(Ownership::TakeOver);
    let taken = models(&other)
        .project_with(Counts::new(1), &options)
        .await
        .unwrap();
    sabotage.heal();
    sabotage.hangs.store(false, Ordering::SeqCst);
    let last = append_types(&other, &["c"]).await;
    in_time("the new owner goes on", taken.wait_for(last))
        .await
        .unwrap();
    let rebuilt = taken.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    assert_eq!(rows(&taken).await, folded(&other, &EventQuery::all()).await);
    rebuild.cancel();
    eventually("nothing is left of what hung", || place.builds() == 1).await;
    drop(model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_the_last_step_is_refused_to_whoever_lost_the_stream() {
    let Some(place) = Place::new() else { return };
    let tries = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&tries);
    let builder = with_faults(place.database.builder(), move |point| {
        // The answer is that the server is busy, each time that the step would come to its end.
        let is_last_step = point == FaultPoint::BeforeSwitch;
        counted.fetch_add(u64::from(is_last_step), Ordering::SeqCst);
        is_last_step
    });
    let store = builder.connect(&*place.database.address).await.unwrap();
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    append_types(&store, &["a"]).await;
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let before = model.schema().await.unwrap();
    let rebuild = model.rebuild().await.unwrap();
    eventually("the last step has begun", || tries.load(Ordering::SeqCst) > 0).await;
    place
        .database
        .execute("UPDATE cursor SET epoch = epoch + 1000 WHERE name = 'counts@1'")
        .unwrap();
    let lost = in_time("it is refused", rebuild.finished()).await;
    assert!(
        matches!(lost, Err(ReadModelError::OwnershipLost { .. })),
        "{lost:?}"
    );
    assert_eq!(model.schema().await.unwrap(), before);
    assert_eq!(place.builds(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_whose_last_step_fails_at_first_or_is_cancelled_then_comes_to_its_end() {
    let Some(place) = Place::new() else { return };
    let failures = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&failures);
    let builder = with_faults(place.database.builder(), move |point| {
        // Twice the answer is that the server is busy.
        point == FaultPoint::BeforeSwitch && counted.fetch_add(1, Ordering::SeqCst) < 2
    });
    let store = builder.connect(&*place.database.address).await.unwrap();
    append_types(&store, &["a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let before = model.schema().await.unwrap();
    let rebuild = model.rebuild().await.unwrap();
    eventually("the last step has begun", || failures.load(Ordering::SeqCst) > 0).await;
    rebuild.cancel();
    let last = append_types(&store, &["b"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_ne!(model.schema().await.unwrap(), before);
    assert_eq!(in_memory(&model).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_survives_connections_that_are_lost_at_any_moment() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    for _ in 0..200 {
        append_types(&store, &["a"; 10]).await;
    }
    let options = ServerModelOptions::default().transaction_events_max(50);
    let model = models(&store).project_with(Counts::new(1), &options).await;
    let model = model.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    for _ in 0..3 {
        let rebuild = model.rebuild().await.unwrap();
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks
             WHERE relation = to_regclass('{}.millstream_model') AND pid <> pg_backend_pid()",
            place.database.schema
        );
        let mut progress = rebuild.watch();
        let killing = async {
            let mut kills = 0;
            while let Some(_step) = progress.next().await {
                kills += u64::from(place.database.execute(&kill).unwrap() > 0);
            }
            kills
        };
        let (rebuilt, _) = tokio::join!(in_time("it is rebuilt", rebuild.finished()), killing);
        rebuilt.unwrap();
        let last = append_types(&store, &["b"]).await;
        in_time("the stream goes on", model.wait_for(last)).await.unwrap();
        assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
        assert_eq!(in_memory(&model).await.len() as u64, store.head());
    }
}

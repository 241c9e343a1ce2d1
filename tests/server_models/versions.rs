//! R2: a new version of a read model on a server is built beside the one that serves, and takes its place. And models on demand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use millstream::{
    DurableStream, EventQuery, ExpectedCursor, FailurePolicy, Promotion, Prune, ReadModelError, Reset, Retry,
    ServerModelOptions, StopCause, View, ViewError,
};
use serde::{Deserialize, Serialize};

use crate::common::{eventually, in_time, takes_all};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, in_memory, models, rows};

fn by_hand() -> ServerModelOptions {
    ServerModelOptions::default().promotion(Promotion::ByHand)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_new_version_is_built_beside_and_readers_follow_its_promotion() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let models = models(&store);
    append_types(&store, &["a", "b"]).await;
    let first = models.project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", first.caught_up()).await.unwrap();
    let only_b = Counts {
        query: EventQuery::types(["b"]),
        ..Counts::new(2)
    };
    let second = models.project_with(only_b, &by_hand()).await.unwrap();
    let last = append_types(&store, &["a", "b"]).await;
    in_time("it is at the head", first.wait_for(last)).await.unwrap();
    let waited = in_time("it is known", second.wait_for(last)).await;
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
    let refused = second.rebuild().await;
    assert!(
        matches!(refused, Err(ReadModelError::NotServing { .. })),
        "{refused:?}"
    );
    assert_eq!(rows(&second).await["a"], 2, "readers of both see the first");
    assert!(!second.status().is_serving);
    second.promote().await.unwrap();
    assert!(second.status().is_serving);
    assert_eq!(
        rows(&first).await.get("a"),
        None,
        "readers of both see the second"
    );
    assert_eq!(rows(&second).await["b"], 2);
    let cause = in_time("the first version ends", first.stopped()).await;
    assert!(matches!(cause, Some(StopCause::Deleted)), "{cause:?}");
    let streams = store.streams().await.unwrap();
    let names: Vec<_> = streams.into_iter().map(|stream| stream.name).collect();
    assert_eq!(names, [Some("counts@2".to_owned())]);
    eventually("the schema of the first version is gone", || place.builds() == 1).await;
    let older = models.project(Counts::new(1)).await;
    assert!(
        matches!(older, Err(ReadModelError::OlderVersion { serving: 2, .. })),
        "{older:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_is_promoted_when_it_has_caught_up_though_the_older_program_is_gone() {
    let Some(place) = Place::new() else { return };
    let (gone, store) = (place.store().await, place.store().await);
    append_types(&gone, &["a", "b"]).await;
    let first = models(&gone).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", first.caught_up()).await.unwrap();
    // Its handle stays, and reads what serves, wherever that is kept.
    first.unsubscribe();
    first.stopped().await;
    append_types(&store, &["c"]).await;
    let second = models(&store).project(Counts::new(2)).await.unwrap();
    in_time("it serves", second.caught_up()).await.unwrap();
    assert!(second.status().is_serving);
    let expected = folded(&store, &EventQuery::all()).await;
    assert_eq!(rows(&second).await, expected);
    assert_eq!(rows(&first).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_that_fails_does_not_serve_and_the_older_one_does() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    // More than what counts as close to the head.
    append_types(&store, &["a"]).await;
    append_types(&store, &["b"; 150]).await;
    let first = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", first.caught_up()).await.unwrap();
    let sabotage = Arc::<Sabotage>::default();
    sabotage.is_bad(2);
    let ill = Counts {
        version: 2,
        ..Counts::with(&sabotage)
    };
    let options = ServerModelOptions::default().retry(Retry::never());
    let second = models(&store).project_with(ill, &options).await.unwrap();
    let failed = in_time("it stops", second.caught_up()).await;
    assert!(matches!(failed, Err(ReadModelError::Wait(_))), "{failed:?}");
    assert!(!second.status().is_serving);
    let last = append_types(&store, &["c"]).await;
    in_time("the first one goes on", first.wait_for(last))
        .await
        .unwrap();
    assert_eq!(rows(&second).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_promotion_waits_for_no_transaction_of_the_older_version() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    let sabotage = Arc::<Sabotage>::default();
    let first = models(&store).project(Counts::with(&sabotage)).await.unwrap();
    in_time("it is at the head", first.caught_up()).await.unwrap();
    sabotage.hangs.store(true, Ordering::SeqCst);
    sabotage.is_bad(2);
    append_types(&store, &["b"]).await;
    eventually("it hangs in its transaction", || sabotage.calls().len() > 1).await;
    let second = models(&store).project(Counts::new(2)).await.unwrap();
    in_time("it serves", second.caught_up()).await.unwrap();
    assert_eq!(rows(&first).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_nothing_runs_and_a_catch_up_brings_it_to_the_head() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sabotage = Arc::<Sabotage>::default();
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .transaction_events_max(20);
    let register = async || {
        models(&store)
            .on_demand_with(Counts::with(&sabotage), &options)
            .await
            .unwrap()
    };
    let model = register().await;
    in_time("there is nothing", model.catch_up()).await.unwrap();
    for _ in 0..30 {
        append_types(&store, &["a", "b"]).await;
    }
    assert!(rows(&model).await.is_empty());
    assert!(store.streams().await.unwrap().is_empty() && model.stream().is_none());
    in_time("it is at the head", model.catch_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(model.status().position, 60);
    sabotage.is_bad(62);
    append_types(&store, &["c"]).await;
    append_types(&store, &["d"]).await;
    let failed = in_time("it fails", model.catch_up()).await;
    assert!(
        matches!(
            failed,
            Err(ReadModelError::Apply {
                last_sequence: 62,
                ..
            })
        ),
        "{failed:?}"
    );
    assert_eq!(
        model.status().position,
        61,
        "what came before the batch is applied"
    );
    let active = models(&store).project(Counts::new(1)).await;
    assert!(matches!(active, Err(ReadModelError::Active { .. })), "{active:?}");
    drop(model);
    sabotage.heal();
    let model = register().await;
    let rebuilt = model.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(in_memory(&model).await.len(), 62);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_on_demand_who_registered_last_writes_and_nobody_else() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    append_types(&store, &["a"]).await;
    let earlier = models(&store).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", earlier.catch_up()).await.unwrap();
    let later = models(&other).on_demand(Counts::new(1)).await.unwrap();
    append_types(&store, &["b"]).await;
    let lost = in_time("it is refused", earlier.catch_up()).await;
    assert!(
        matches!(lost, Err(ReadModelError::OwnershipLost { .. })),
        "{lost:?}"
    );
    let lost = in_time("it is refused", earlier.rebuild()).await;
    assert!(
        matches!(lost, Err(ReadModelError::OwnershipLost { .. })),
        "{lost:?}"
    );
    in_time("it is at the head", later.catch_up()).await.unwrap();
    assert_eq!(rows(&earlier).await.len(), 2);
    // A stream takes it from whoever had it on demand.
    drop(earlier);
    let kept = models(&store).project(Counts::new(1)).await.unwrap();
    let last = append_types(&store, &["c"]).await;
    in_time("it is at the head", kept.wait_for(last)).await.unwrap();
    let lost = in_time("it is refused", later.catch_up()).await;
    assert!(
        matches!(lost, Err(ReadModelError::OwnershipLost { .. })),
        "{lost:?}"
    );
}

fn parking() -> ServerModelOptions {
    ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park())
}

/// What it set aside, whoever retries it would apply a second time: the other one has applied it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_stream_whose_build_was_taken_on_demand_ends_and_sets_nothing_aside() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    let kept = models(&store).project_with(Counts::new(1), &parking()).await;
    let kept = kept.unwrap();
    let last = append_types(&store, &["a"]).await;
    in_time("it is at the head", kept.wait_for(last)).await.unwrap();
    let taken = models(&other).on_demand(Counts::new(1)).await.unwrap();
    let last = append_types(&store, &["b"]).await;
    let cause = in_time("it stops", kept.stopped()).await.unwrap();
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause}");
    in_time("it is at the head", taken.wait_for(last)).await.unwrap();
    assert_eq!(store.dead_letters("counts@1").list().count().await, 0);
    let rows = rows(&taken).await;
    assert_eq!((rows["a"], rows["b"]), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_stream_that_another_process_resets_goes_on_and_applies_nothing_twice() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    let kept = models(&store).project_with(Counts::new(1), &parking()).await;
    let kept = kept.unwrap();
    for _ in 0..3 {
        append_types(&store, &["a"]).await;
        let control = other.stream("counts@1").await.unwrap();
        let anywhere = ExpectedCursor::anywhere();
        control.reset(Reset::Beginning, anywhere).await.unwrap();
        let last = append_types(&other, &["a"]).await;
        in_time("it goes on", kept.wait_for(last)).await.unwrap();
    }
    assert_eq!(rows(&kept).await["a"], 6);
    assert_eq!(store.dead_letters("counts@1").list().count().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_a_new_version_serves_behind_its_first_catch_up_and_begins_where_pruning_left_off() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    append_types(&store, &["b"]).await;
    let _ = store.prune(Prune::before(2)).await.unwrap();
    let first = models(&store).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", first.catch_up()).await.unwrap();
    assert_eq!(in_memory(&first).await, [(2, 1)]);
    let pruned = first.rebuild().await;
    assert!(matches!(pruned, Err(ReadModelError::Pruned { .. })), "{pruned:?}");
    let pruned = models(&store).on_demand(Counts::new(2)).await;
    assert!(matches!(pruned, Err(ReadModelError::Pruned { .. })), "{pruned:?}");
    assert_eq!(place.builds(), 1, "what is refused makes nothing");
    let (older, newer) = (
        Counts {
            name: "types",
            query: EventQuery::types(["b"]),
            ..Counts::new(1)
        },
        Counts {
            name: "kinds",
            ..Counts::new(1)
        },
    );
    for projection in [older, newer] {
        let model = models(&store).on_demand(projection).await.unwrap();
        in_time("it is at the head", model.wait_for(2)).await.unwrap();
        assert_eq!(rows(&model).await.len(), 1);
    }
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Newer {
    count: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_views_are_rebuilt_and_their_readers_follow_versions_and_say_what_does_not_decode() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let models = models(&store);
    append_types(&store, &["a", "b", "a"]).await;
    let key = |event: &millstream::EventRecord| Some(event.event_type().to_owned());
    let older = View::<u64>::new("types", 1)
        .key(key)
        .evolve(|count, _| Some(count.unwrap_or(0) + 1));
    let older = models.view(older).await.unwrap();
    in_time("it is at the head", older.caught_up()).await.unwrap();
    let rebuilt = older.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    // The cache of before is not that of the new build.
    let last = append_types(&store, &["a"]).await;
    in_time("the stream goes on", older.wait_for(last)).await.unwrap();
    assert_eq!(older.get("a").await.unwrap(), Some(3));
    let newer = View::<Newer>::new("types", 2).key(key).evolve(|before, _| {
        Some(Newer {
            count: before.map_or(0, |before: Newer| before.count) + 1,
        })
    });
    let newer = models.view_on_demand(newer).await.unwrap();
    let unreadable = newer.get("a").await;
    assert!(
        matches!(
            unreadable,
            Err(ViewError::UnreadableDocument {
                version: 2,
                written_by: 1,
                ..
            })
        ),
        "{unreadable:?}"
    );
    in_time("it serves", newer.catch_up()).await.unwrap();
    assert_eq!(newer.get("a").await.unwrap(), Some(Newer { count: 3 }));
    let unreadable = older.get("a").await;
    assert!(
        matches!(
            unreadable,
            Err(ViewError::UnreadableDocument {
                version: 1,
                written_by: 2,
                ..
            })
        ),
        "{unreadable:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_what_ended_between_a_promotion_and_the_older_stream_is_made_good_on_demand_too() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    let second = models(&store).on_demand(Counts::new(2)).await.unwrap();
    in_time("it is at the head", second.catch_up()).await.unwrap();
    drop(second);
    // What the process left that promoted the second version.
    let older = DurableStream::new("counts@1");
    drop(store.stream_all_durable(&older, takes_all()).await.unwrap());
    assert_eq!(store.streams().await.unwrap().len(), 1);
    let _second = models(&store).on_demand(Counts::new(2)).await.unwrap();
    assert!(store.streams().await.unwrap().is_empty());
}

//! D6 for read models: whoever is refused has taken nothing from whoever keeps the model, in this store or in another one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::StreamExt;
use millstream::{
    ExpectedCursor, FailureCategory, FailurePolicy, InLogOptions, ModelOptions, ModelRequest, Ownership,
    ReadModel, ReadModelError, ReadModels, RequestState, Reset, Retry, StopCause, Store, StreamError,
};

use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, append_types, rows};
use crate::in_log::number;

/// Takes a registration so far that its stream is claimed, and no further.
fn until_claimed<T>(place: &Place, registering: &mut Pin<&mut impl Future<Output = T>>) {
    let mut context = Context::from_waker(Waker::noop());
    let claims = "SELECT count(*) FROM claim";
    while number(&place.path("log.db"), claims) == 0 {
        match registering.as_mut().poll(&mut context) {
            Poll::Pending => {}
            Poll::Ready(_) => panic!("it is registered before its stream is claimed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_of_two_registrations_at_once_in_the_logs_file_the_loser_keeps_its_hands_off_the_claim() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let models = ReadModels::in_log(&store).unwrap();
    let mut first = Box::pin(models.project(Counts::new(1)));
    until_claimed(&place, &mut first.as_mut());
    let second = in_time("the second is answered", models.project(Counts::new(1))).await;
    let first = in_time("the first is answered", first).await;
    let outcomes = [first, second];
    let active = |outcome: &Result<_, ReadModelError>| matches!(outcome, Err(ReadModelError::Active { .. }));
    assert_eq!(
        outcomes.iter().filter(|one| active(one)).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes.iter().filter(|one| one.is_ok()).count(),
        1,
        "{outcomes:?}"
    );
    let others = ReadModels::in_log(&other).unwrap();
    let refused = others.project(Counts::new(1)).await;
    assert!(
        matches!(
            &refused,
            Err(ReadModelError::Stream(StreamError::OwnedElsewhere { .. }))
        ),
        "the winner owns it still: {refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_of_two_registrations_at_once_in_files_the_loser_keeps_its_hands_off_the_claim() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let (models, again) = (place.models(), place.models());
    let mut first = Box::pin(models.project(&store, Counts::new(1)));
    until_claimed(&place, &mut first.as_mut());
    let second = in_time("the second is answered", again.project(&store, Counts::new(1))).await;
    assert!(matches!(second, Err(ReadModelError::Active { .. })), "{second:?}");
    let first = in_time("the first is answered", first).await.unwrap();
    // Registered is registered, too: who opens the build would take it from the stream that keeps it.
    let third = again.project(&store, Counts::new(1)).await;
    assert!(matches!(third, Err(ReadModelError::Active { .. })), "{third:?}");
    let last = append_types(&store, &["a"]).await;
    in_time("the first goes on", first.wait_for(last)).await.unwrap();
    let refused = place.models().project(&other, Counts::new(1)).await;
    assert!(
        matches!(
            &refused,
            Err(ReadModelError::Stream(StreamError::OwnedElsewhere { .. }))
        ),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_gives_up_a_registration_leaves_the_stream_to_the_next_one() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let models = ReadModels::in_log(&store).unwrap();
    {
        let mut first = Box::pin(models.project(Counts::new(1)));
        until_claimed(&place, &mut first.as_mut());
    }
    let _kept = models
        .project(Counts::new(1))
        .await
        .expect("nobody else registers it");
    let refused = ReadModels::in_log(&other).unwrap().project(Counts::new(1)).await;
    assert!(
        matches!(
            &refused,
            Err(ReadModelError::Stream(StreamError::OwnedElsewhere { .. }))
        ),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_take_over_that_is_refused_ends_nobody() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let model = place.models().project(&store, Counts::new(1)).await.unwrap();
    let last = append_types(&store, &["a"]).await;
    model.wait_for(last).await.unwrap();
    let takes_over = ModelOptions::default().ownership(Ownership::TakeOver);
    let of_another_query = Counts::of(&["a"]);
    let refused = place
        .models()
        .project_with(&other, of_another_query, &takes_over)
        .await;
    assert!(
        matches!(refused, Err(ReadModelError::Changed { what: "query", .. })),
        "{refused:?}"
    );
    let key = || FailurePolicy::park_key(|event| Some(event.event_type().to_owned()));
    let broken = takes_over.on_failure(key()).on(FailureCategory::Panic, key());
    let refused = place.models().project_with(&other, Counts::new(1), &broken).await;
    assert!(matches!(refused, Err(ReadModelError::Stream(_))), "{refused:?}");
    let last = append_types(&store, &["a"]).await;
    in_time("the owner goes on", model.wait_for(last)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_take_over_in_the_logs_file_that_is_refused_ends_nobody() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let model = ReadModels::in_log(&store)
        .unwrap()
        .project(Counts::new(1))
        .await
        .unwrap();
    let last = append_types(&store, &["a"]).await;
    model.wait_for(last).await.unwrap();
    let takes_over = InLogOptions::default().ownership(Ownership::TakeOver);
    let others = ReadModels::in_log(&other).unwrap();
    let refused = others.project_with(Counts::of(&["a"]), &takes_over).await;
    assert!(
        matches!(refused, Err(ReadModelError::Changed { what: "query", .. })),
        "{refused:?}"
    );
    let last = append_types(&store, &["a"]).await;
    in_time("the owner goes on", model.wait_for(last)).await.unwrap();
    assert!(
        other.streams().await.unwrap()[0].owner.is_some(),
        "it is owned still"
    );
}

/// A model that sets aside what it cannot apply.
async fn parking(place: &Place, store: &Store) -> ReadModel {
    let parks = ModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let models = place.models();
    models.project_with(store, Counts::new(1), &parks).await.unwrap()
}

/// What it set aside, whoever retries it would apply a second time: the other one has applied it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_stream_whose_build_was_taken_on_demand_ends_and_sets_nothing_aside() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let kept = parking(&place, &store).await;
    let last = append_types(&store, &["a"]).await;
    kept.wait_for(last).await.unwrap();
    let active = place.models().on_demand(&store, Counts::new(1)).await;
    assert!(
        matches!(active, Err(ReadModelError::Active { .. })),
        "the store that keeps it does not take it from itself: {active:?}"
    );
    let taken = place.models().on_demand(&other, Counts::new(1)).await.unwrap();
    let last = append_types(&store, &["b"]).await;
    let cause = in_time("it stops", kept.stopped()).await.unwrap();
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause}");
    taken.wait_for(last).await.unwrap();
    assert_eq!(store.dead_letters("counts@1").list().count().await, 0);
    let rows = rows(&taken).await;
    assert_eq!((rows["a"], rows["b"]), (1, 1));
}

/// What a request came to.
async fn end(models: &ReadModels, number: u64) -> RequestState {
    let end = async {
        loop {
            let request = models.request(number).await.unwrap();
            let state = request.expect("it is kept").state;
            if state.is_over() {
                return state;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("it is over", end).await
}

/// What it would build would take the place of what the other one keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_whoever_has_lost_a_model_does_not_rebuild_it_and_leaves_that_to_the_one_who_has_it() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    append_types(&store, &["a"]).await;
    let earlier = place.models().on_demand(&store, Counts::new(1)).await.unwrap();
    earlier.catch_up().await.unwrap();
    let under_way = earlier.rebuild().await.unwrap();
    let models = place.models();
    let later = models.on_demand(&other, Counts::new(1)).await.unwrap();
    // It was over just before, or is over now.
    let outcome = in_time("it is over", under_way.finished()).await;
    assert!(
        matches!(
            outcome,
            Ok(()) | Err(ReadModelError::Cancelled { .. } | ReadModelError::OwnershipLost { .. })
        ),
        "{outcome:?}"
    );
    let refused = in_time("it is refused", earlier.rebuild()).await;
    assert!(
        matches!(refused, Err(ReadModelError::OwnershipLost { .. })),
        "{refused:?}"
    );
    // Both hear of it, the one that has lost it first.
    for _ in 0..2 {
        let number = models.ask("counts", ModelRequest::Rebuild).await.unwrap();
        assert_eq!(end(&models, number).await, RequestState::Done);
    }
    let last = append_types(&store, &["b"]).await;
    later.wait_for(last).await.unwrap();
    let rows = rows(&later).await;
    assert_eq!((rows["a"], rows["b"]), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_what_a_process_had_begun_that_is_gone_has_failed_when_the_model_is_registered() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    drop(models.on_demand(&store, Counts::new(1)).await.unwrap());
    let list = rusqlite::Connection::open(place.path("views.db")).unwrap();
    let begun = "INSERT INTO request (name, request, state, updated_at) VALUES (?1, 'rebuild', ?2, 0)";
    for (name, state) in [("counts", "begun"), ("counts", "cancelled"), ("other", "begun")] {
        list.execute(begun, [name, state]).unwrap();
    }
    let _again = models.on_demand(&store, Counts::new(1)).await.unwrap();
    for number in [1, 2] {
        let state = end(&models, number).await;
        let RequestState::Failed { error } = state else {
            panic!("{state:?}")
        };
        assert!(error.contains("is gone"), "{error}");
    }
    assert_eq!(
        models.request(3).await.unwrap().unwrap().state,
        RequestState::Begun
    );
}

/// Its claim would go with that of the store from which the model is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_model_that_is_being_registered_here_is_not_taken_on_demand() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let kept = parking(&place, &other).await;
    let standby = tokio::spawn({
        let (models, store) = (place.models(), store.clone());
        let options = ModelOptions::default().ownership(Ownership::Standby);
        async move { models.project_with(&store, Counts::new(1), &options).await }
    });
    let claims = "SELECT count(*) FROM claim";
    eventually("it stands by", || number(&place.path("log.db"), claims) == 2).await;
    let refused = place.models().on_demand(&store, Counts::new(1)).await;
    assert!(
        matches!(refused, Err(ReadModelError::Active { .. })),
        "{refused:?}"
    );
    let last = append_types(&store, &["a"]).await;
    in_time("the owner goes on", kept.wait_for(last)).await.unwrap();
    drop(kept);
    let model = in_time("it is its turn", standby).await.unwrap().unwrap();
    let last = append_types(&store, &["a"]).await;
    in_time("it goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await["a"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_stream_that_another_process_resets_goes_on_and_applies_nothing_twice() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let kept = parking(&place, &store).await;
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

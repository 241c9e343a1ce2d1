//! R2 for views: rebuilds beside what serves, versions, and what happens when the type changed and the version did not.

use std::sync::Arc;

use millstream::{ModelOptions, Promotion, ReadModelError, Retry, View, ViewError};
use serde::{Deserialize, Serialize};

use crate::common::in_time;
use crate::fixture::{Place, accounts, expected, listed, moved, opened};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_has_documents_of_its_own_while_the_view_goes_on() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let documents = models.view(&store, accounts(1, &Arc::default())).await.unwrap();
    for number in 0..200 {
        store
            .append([moved(&format!("account:{}", number % 7), number)])
            .await
            .unwrap();
    }
    documents.caught_up().await.unwrap();
    for round in 0..10 {
        let rebuild = documents.rebuild().await.unwrap();
        let id = format!("account:{}", round % 7);
        for _ in 0..20 {
            let appended = store.append([moved(&id, 1)]).await.unwrap();
            in_time("it is applied", documents.wait_for(appended))
                .await
                .unwrap();
        }
        in_time("it is rebuilt", rebuild.finished()).await.unwrap();
        let appended = store.append([moved(&id, 1)]).await.unwrap();
        in_time("it is applied", documents.wait_for(appended))
            .await
            .unwrap();
        assert_eq!(listed(&documents).await, expected(&store).await);
    }
}

#[tokio::test]
async fn r2_an_index_that_is_added_needs_a_new_version() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    drop(
        models
            .view_on_demand(&store, accounts(1, &Arc::default()))
            .await
            .unwrap(),
    );
    let indexed = |version| accounts(version, &Arc::default()).index("/owner");
    let refused = models.view_on_demand(&store, indexed(1)).await;
    let Err(ReadModelError::Changed { what: "schema", .. }) = refused else {
        panic!("{refused:?}");
    };
    store.append([opened("a", "anna")]).await.unwrap();
    let documents = models.view_on_demand(&store, indexed(2)).await.unwrap();
    documents.catch_up().await.unwrap();
    assert_eq!(documents.get("a").await.unwrap().unwrap().owner, "anna");
}

#[tokio::test]
async fn the_path_of_an_index_is_checked_when_the_view_is_registered() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    for (paths, named) in [(vec!["owner"], "\"owner\""), (vec!["/a", "/a"], "\"/a\"")] {
        let view = paths.into_iter().fold(accounts(1, &Arc::default()), View::index);
        let refused = models.view(&store, view).await;
        let Err(ReadModelError::Refused { name, problem }) = refused else {
            panic!("{refused:?}");
        };
        assert!(name == "account" && problem.contains(named), "{problem}");
    }
    assert!(models.versions().await.unwrap().is_empty());
}

/// An account of another shape.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Richer {
    euros: f64,
}

fn richer(version: u32) -> View<Richer> {
    View::<Richer>::new("account", version)
        .select(millstream::EventQuery::types(["opened", "moved", "closed"]))
        .key(|event| event.tags().next().map(str::to_owned))
        .evolve(|richer, _| Some(richer.unwrap_or(Richer { euros: 0.5 })))
}

#[tokio::test]
async fn r2_what_another_version_wrote_is_told_apart_from_a_version_that_was_not_raised() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let first = models
        .view_on_demand(&store, accounts(1, &Arc::default()))
        .await
        .unwrap();
    store.append([moved("a", 1)]).await.unwrap();
    first.catch_up().await.unwrap();
    // Version 2 is built beside version 1, which serves: its handle reads that.
    let by_hand = ModelOptions::default()
        .promotion(Promotion::ByHand)
        .retry(Retry::never());
    let second = models
        .view_on_demand_with(&store, richer(2), &by_hand)
        .await
        .unwrap();
    let refused = second.get("a").await.unwrap_err();
    let ViewError::UnreadableDocument {
        id,
        version,
        written_by,
        ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((id.as_str(), *version, *written_by), ("a", 2, 1));
    assert!(refused.to_string().contains("promote"), "{refused}");
    second.promote().await.unwrap();
    assert_eq!(second.get("a").await.unwrap(), Some(Richer { euros: 0.5 }));
    // The older handle follows, and says the same the other way round.
    let refused = first.get("a").await.unwrap_err();
    let is_told = matches!(
        refused,
        ViewError::UnreadableDocument {
            version: 1,
            written_by: 2,
            ..
        }
    );
    assert!(is_told, "{refused}");
    drop((first, second));
    // The type changes, and the version does not.
    let changed = View::<Vec<u8>>::new("account", 2)
        .select(millstream::EventQuery::types(["opened", "moved", "closed"]))
        .key(|event| event.tags().next().map(str::to_owned))
        .evolve(|bytes, _| bytes);
    let third = models
        .view_on_demand_with(&store, changed, &by_hand)
        .await
        .unwrap();
    let refused = third.get("a").await.unwrap_err().to_string();
    assert!(refused.contains("raise the version, or rebuild"), "{refused}");
    store.append([moved("a", 1)]).await.unwrap();
    let failed = third.catch_up().await.unwrap_err();
    let ReadModelError::Apply { category, error, .. } = &failed else {
        panic!("{failed}");
    };
    assert_eq!(
        *category,
        millstream::FailureCategory::Error,
        "the event is sound"
    );
    assert!(error.contains("raise the version, or rebuild"), "{error}");
    // Rebuilt, it fits.
    third.rebuild().await.unwrap().finished().await.unwrap();
    assert_eq!(third.get("a").await.unwrap(), None);
    third.catch_up().await.unwrap();
}

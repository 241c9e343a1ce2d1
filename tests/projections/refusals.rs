//! What does not fit is refused, and says what to do.

use millstream::{EventQuery, Prune, ReadModelError, ReadModels, Store};

use crate::fixture::{Counts, Place, append_types, rows};

#[tokio::test]
async fn d7_a_model_of_another_log_or_ahead_of_this_one_is_refused() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a"; 3]).await;
    store.backup_to(place.path("backup.db")).await.unwrap();
    append_types(&store, &["a"; 3]).await;
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    model.caught_up().await.unwrap();
    drop(model);
    store.close().await.unwrap();
    let other = Store::open(place.path("other.db")).unwrap();
    append_types(&other, &["a"; 9]).await;
    let foreign = models.project(&other, Counts::new(1)).await;
    assert!(
        matches!(foreign, Err(ReadModelError::ForeignLog { .. })),
        "{foreign:?}"
    );
    let restored = Store::open(place.path("backup.db")).unwrap();
    let ahead = models.project(&restored, Counts::new(1)).await;
    let expected = matches!(
        ahead,
        Err(ReadModelError::AheadOfLog {
            position: 6,
            head: 3,
            ..
        })
    );
    assert!(expected, "{ahead:?}");
}

#[tokio::test]
async fn a_projection_that_changed_without_a_new_version_is_refused() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    drop(models.project(&store, Counts::new(1)).await.unwrap());
    for (changed, what) in [
        (
            Counts {
                query: EventQuery::types(["a"]),
                ..Counts::new(1)
            },
            "query",
        ),
        (
            Counts {
                schema: "CREATE TABLE other (x)".to_owned(),
                ..Counts::new(1)
            },
            "schema",
        ),
    ] {
        let refused = models.project(&store, changed).await.unwrap_err().to_string();
        assert!(
            refused.contains(what) && refused.contains("give it version 2"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_schema_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    for schema in ["CREATE TABLE counted (", "COMMIT; CREATE TABLE counted (x)"] {
        let broken = Counts {
            schema: schema.to_owned(),
            ..Counts::new(1)
        };
        let refused = models.project(&store, broken).await;
        assert!(
            matches!(refused, Err(ReadModelError::Schema { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn names_and_files_that_make_no_sense_are_refused() {
    let place = Place::new();
    std::fs::write(
        place.path("text.db"),
        "this is no database, and long enough to be looked at",
    )
    .unwrap();
    let text = ReadModels::open(place.path("text.db"));
    assert!(
        matches!(text, Err(ReadModelError::ForeignFile { .. })),
        "{text:?}"
    );
    let store = place.store();
    let log = ReadModels::open(place.path("log.db"));
    assert!(matches!(log, Err(ReadModelError::ForeignFile { .. })), "{log:?}");
    let models = place.models();
    let zero = models.project(&store, Counts::new(0)).await;
    assert!(matches!(zero, Err(ReadModelError::Refused { .. })), "{zero:?}");
    let newer = rusqlite::Connection::open(place.path("views.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    let newer = ReadModels::open(place.path("views.db"));
    assert!(
        matches!(newer, Err(ReadModelError::NewerFormat { found: 99, .. })),
        "{newer:?}"
    );
}

#[tokio::test]
async fn the_first_version_begins_with_what_pruning_left_and_others_are_refused() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    append_types(&store, &["a"; 3]).await;
    append_types(&store, &["a"; 3]).await;
    let _ = store.prune(Prune::before(4)).await.unwrap();
    let model = models.project(&store, Counts::new(1)).await.unwrap();
    model.caught_up().await.unwrap();
    assert_eq!(rows(&model).await["a"], 3);
    let refused = models.project(&store, Counts::new(2)).await;
    assert!(
        matches!(refused, Err(ReadModelError::Pruned { .. })),
        "{refused:?}"
    );
    let refused = model.rebuild().await.unwrap().finished().await;
    assert!(
        matches!(refused, Err(ReadModelError::Pruned { .. })),
        "{refused:?}"
    );
}

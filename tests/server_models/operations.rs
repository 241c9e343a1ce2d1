//! R2: what is asked of a read model on a server from outside, by another process and by the command line.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream::{
    Cancelled, EventQuery, ModelRequest, Promotion, ReadModelError, RequestReport, RequestState, Retry,
    ServerModelOptions, ServerModels,
};
use serde_json::Value;

use crate::common::postgres::with_parameter;
use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, models, rows};

/// What a request came to.
async fn end(models: &ServerModels, number: u64) -> RequestReport {
    let end = async {
        loop {
            let report = models.request(number).await.unwrap();
            let report = report.expect("it is kept");
            if report.state.is_over() {
                return report;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("it is over", end).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_is_asked_for_by_another_process() {
    let Some(place) = Place::new() else { return };
    let (store, elsewhere) = (place.store().await, place.store().await);
    let outside = models(&elsewhere);
    assert_eq!(outside.versions().await.unwrap(), [], "there are no tables yet");
    assert_eq!(outside.requests().await.unwrap(), []);
    let unknown = outside.ask("counts", ModelRequest::Rebuild).await;
    assert!(
        matches!(unknown, Err(ReadModelError::NoSuchModel { .. })),
        "{unknown:?}"
    );
    append_types(&store, &["a", "b", "a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let before = model.schema().await.unwrap();
    let versions = outside.versions().await.unwrap();
    assert_eq!(
        (&*versions[0].name, versions[0].version, versions[0].is_serving),
        ("counts", 1, true)
    );
    assert_eq!((versions[0].position, &versions[0].file), (3, &before));
    place
        .database
        .execute(&format!("UPDATE {before}.counted SET count = 0"))
        .unwrap();
    let number = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    let report = end(&outside, number).await;
    assert_eq!(
        (report.state, report.done, report.total),
        (RequestState::Done, 3, 3)
    );
    assert_ne!(model.schema().await.unwrap(), before);
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    // One that nobody asked for is seen as well, and what was done last is what is told.
    eventually("the rebuild is over here too", || !model.status().is_rebuilding).await;
    in_time("it is rebuilt", model.rebuild().await.unwrap().finished())
        .await
        .unwrap();
    let newest = outside.requests().await.unwrap();
    assert_eq!(newest.len(), 1);
    assert!(newest[0].number > number && newest[0].state == RequestState::Done);
    let unknown = outside.ask("other", ModelRequest::Rebuild).await;
    assert!(
        matches!(unknown, Err(ReadModelError::NoSuchModel { .. })),
        "{unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_what_was_asked_before_is_done_when_the_model_is_kept_and_what_was_taken_back_is_not() {
    let Some(place) = Place::new() else { return };
    let (store, elsewhere) = (place.store().await, place.store().await);
    let outside = models(&elsewhere);
    append_types(&store, &["a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let before = model.schema().await.unwrap();
    drop(model);
    store.close().await.unwrap();
    let taken_back = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    let cancelled = outside.cancel_request(taken_back).await.unwrap();
    assert_eq!(cancelled, Cancelled::Unbegun);
    let cancelled = outside.cancel_request(taken_back).await.unwrap();
    assert_eq!(cancelled, Cancelled::TooLate);
    let left = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    let store = place.store().await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    assert_eq!(end(&outside, left).await.state, RequestState::Done);
    let after = model.schema().await.unwrap();
    assert_ne!(after, before);
    let report = outside.request(taken_back).await.unwrap().unwrap();
    assert!(matches!(report.state, RequestState::Failed { .. }), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_that_waits_is_promoted_when_another_process_asks() {
    let Some(place) = Place::new() else { return };
    let (store, elsewhere) = (place.store().await, place.store().await);
    let (inside, outside) = (models(&store), models(&elsewhere));
    append_types(&store, &["a"; 150]).await;
    // Kept by another process, which is not asked for that.
    let _first = outside.project(Counts::new(1)).await.unwrap();
    let sabotage = Arc::<Sabotage>::default();
    sabotage.is_bad(1);
    let ill = Counts {
        version: 2,
        ..Counts::with(&sabotage)
    };
    let options = ServerModelOptions::default()
        .promotion(Promotion::ByHand)
        .retry(Retry::never());
    let second = inside.project_with(ill.clone(), &options).await.unwrap();
    in_time("it fails", second.stopped()).await;
    let number = outside.ask("counts", ModelRequest::Promote).await.unwrap();
    let report = end(&outside, number).await;
    let RequestState::Failed { error } = report.state else {
        panic!("{report:?}")
    };
    assert!(error.contains("150 events behind"), "{error}");
    drop(second);
    sabotage.heal();
    let second = inside.project_with(ill, &options).await.unwrap();
    in_time("it is at the head", second.catch_up()).await.unwrap();
    assert!(!second.status().is_serving);
    let number = outside.ask("counts", ModelRequest::Promote).await.unwrap();
    assert_eq!(end(&outside, number).await.state, RequestState::Done);
    assert!(second.status().is_serving);
    let versions = outside.versions().await.unwrap();
    assert_eq!((versions.len(), versions[0].version), (1, 2), "{versions:?}");
}

/// A rebuild that has no end is under way.
async fn endless(place: &Place) -> (millstream::Store, millstream::ServerModel, Arc<Sabotage>) {
    let store = place.store().await;
    append_types(&store, &["a", "b"]).await;
    let sabotage = Arc::<Sabotage>::default();
    let options = ServerModelOptions::default().retry(Retry::never());
    let models = models(&store);
    let model = models
        .project_with(Counts::with(&sabotage), &options)
        .await
        .unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    sabotage.hangs.store(true, Ordering::SeqCst);
    sabotage.is_bad(2);
    (store, model, sabotage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_rebuild_is_given_up_when_another_process_says_so_and_fails_with_its_reason() {
    let Some(place) = Place::new() else { return };
    let elsewhere = place.store().await;
    let outside = models(&elsewhere);
    let (store, model, sabotage) = endless(&place).await;
    let before = model.schema().await.unwrap();
    let calls = sabotage.calls().len();
    let number = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    eventually("it is under way", || sabotage.calls().len() > calls).await;
    let is_seen = async {
        while outside.request(number).await.unwrap().unwrap().total != 2 {
            tokio::task::yield_now().await;
        }
    };
    in_time("how far it is is seen", is_seen).await;
    let report = outside.request(number).await.unwrap().unwrap();
    assert_eq!(report.state, RequestState::Begun);
    let refused = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    let report = end(&outside, refused).await;
    assert!(
        matches!(&report.state, RequestState::Failed { error } if error.contains("rebuil")),
        "{report:?}"
    );
    assert_eq!(outside.cancel_request(number).await.unwrap(), Cancelled::Told);
    let report = end(&outside, number).await;
    assert!(
        matches!(&report.state, RequestState::Failed { error } if error.contains("cancelled")),
        "{report:?}"
    );
    assert_eq!(model.schema().await.unwrap(), before);
    eventually("nothing is left of it", || place.builds() == 1).await;
    // What goes wrong is told, whoever asked; and what is dropped was given up.
    sabotage.hangs.store(false, Ordering::SeqCst);
    let number = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
    let report = end(&outside, number).await;
    assert!(
        matches!(&report.state, RequestState::Failed { error } if error.contains("told to fail")),
        "{report:?}"
    );
    sabotage.hangs.store(true, Ordering::SeqCst);
    drop(model.rebuild().await.unwrap());
    let newest = &outside.requests().await.unwrap()[0];
    let report = end(&outside, newest.number).await;
    assert!(
        matches!(&report.state, RequestState::Failed { error } if error.contains("cancelled")),
        "{report:?}"
    );
    drop(model);
    store.close().await.unwrap();
}

/// Runs the command line, while the program of the test goes on.
async fn command(place: &Place, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    let address = with_parameter(&place.database.address, "schema", &place.database.schema);
    command
        .env_remove("MILLSTREAM_MODELS")
        .env("MILLSTREAM_DB", address);
    command.arg("models").args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = run.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_command_line_lists_rebuilds_and_gives_up_what_is_on_a_server() {
    let Some(place) = Place::new() else { return };
    if !place.database.address.contains("://") {
        // The parameter for the schema is one of URLs.
        return;
    }
    let (store, model, sabotage) = endless(&place).await;
    let (code, out, err) = command(&place, &["rebuild", "other"]).await;
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    assert!(err.contains("`models list`"), "{err}");
    let (code, _, err) = command(&place, &["cancel", "counts"]).await;
    assert!(code == Some(1) && err.contains("nothing is under way"), "{err}");
    let calls = sabotage.calls().len();
    let (code, out, err) = command(&place, &["rebuild", "counts", "--no-wait"]).await;
    assert_eq!(code, Some(0), "{out} {err}");
    eventually("it is under way", || sabotage.calls().len() > calls).await;
    let (_, out, _) = command(&place, &["list", "--json"]).await;
    let listed: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        listed
            .iter()
            .any(|line| line["is_serving"] == true && line["position"] == 2),
        "{out}"
    );
    assert_eq!(listed[0]["request"]["state"], "under way", "{out}");
    let (code, out, err) = command(&place, &["cancel", "counts"]).await;
    assert_eq!(code, Some(0), "{out} {err}");
    eventually("nothing is left of it", || place.builds() == 1).await;
    sabotage.heal();
    let (code, out, err) = command(&place, &["rebuild", "counts"]).await;
    assert_eq!(code, Some(0), "{out} {err}");
    assert!(out.contains("was rebuilt from 2 events"), "{out}");
    drop(model);
    store.close().await.unwrap();
    let (code, _, err) = command(&place, &["rebuild", "counts", "--begin-within", "1"]).await;
    assert!(code == Some(6) && err.contains("no request is left"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_whoever_has_lost_a_model_leaves_what_is_asked_to_the_one_who_has_it() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    append_types(&store, &["a"]).await;
    let _earlier = models(&store).on_demand(Counts::new(1)).await.unwrap();
    let outside = models(&other);
    let later = outside.on_demand(Counts::new(1)).await.unwrap();
    // Both hear of it, the one that has lost it first.
    for _ in 0..2 {
        let number = outside.ask("counts", ModelRequest::Rebuild).await.unwrap();
        assert_eq!(end(&outside, number).await.state, RequestState::Done);
    }
    let last = append_types(&store, &["b"]).await;
    in_time("it goes on", later.wait_for(last)).await.unwrap();
    assert_eq!(rows(&later).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_what_a_process_had_begun_that_is_gone_has_failed_when_the_model_is_registered() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let models = models(&store);
    drop(models.on_demand(Counts::new(1)).await.unwrap());
    let begun = "INSERT INTO millstream_model_request (name, request, state, updated_at)
        VALUES ('counts', 'rebuild', 'begun', 0), ('counts', 'rebuild', 'cancelled', 0), ('other', 'rebuild', 'begun', 0)";
    place.database.execute(begun).unwrap();
    let _again = models.on_demand(Counts::new(1)).await.unwrap();
    for number in [1, 2] {
        let report = end(&models, number).await;
        let RequestState::Failed { error } = report.state else {
            panic!("{report:?}")
        };
        assert!(error.contains("is gone"), "{error}");
    }
    let other = models.request(3).await.unwrap().unwrap();
    assert_eq!(other.state, RequestState::Begun);
}

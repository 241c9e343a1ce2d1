//! R1, R2 for read models in the log's own file: rows, position and cursor are one; what is removed is built anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::internals::{FaultPoint, with_faults};
use millstream::{
    DurableStream, EventQuery, InLogError, InLogModel, InLogOptions, NewEvent, ReadModelError, ReadModels,
    Reset, StopCause, Store,
};
use rusqlite::Connection;

use crate::common::{in_time, takes_all};
use crate::fixture::{Counts, Place, append_types, folded};

/// What the rows hold.
pub(crate) async fn rows(model: &InLogModel) -> BTreeMap<String, u64> {
    let read = |connection: &Connection| {
        let mut statement = connection.prepare("SELECT type, count FROM counted")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        rows.collect::<rusqlite::Result<BTreeMap<String, u64>>>()
    };
    model.read(read).await.unwrap()
}

/// One number out of the log's file, asked from outside.
pub(crate) fn number(log: &Path, sql: &str) -> i64 {
    let connection = Connection::open(log).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

const POSITION: &str = "SELECT position FROM millstream_model WHERE name = 'counts'";
const CURSOR: &str = "SELECT position FROM cursor WHERE name = 'counts@1'";
const TABLES: &str = "SELECT count(*) FROM sqlite_schema WHERE name IN ('counted', 'seen')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_rows_position_and_cursor_are_one_transaction_in_the_logs_file() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b"]).await;
    let model = ReadModels::in_log(&store)
        .unwrap()
        .project(Counts::new(1))
        .await
        .unwrap();
    let last = append_types(&store, &["a"]).await;
    in_time("the model has it", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    let log = place.path("log.db");
    assert_eq!((number(&log, POSITION), number(&log, CURSOR)), (3, 3));
    let status = model.status();
    assert_eq!((status.position, status.lag, status.version), (3, 0, 1));
    assert_eq!(model.stream().name(), Some("counts@1"));
    assert!(!place.path("views.db").exists(), "there is one file");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_it_goes_on_after_a_restart_and_applies_nothing_twice() {
    let place = Place::new();
    for round in 1..=3 {
        let store = place.store();
        append_types(&store, &["a", "b"]).await;
        let projection = Counts::new(1);
        let calls = Arc::clone(&projection.sabotage);
        let models = ReadModels::in_log(&store).unwrap();
        let model = models.project(projection).await.unwrap();
        let last = append_types(&store, &["c"]).await;
        in_time("the model has it", model.wait_for(last)).await.unwrap();
        assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
        let first = calls.calls.lock().unwrap()[0].0;
        assert_eq!(first, 3 * (round - 1) + 1, "it begins behind what it has");
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catching_up_takes_many_batches_per_transaction_and_no_more_than_the_limit() {
    let place = Place::new();
    let steps = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&steps);
    let store = with_faults(Store::builder(), move |point| {
        if point == FaultPoint::InModel {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        false
    });
    let store = store.open(place.path("log.db")).unwrap();
    for _ in 0..100 {
        append_types(&store, &["a"]).await;
    }
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    let options = InLogOptions::default()
        .budget(day)
        .transaction_within(day)
        .transaction_events_max(10);
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project_with(Counts::new(1), &options).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await["a"], 100);
    assert_eq!(steps.load(Ordering::SeqCst), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_is_removed_and_built_anew_from_the_log() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b"]).await;
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    // By hand, so that it is seen that the rows are new.
    let log = place.path("log.db");
    Connection::open(&log)
        .unwrap()
        .execute("UPDATE counted SET count = 70", [])
        .unwrap();
    models.remove("counts", 1).await.unwrap();
    let cause = in_time("its stream stops", model.stopped()).await;
    assert!(matches!(cause, StopCause::Deleted), "{cause}");
    assert_eq!(number(&log, TABLES), 0);
    assert_eq!(number(&log, "SELECT count(*) FROM millstream_model_object"), 0);
    let again = models.remove("counts", 1).await;
    assert!(
        matches!(&again, Err(ReadModelError::NoSuchModel { name }) if name == "counts@1"),
        "{again:?}"
    );
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_version_with_names_of_its_own_stands_beside_the_older_one() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b"]).await;
    let models = ReadModels::in_log(&store).unwrap();
    let older = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", older.caught_up()).await.unwrap();
    let same_names = models.project(Counts::new(2)).await;
    let is_taken = matches!(
        &same_names,
        Err(ReadModelError::InLog { version: 2, source: InLogError::NameTaken { object }, .. }) if object == "counted"
    );
    assert!(is_taken, "{same_names:?}");
    assert_eq!(
        number(&place.path("log.db"), "SELECT count(*) FROM millstream_model"),
        1
    );
    let newer = Counts {
        schema: "CREATE VIEW counted_2 AS SELECT type, count(*) AS count FROM counts_2 GROUP BY type;
                 CREATE TABLE counts_2 (sequence INTEGER PRIMARY KEY, type TEXT NOT NULL);
                 CREATE INDEX counts_2_by_type ON counts_2 (type);
                 CREATE TABLE noted (sequence INTEGER PRIMARY KEY AUTOINCREMENT);
                 CREATE TRIGGER counts_2_noted AFTER INSERT ON counts_2
                 BEGIN INSERT INTO noted VALUES (new.sequence); END;"
            .to_owned(),
        sql: Some("INSERT INTO counts_2 VALUES (?1, ?2)"),
        ..Counts::new(2)
    };
    let model = models.project(newer).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    let read = |connection: &Connection| {
        connection.query_row(
            "SELECT (SELECT sum(count) FROM counted_2), (SELECT count(*) FROM noted), (SELECT sum(count) FROM counted)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    };
    assert_eq!(model.read(read).await.unwrap(), (2_i64, 2_i64, 2_i64));
    drop(older);
    models.remove("counts", 1).await.unwrap();
    let last = append_types(&store, &["c"]).await;
    in_time("the model has it", model.wait_for(last)).await.unwrap();
    models.remove("counts", 2).await.unwrap();
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'count%' OR name LIKE 'noted%'";
    assert_eq!(number(&place.path("log.db"), left), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_cursor_that_is_reset_or_deleted_applies_nothing_twice() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b"]).await;
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    let control = store.stream("counts@1").await.unwrap();
    control.reset(Reset::To(0), 2).await.unwrap();
    let last = append_types(&store, &["c"]).await;
    in_time("the model has it", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    control.delete().await.unwrap();
    in_time("its stream stops", model.stopped()).await;
    append_types(&store, &["d"]).await;
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_cursor_that_something_else_left_under_the_name_is_not_believed() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b"]).await;
    let durable = DurableStream::new("counts@1");
    let stray = store.stream_all_durable(&durable, takes_all()).await.unwrap();
    in_time("it catches up", stray.caught_up()).await.unwrap();
    drop(stray);
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    model.unsubscribe();
    model.stopped().await;
    drop(model);
    append_types(&store, &["c"]).await;
    let stray = store.stream_all_durable(&durable, takes_all()).await.unwrap();
    in_time("it catches up", stray.caught_up()).await.unwrap();
    drop(stray);
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_a_model_that_selects_little_begins_at_its_cursor_and_survives_a_prune_up_to_there() {
    let place = Place::new();
    {
        let store = place.store();
        append_types(&store, &["a"]).await;
        let models = ReadModels::in_log(&store).unwrap();
        let model = models.project(Counts::of(&["a"])).await.unwrap();
        for _ in 0..20 {
            append_types(&store, &["b"]).await;
        }
        in_time("it catches up", model.caught_up()).await.unwrap();
        assert_eq!(number(&place.path("log.db"), POSITION), 1);
        store.close().await.unwrap();
    }
    let store = place.store();
    let pruned = store.prune(15).await.unwrap();
    assert_eq!(pruned.pruned_through, 14);
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(Counts::of(&["a"])).await.unwrap();
    assert_eq!(model.stream().started_after(), 21);
    let last = append_types(&store, &["a"]).await;
    in_time("the model has it", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await["a"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_and_says_what_to_do() {
    let place = Place::new();
    let memory = Store::in_memory().unwrap();
    let refused = ReadModels::in_log(&memory).err().unwrap();
    assert!(matches!(refused, ReadModelError::NoLogFile), "{refused:?}");
    assert!(refused.to_string().contains("ReadModels::open"), "{refused}");

    let store = place.store();
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(Counts::new(1)).await.unwrap();
    let again = models.project(Counts::new(1)).await;
    assert!(
        matches!(again, Err(ReadModelError::Active { version: 1, .. })),
        "{again:?}"
    );
    drop(model);
    let changed = models.project(Counts::of(&["a"])).await;
    let is_query = matches!(changed, Err(ReadModelError::Changed { what: "query", .. }));
    assert!(is_query, "{changed:?}");
    let model = models.project(Counts::new(1)).await.unwrap();
    drop(model);
    let broken = Counts {
        schema: "CREATE TABLE half (a); CREATE TABEL other (b)".to_owned(),
        ..Counts::new(3)
    };
    let broken = models.project(broken).await;
    assert!(
        matches!(&broken, Err(ReadModelError::Schema { version: 3, error, .. }) if error.contains("TABEL")),
        "{broken:?}"
    );
    let half = "SELECT count(*) FROM sqlite_schema WHERE name = 'half'";
    assert_eq!(number(&place.path("log.db"), half), 0, "all of it or nothing");
    store.close().await.unwrap();
    let closed = models.project(Counts::new(1)).await;
    assert!(closed.is_err(), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_the_logs_file_and_one_in_a_file_of_its_own_are_kept_at_once() {
    let place = Place::new();
    let store = place.store();
    let inside = ReadModels::in_log(&store).unwrap();
    let inside = inside.project(Counts::new(1)).await.unwrap();
    // A name is used in one place: the streams of both are called after it.
    let outside = Counts {
        name: "counts_outside",
        ..Counts::new(1)
    };
    let beside = place.models().project(&store, outside).await.unwrap();
    let appends = (0..50).map(|number| store.append([NewEvent::new("a", number)]));
    futures::future::try_join_all(appends).await.unwrap();
    in_time("all is applied", store.settled()).await.unwrap();
    in_time("it serves", beside.caught_up()).await.unwrap();
    let expected = folded(&store, &EventQuery::all()).await;
    assert_eq!(rows(&inside).await, expected);
    assert_eq!(crate::fixture::rows(&beside).await, expected);
    let verified = store.verify().await.unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
}

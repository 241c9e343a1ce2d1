//! R2 and D6: what stands between those who rebuild, promote and remove builds of one model at once, and what none of them may take from
//! another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults};
use millstream::{Promotion, ReadModelError, ServerModelOptions, Store};
use tokio_postgres::{Client, NoTls};

use crate::common::postgres::{new_schema, on_connection, shared_cluster};
use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, append_types, models, rows};
use crate::proxy::{Mode, Proxy};

/// A connection of the test's own, with names as the log has them.
async fn client(place: &Place) -> Client {
    let (client, connection) = tokio_postgres::connect(&place.database.address, NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let path = format!("SET search_path TO {}", place.database.schema);
    client.batch_execute(&path).await.unwrap();
    client
}

fn is_lost<T>(outcome: &Result<T, ReadModelError>) -> bool {
    matches!(outcome, Err(ReadModelError::OwnershipLost { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_what_was_seen_as_retired_is_not_removed_when_it_is_not_any_more() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    append_types(&store, &["a"]).await;
    let earlier = models(&store).on_demand(Counts::new(1)).await.unwrap();
    let later = models(&other).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", later.catch_up()).await.unwrap();
    let rebuilt = later.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    let schema = &place.database.schema;
    let listed = |build: i64, state: &str| {
        format!(
            "INSERT INTO millstream_model_build (build, name, version, namespace, state, created_at)
             OVERRIDING SYSTEM VALUE VALUES ({build}, 'other', {build}, '{schema}_{build}', '{state}', 0)"
        )
    };
    let prepare = format!(
        "CREATE SCHEMA {schema}_1001; CREATE SCHEMA {schema}_1002; CREATE SCHEMA {schema}_1003; {}; {}; {}",
        listed(1001, "retired"),
        listed(1002, "retired"),
        listed(1003, "retired")
    );
    place.database.execute(&prepare).unwrap();
    let list = client(&place).await;
    let lock = format!("SELECT pg_advisory_lock(hashtext('millstream-model'), hashtext('{schema}'))");
    list.batch_execute(&lock).await.unwrap();
    // It finds that something else serves than before, and so removes what is retired: it has seen all three, and waits for the list.
    assert_eq!(rows(&earlier).await.len(), 1);
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND classid = hashtext('millstream-model')::oid AND objid = hashtext('{schema}')::oid"
    );
    eventually("it waits for the list", || place.database.number(&waits) == 1).await;
    // One is wanted after all, and the name of another one is given to a build that is new.
    let change = format!(
        "UPDATE millstream_model_build SET state = 'beside' WHERE build = 1001;
         DELETE FROM millstream_model_build WHERE build = 1002;
         INSERT INTO millstream_model_build (name, version, namespace, state, created_at)
             VALUES ('new', 1, '{schema}_1002', 'serving', 0)"
    );
    list.batch_execute(&change).await.unwrap();
    list.batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    let is_there = |build: i64| {
        let sql = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}_{build}'");
        place.database.number(&sql) == 1
    };
    eventually("what is retired still is removed", || !is_there(1003)).await;
    assert!(is_there(1001), "it is wanted");
    assert!(is_there(1002), "it is another one's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_schema_of_a_build_has_a_name_that_none_had_before() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let schema = &place.database.schema;
    // Somebody else's.
    let taken = format!("CREATE SCHEMA {schema}_counts_1_1");
    place.database.execute(&taken).unwrap();
    let mut seen = vec![format!("{schema}_counts_1_1")];
    for _ in 0..3 {
        let model = models(&store).on_demand(Counts::new(1)).await.unwrap();
        seen.push(model.schema().await.unwrap());
        drop(model);
        models(&store).remove("counts", 1).await.unwrap();
    }
    let expected = [1, 2, 3, 4].map(|build| format!("{schema}_counts_1_{build}"));
    assert_eq!(seen, expected);
    assert_eq!(place.builds(), 1, "what is somebody else's stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_an_older_version_neither_rebuilds_nor_replaces_a_newer_one() {
    let Some(place) = Place::new() else { return };
    let (store, other) = (place.store().await, place.store().await);
    append_types(&store, &["a"]).await;
    let first = models(&store).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", first.catch_up()).await.unwrap();
    let second = models(&other).on_demand(Counts::new(2)).await.unwrap();
    in_time("it serves", second.catch_up()).await.unwrap();
    let serving = second.schema().await.unwrap();
    assert!(first.status().is_serving, "it has heard nothing of that");
    let refused = first.rebuild().await;
    assert!(
        matches!(
            refused,
            Err(ReadModelError::OlderVersion {
                version: 1,
                serving: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(first.schema().await.unwrap(), serving);
    // One that is beside, and caught up, when a newer one comes to serve.
    let by_hand = ServerModelOptions::default().promotion(Promotion::ByHand);
    let third = models(&store).on_demand_with(Counts::new(3), &by_hand).await;
    let third = third.unwrap();
    let newer = "UPDATE millstream_model_build SET version = 4 WHERE version = 2";
    assert_eq!(place.database.execute(newer).unwrap(), 1);
    let refused = in_time("it is refused", third.promote()).await;
    assert!(
        matches!(
            refused,
            Err(ReadModelError::OlderVersion {
                version: 3,
                serving: 4,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(third.schema().await.unwrap(), serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_lost_the_model_does_not_end_the_rebuild_of_who_has_it() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let (tries, waits) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, held) = (Arc::clone(&tries), Arc::clone(&waits));
    let builder = with_faults(place.database.builder(), move |point| {
        // The answer is that the server is busy, until the test goes on.
        point == FaultPoint::BeforeSwitch && {
            counted.fetch_add(1, Ordering::SeqCst);
            held.load(Ordering::SeqCst)
        }
    });
    let other = builder.connect(&*place.database.address).await.unwrap();
    append_types(&store, &["a"]).await;
    let earlier = models(&store).on_demand(Counts::new(1)).await.unwrap();
    let later = models(&other).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", later.catch_up()).await.unwrap();
    let rebuild = later.rebuild().await.unwrap();
    eventually("its last step has begun", || tries.load(Ordering::SeqCst) > 0).await;
    let lost = earlier.rebuild().await;
    assert!(is_lost(&lost), "{lost:?}");
    waits.store(false, Ordering::SeqCst);
    in_time("it is rebuilt", rebuild.finished()).await.unwrap();
    assert_eq!(rows(&later).await["a"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_lost_the_stream_begins_no_rebuild_and_ends_none() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    // Another store has taken over, and builds beside what serves.
    let taken = format!(
        "UPDATE cursor SET epoch = epoch + 1000 WHERE name = 'counts@1';
         INSERT INTO millstream_model_build (name, version, namespace, state, created_at)
             VALUES ('counts', 1, '{}_beside', 'beside', 0)",
        place.database.schema
    );
    place.database.execute(&taken).unwrap();
    let lost = model.rebuild().await;
    assert!(is_lost(&lost), "{lost:?}");
    let beside = "SELECT count(*) FROM millstream_model_build WHERE state = 'beside'";
    assert_eq!(place.database.number(beside), 1);
    assert_eq!(place.builds(), 1, "what is refused makes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_process_that_stops_in_the_last_step_lets_go_of_the_stream_soon() {
    let Some(place) = Place::new() else { return };
    let (address, schema) = (place.database.address.clone(), place.database.schema.clone());
    let (tries, let_go) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, seen) = (Arc::clone(&tries), Arc::clone(&let_go));
    let builder = with_faults(place.database.builder(), move |point| {
        let is_first = point == FaultPoint::BeforeSwitch && counted.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first {
            // It does nothing more until the server has ended its session, which would take half a minute by itself.
            let held = format!(
                "SELECT count(*) FROM pg_locks WHERE relation = to_regclass('{schema}.cursor') AND mode = 'RowShareLock'"
            );
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(15) && !seen.load(Ordering::SeqCst) {
                let held = held.clone();
                let locks: i64 = on_connection(&address, async move |client| {
                    client.query_one(&held, &[]).await.unwrap().get(0)
                });
                seen.store(locks == 0, Ordering::SeqCst);
            }
        }
        is_first
    });
    let store = builder.connect(&*place.database.address).await.unwrap();
    append_types(&store, &["a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let rebuilt = model.rebuild().await.unwrap().finished();
    in_time("it is rebuilt", rebuilt).await.unwrap();
    assert!(
        let_go.load(Ordering::SeqCst),
        "it held the stream's row all the time"
    );
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_last_step_waits_for_a_server_that_says_nothing_no_longer_than_the_limit() {
    let Some(cluster) = shared_cluster() else { return };
    let (proxy, schema) = (Arc::new(Proxy::to(cluster.port()).await), new_schema());
    let silent = Arc::clone(&proxy);
    let builder = Store::builder()
        .schema(&schema)
        .server_limit(Duration::from_secs(1));
    let builder = with_faults(builder, move |point| {
        // The commit is not answered, and nothing behind it.
        if point == FaultPoint::BeforeSwitch {
            silent.set(Mode::Holds);
        }
        false
    });
    let store = builder.connect(proxy.address()).await.unwrap();
    append_types(&store, &["a"]).await;
    let model = models(&store).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.catch_up()).await.unwrap();
    let rebuild = model.rebuild().await.unwrap();
    let failed = in_time("it is given up", rebuild.finished()).await;
    assert!(matches!(failed, Err(ReadModelError::Storage(_))), "{failed:?}");
    proxy.set(Mode::Passes);
    assert_eq!(rows(&model).await["a"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_stream_does_not_wait_until_a_rebuild_that_failed_is_removed() {
    let Some(place) = Place::new() else { return };
    let tries = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&tries);
    let builder = place.database.builder().server_limit(Duration::from_secs(5));
    let builder = with_faults(builder, move |point| {
        // The answer is that the server is busy, each time that the step would come to its end.
        let is_last_step = point == FaultPoint::BeforeSwitch;
        counted.fetch_add(u64::from(is_last_step), Ordering::SeqCst);
        is_last_step
    });
    let store = builder.connect(&*place.database.address).await.unwrap();
    append_types(&store, &["a"]).await;
    let model = models(&store).project(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    let rebuild = model.rebuild().await.unwrap();
    eventually("its last step has begun", || tries.load(Ordering::SeqCst) > 0).await;
    // From here on neither that step nor what removes the build gets the list.
    let list = client(&place).await;
    let lock = format!(
        "SELECT pg_advisory_lock(hashtext('millstream-model'), hashtext('{}'))",
        place.database.schema
    );
    list.batch_execute(&lock).await.unwrap();
    let last = append_types(&store, &["b"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert!(model.status().is_rebuilding, "what was built is not removed yet");
    list.batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    let failed = in_time("it is given up", rebuild.finished()).await;
    assert!(matches!(failed, Err(ReadModelError::Storage(_))), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_list_while_one_waits_for_a_transaction_of_the_earlier_owner() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    drop(models(&store).on_demand(Counts::new(1)).await.unwrap());
    let earlier = client(&place).await;
    let lock = "BEGIN; SELECT FROM millstream_model FOR UPDATE";
    earlier.batch_execute(lock).await.unwrap();
    let opened = tokio::spawn({
        let store = store.clone();
        async move { models(&store).on_demand(Counts::new(1)).await }
    });
    let other = Counts {
        name: "others",
        ..Counts::new(1)
    };
    for _ in 0..3 {
        let other = models(&store).on_demand(other.clone()).await.unwrap();
        in_time("it is at the head", other.catch_up()).await.unwrap();
    }
    assert!(!opened.is_finished());
    earlier.batch_execute("COMMIT").await.unwrap();
    let model = in_time("it is opened", opened).await.unwrap().unwrap();
    in_time("it is at the head", model.catch_up()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_whose_tables_are_locked_is_not_removed_and_the_list_is_free_soon() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    append_types(&store, &["a"]).await;
    let model = models(&store).on_demand(Counts::new(1)).await.unwrap();
    in_time("it is at the head", model.catch_up()).await.unwrap();
    let locked = format!("BEGIN; SELECT FROM \"{}\".counted", model.schema().await.unwrap());
    drop(model);
    let reader = client(&place).await;
    reader.batch_execute(&locked).await.unwrap();
    let refused = in_time("it is refused", models(&store).remove("counts", 1)).await;
    assert!(
        matches!(&refused, Err(ReadModelError::Storage(error)) if error.is_busy()),
        "{refused:?}"
    );
    let model = models(&store).on_demand(Counts::new(1)).await.unwrap();
    assert_eq!(rows(&model).await.len(), 1);
    drop(model);
    reader.batch_execute("COMMIT").await.unwrap();
    in_time("it is removed", models(&store).remove("counts", 1))
        .await
        .unwrap();
    assert_eq!(place.builds(), 0);
}

//! R1 when connections are lost: whatever the server had heard by then, nothing is applied twice, nothing is left out, and an outage is no
//! failure of the projection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::internals::{FaultPoint, with_faults};
use millstream::{EventQuery, FailurePolicy, Retry, ServerModel, ServerModelOptions, Store};

use crate::common::postgres::{Cluster, cluster, new_schema, on_connection, shared_cluster};
use crate::common::{eventually, in_time};
use crate::fixture::{Counts, Place, Sabotage, append_types, folded, in_memory, models, rows};
use crate::proxy::{Mode, Proxy};

/// Fails loudly on the first failure that is the projection's.
fn strict() -> ServerModelOptions {
    ServerModelOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::stop())
}

/// A model whose server is reached through a proxy, and a store that appends past it.
struct Fixture {
    proxy: Proxy,
    beside: Store,
    store: Store,
    model: ServerModel,
    sabotage: Arc<Sabotage>,
}

impl Fixture {
    async fn new(cluster: &Cluster) -> Self {
        let (proxy, schema) = (Proxy::to(cluster.port()).await, new_schema());
        let open = async |address: String| {
            let builder = Store::builder()
                .schema(&schema)
                .server_limit(Duration::from_secs(10));
            builder.connect(address).await.expect("opens")
        };
        let (store, beside) = (open(proxy.address()).await, open(cluster.address()).await);
        let sabotage = Arc::<Sabotage>::default();
        let model = models(&store)
            .project_with(Counts::with(&sabotage), &strict())
            .await;
        let model = model.expect("it is registered");
        append_types(&beside, &["a"]).await;
        in_time("it is at the head", model.wait_for(1))
            .await
            .expect("it runs");
        Self {
            proxy,
            beside,
            store,
            model,
            sabotage,
        }
    }

    async fn is_right(&self) {
        let last = append_types(&self.beside, &["b"]).await;
        in_time("it goes on", self.model.wait_for(last))
            .await
            .expect("it runs");
        let expected = folded(&self.beside, &EventQuery::all()).await;
        assert_eq!(rows(&self.model).await, expected);
        let sequences = in_memory(&self.model)
            .await
            .into_iter()
            .map(|(sequence, _)| sequence);
        assert_eq!(sequences.collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_commit_whose_answer_is_lost_is_not_repeated_and_memory_begins_anew() {
    let Some(cluster) = shared_cluster() else { return };
    let fixture = Fixture::new(&cluster).await;
    for round in 0..3 {
        // Nothing else commits through the proxy soon.
        fixture.proxy.set(Mode::LosesAnswer { and_closes: false });
        let last = append_types(&fixture.beside, &["a", "a"]).await;
        fixture.proxy.is(Mode::Passes).await;
        in_time("it is found out", fixture.model.wait_for(last))
            .await
            .unwrap();
        let next = append_types(&fixture.beside, &["a"]).await;
        in_time("it goes on", fixture.model.wait_for(next)).await.unwrap();
        let (sequence, counted) = in_memory(&fixture.model).await.pop().unwrap();
        assert_eq!(
            (sequence, counted),
            (next, 1),
            "round {round}: what it knew may have been wrong"
        );
    }
    fixture.is_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_commit_that_never_arrives_is_made_again() {
    let Some(cluster) = shared_cluster() else { return };
    let fixture = Fixture::new(&cluster).await;
    for _ in 0..3 {
        fixture.proxy.set(Mode::LosesCommit);
        append_types(&fixture.beside, &["a"]).await;
        fixture.proxy.is(Mode::Passes).await;
        fixture.is_right().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_an_outage_is_waited_for_and_is_nobodys_failure() {
    let Some(cluster) = shared_cluster() else { return };
    let fixture = Fixture::new(&cluster).await;
    for _ in 0..3 {
        fixture.proxy.set(Mode::IsClosed);
        append_types(&fixture.beside, &["a"]).await;
        tokio::task::yield_now().await;
        fixture.proxy.set(Mode::Passes);
        fixture.is_right().await;
    }
    let _ = &fixture.store;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_session_killed_at_any_moment_repeats_and_loses_nothing() {
    let Some(place) = Place::new() else { return };
    let store = place.store().await;
    let sabotage = Arc::<Sabotage>::default();
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &strict())
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let killer = std::thread::spawn({
        let (address, schema) = (place.database.address.clone(), place.database.schema.clone());
        let is_over = Arc::clone(&is_over);
        move || {
            let mut killed = 0;
            // Whoever has the model's row, whatever it is at; and now and then whoever has not.
            let kill = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'millstream' AND pid <> pg_backend_pid()
                 AND (state LIKE 'idle in transaction%' OR state = 'active')
                 AND query NOT LIKE '%millstream_log%'
                 AND pid IN (SELECT pid FROM pg_locks WHERE relation = to_regclass('{schema}_counts_1_1.seen'))"
            );
            while killed < 20 && !is_over.load(Ordering::SeqCst) {
                let kill = kill.clone();
                killed += on_connection(&address, async move |client| {
                    client
                        .query_one(&kill, &[])
                        .await
                        .expect("kills")
                        .get::<_, i64>(0)
                });
            }
            killed
        }
    });
    let mut last = 0;
    for _ in 0..300 {
        last = append_types(&store, &["a", "b", "a"]).await;
    }
    in_time("it is at the head", model.wait_for(last)).await.unwrap();
    is_over.store(true, Ordering::SeqCst);
    assert!(killer.join().unwrap() > 2, "sessions were killed");
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(in_memory(&model).await.len() as u64, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_server_that_crashes_loses_rows_and_position_together() {
    let Some(cluster) = cluster() else { return };
    let fixture = Fixture::new(&cluster).await;
    for round in 0..4 {
        for _ in 0..20 {
            append_types(&fixture.beside, &["a"]).await;
        }
        // Of some rounds the newest is under way, of the others it was acknowledged.
        if round % 2 == 0 {
            let last = append_types(&fixture.beside, &["a"]).await;
            in_time("it is applied", fixture.model.wait_for(last))
                .await
                .unwrap();
        }
        cluster.crash();
        cluster.start_again();
        fixture.is_right().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_transaction_that_fails_before_its_commit_is_made_again() {
    let Some(place) = Place::new() else { return };
    let fails = Arc::new(AtomicBool::new(true));
    let builder = with_faults(place.database.builder(), {
        let fails = Arc::clone(&fails);
        move |point| point == FaultPoint::BeforeModel && fails.swap(false, Ordering::SeqCst)
    });
    let store = builder.connect(&*place.database.address).await.unwrap();
    let sabotage = Arc::<Sabotage>::default();
    let model = models(&store)
        .project_with(Counts::with(&sabotage), &strict())
        .await
        .unwrap();
    let last = append_types(&store, &["a"]).await;
    in_time("it is applied", model.wait_for(last)).await.unwrap();
    assert_eq!(sabotage.calls(), [(1, 1), (1, 1)]);
    assert_eq!(in_memory(&model).await, [(1, 1)]);
    assert_eq!(sabotage.rollbacks.load(Ordering::SeqCst), 1);
}

/// What one reads on is lost too, and the next read makes another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_connection_was_lost_reads_on_another_one() {
    let Some(cluster) = shared_cluster() else { return };
    let fixture = Fixture::new(&cluster).await;
    assert_eq!(rows(&fixture.model).await["a"], 1);
    fixture.proxy.set(Mode::IsClosed);
    eventually("reads fail meanwhile", || true).await;
    let failed = fixture
        .model
        .read(async |tx| tx.query("SELECT 1", &[]).await)
        .await;
    assert!(failed.is_err(), "{failed:?}");
    fixture.proxy.set(Mode::Passes);
    assert_eq!(rows(&fixture.model).await["a"], 1);
    assert!(!fixture.sabotage.calls().is_empty());
}

//! The connection is lost, the server stops, somebody holds the log: nothing is lost, nothing is doubled, nothing hangs, and what is
//! said is what is known.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use millstream::{AppendError, DurableStream, EventQuery, StorageError, Store, StoreBuilder};

use crate::common::postgres::{Cluster, cluster, new_schema, on_connection, shared_cluster};
use crate::common::{Recorder, append, events, eventually, in_time, log, sequences};
use crate::proxy::{Mode, Proxy};

/// A store that speaks to its server through a proxy.
struct Fixture {
    cluster: Arc<Cluster>,
    proxy: Proxy,
    schema: String,
}

impl Fixture {
    async fn new() -> Option<Self> {
        Some(Self::at(shared_cluster()?).await)
    }

    /// With a server that only this test has.
    async fn alone() -> Option<Self> {
        Some(Self::at(Arc::new(cluster()?)).await)
    }

    async fn at(cluster: Arc<Cluster>) -> Self {
        Self {
            proxy: Proxy::to(cluster.port()).await,
            schema: new_schema(),
            cluster,
        }
    }

    async fn open(&self, options: impl FnOnce(StoreBuilder) -> StoreBuilder) -> Store {
        let builder = options(Store::builder().schema(&self.schema));
        builder.connect(self.proxy.address()).await.expect("opens")
    }

    /// A store that does without the proxy.
    async fn beside(&self) -> Store {
        let builder = Store::builder().schema(&self.schema);
        builder.connect(self.cluster.address()).await.expect("opens")
    }
}

fn storage(outcome: Result<millstream::Appended, AppendError>) -> StorageError {
    match outcome {
        Err(AppendError::Storage(error)) => error,
        outcome => panic!("the storage was to fail: {outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_an_append_that_succeeded() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let store = fixture.open(|builder| builder).await;
    let recorder = Recorder::new();
    let _stream = store.stream_all(recorder.handler()).await.unwrap();
    append(&store, "a", 1).await;
    for round in 0..3 {
        fixture.proxy.set(Mode::LosesAnswer { and_closes: false });
        let appended = in_time("it is found out", store.append(events("a", 2))).await;
        assert_eq!(appended.unwrap().first_sequence, 2 + 2 * round);
        fixture.proxy.is(Mode::Passes).await;
    }
    assert_eq!(append(&store, "a", 1).await, (8, 8));
    store.settled().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=8).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrives_leaves_no_trace_and_may_be_tried_again() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let store = fixture.open(|builder| builder).await;
    append(&store, "a", 1).await;
    fixture.proxy.set(Mode::LosesCommit);
    let error = storage(in_time("it fails", store.append(events("lost", 2))).await);
    assert!(error.is_retryable() && !error.is_outcome_unknown(), "{error}");
    assert_eq!(store.head(), 1);
    assert_eq!(append(&store, "a", 1).await, (2, 2));
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_can_find_out_is_said_to_be_unknown() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let limit = Duration::from_millis(500);
    let store = fixture.open(|builder| builder.server_limit(limit)).await;
    let recorder = Recorder::new();
    let _stream = store.stream_all(recorder.handler()).await.unwrap();
    append(&store, "a", 1).await;
    fixture.proxy.set(Mode::LosesAnswer { and_closes: true });
    let error = storage(in_time("it fails", store.append(events("a", 2))).await);
    assert!(error.is_outcome_unknown() && !error.is_retryable(), "{error}");
    let told = error.to_string();
    assert!(told.contains("127.0.0.1") && told.contains("commit"), "{told}");
    assert!(
        !told.contains("secret") && !format!("{error:?}").contains("secret"),
        "{told}"
    );
    let refused = storage(in_time("it fails", store.append(events("refused", 1))).await);
    assert!(refused.is_retryable(), "nothing of it was begun: {refused}");
    fixture.proxy.set(Mode::Passes);
    // It was committed, and is delivered once, like what comes after it.
    in_time("the stream goes on", recorder.batches(2)).await;
    assert_eq!(append(&store, "a", 1).await, (4, 4));
    store.settled().await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_and_starts_loses_nothing() {
    let Some(fixture) = Fixture::alone().await else {
        return;
    };
    let store = fixture.open(|builder| builder.window_bytes(0)).await;
    let recorder = Recorder::new();
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    append(&store, "a", 3).await;
    for round in 0..2 {
        match round {
            0 => fixture.cluster.stop(),
            _ => fixture.cluster.crash(),
        }
        let appending = {
            let store = store.clone();
            tokio::spawn(async move { store.append(events("a", 2)).await })
        };
        fixture.cluster.start_again();
        in_time("the append waits for the server", appending)
            .await
            .unwrap()
            .expect("it was not begun before the server was back");
        append(&store, "a", 1).await;
    }
    in_time("the stream goes on", stream.caught_up()).await.unwrap();
    assert_eq!(recorder.sequences(), (1..=9).collect::<Vec<_>>());
    eventually("its cursor is stored", || stream.status().cursor == Some(9)).await;
    assert_eq!(
        sequences(&log(&store, &EventQuery::all()).await),
        (1..=9).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let store = fixture.open(|builder| builder.window_bytes(0)).await;
    let (here, elsewhere) = (Recorder::new(), Recorder::new());
    let beside = fixture.beside().await;
    let _here = store.stream_all(here.handler()).await.unwrap();
    let _elsewhere = beside.stream_all(elsewhere.handler()).await.unwrap();
    // There is something to deliver until the last cut.
    let is_cut = Cell::new(false);
    let appends = async {
        let (mut committed, mut calls) = (0, 0);
        while calls < 60 || !is_cut.get() {
            calls += 1;
            match store.append(events("a", 3)).await {
                Ok(appended) => committed += appended.committed_count,
                Err(AppendError::Storage(error)) => assert!(error.is_retryable(), "{error}"),
                Err(error) => panic!("{error}"),
            }
        }
        committed
    };
    let cuts = async {
        for _ in 0..12 {
            let seen = here.deliveries().len();
            in_time("something is delivered", here.until(|all| all.len() > seen)).await;
            fixture.proxy.set(Mode::IsClosed);
            fixture.proxy.set(Mode::Passes);
            fixture.proxy.set(Mode::LosesAnswer { and_closes: false });
        }
        is_cut.set(true);
    };
    let (committed, ()) = futures::join!(in_time("all are answered", appends), cuts);
    let head = store.query(&EventQuery::all()).await.unwrap().head;
    assert_eq!(
        head, committed as u64,
        "what was said to have failed is not there, and all else is"
    );
    let all: Vec<u64> = (1..=head).collect();
    for recorder in [&here, &elsewhere] {
        in_time(
            "all is delivered",
            recorder.until(|seen| seen.len() as u64 * 3 >= head),
        )
        .await;
        assert_eq!(recorder.sequences(), all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_moves_is_given_up() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let limit = Duration::from_millis(200);
    let store = fixture.open(|builder| builder.server_limit(limit)).await;
    append(&store, "a", 1).await;
    fixture.proxy.set(Mode::Holds);
    let error = storage(in_time("it fails", store.append(events("lost", 1))).await);
    assert!(error.is_retryable(), "{error}");
    fixture.proxy.set(Mode::Passes);
    let again = async {
        while let Err(error) = store.append(events("a", 1)).await {
            assert!(storage(Err(error)).is_retryable());
        }
    };
    in_time("it goes on", again).await;
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_log_makes_others_wait_and_not_for_ever() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let limit = Duration::from_millis(300);
    let impatient = fixture.open(|builder| builder.server_limit(limit)).await;
    let patient = fixture.beside().await;
    append(&patient, "a", 1).await;
    let (hold, held) = tokio::sync::oneshot::channel::<()>();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (address, schema) = (fixture.cluster.address(), fixture.schema.clone());
    let holder = std::thread::spawn(move || {
        on_connection(&address, async move |client| {
            let lock = format!("BEGIN; SELECT FROM {schema}.millstream_log FOR UPDATE");
            client.batch_execute(&lock).await.expect("holds the log");
            hold.send(()).expect("the test waits");
            // Idle in its transaction, until the test has seen enough.
            let _ = released.await;
            client.batch_execute("ROLLBACK").await.expect("lets go");
        });
    });
    held.await.unwrap();
    let refused = join_all((0..3).map(|_| impatient.append(events("refused", 1))));
    for outcome in in_time("they fail", refused).await {
        let error = storage(outcome);
        assert!(error.is_busy() && error.is_retryable(), "{error}");
    }
    let waiting = {
        let patient = patient.clone();
        tokio::spawn(async move { patient.append(events("a", 1)).await })
    };
    assert_eq!(
        sequences(&log(&impatient, &EventQuery::all()).await),
        [1],
        "who reads does not wait"
    );
    release.send(()).unwrap();
    holder.join().unwrap();
    let appended = in_time("it goes on", waiting).await.unwrap().unwrap();
    assert_eq!(appended.first_sequence, 2);
    assert_eq!(append(&impatient, "a", 1).await, (3, 3));
}

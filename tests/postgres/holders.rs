//! Foreign sessions that hold something, and a server that stays away, while streams run: no loss, no repetition beyond D3, no hang.

use std::time::Duration;

use millstream::{AppendError, Checkpoint, DurableStream, EventStream, Ownership, Store, StreamState};
use tokio::sync::oneshot;

use crate::common::postgres::{Database, cluster, database, new_schema, on_connection};
use crate::common::{Recorder, append, events, eventually, in_time};
use crate::proxy::{Mode, Proxy};

/// Appends until the server is in the way, and says how many events were committed until then.
async fn append_until_refused(store: &Store) -> (u64, millstream::StorageError) {
    let mut committed = 0;
    let appending = async {
        loop {
            match store.append(events("a", 1)).await {
                Ok(_) => committed += 1,
                Err(AppendError::Storage(error)) => return error,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let error = in_time("an append is refused", appending).await;
    (committed, error)
}

/// Appends an event as often as it takes, and says its sequence.
async fn append_patiently(store: &Store) -> u64 {
    let appending = async {
        loop {
            match store.append(events("a", 1)).await {
                Ok(appended) => return appended.first_sequence,
                Err(AppendError::Storage(error)) => assert!(error.is_retryable(), "{error}"),
                Err(error) => panic!("{error}"),
            }
        }
    };
    in_time("it is appended", appending).await
}

/// A session that does this in a transaction, and is idle in it until it is let go.
fn hold(database: &Database, sql: &str) -> (oneshot::Receiver<()>, impl FnOnce() + use<>) {
    let (held, is_held) = oneshot::channel();
    let (let_go, is_let_go) = oneshot::channel::<()>();
    let sql = format!("SET search_path TO {}; BEGIN; {sql}", database.schema);
    let address = database.address.clone();
    let holder = std::thread::spawn(move || {
        on_connection(&address, async move |client| {
            client.batch_execute(&sql).await.expect("it is held");
            held.send(()).expect("the test waits");
            // A test that fails lets go, too.
            let _ = is_let_go.await;
            client.batch_execute("ROLLBACK").await.expect("lets go");
        });
    });
    let release = move || {
        let_go.send(()).expect("it is held");
        holder.join().expect("the holder ends in order");
    };
    (is_held, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_cursor_delays_appends_that_come_with_it_and_takes_none_along() {
    let Some(database) = database() else { return };
    let limit = Duration::from_millis(300);
    let builder = database.builder().server_limit(limit);
    let store = builder.connect(&database.address).await.unwrap();
    let (ledger, live) = (Recorder::new(), Recorder::new());
    let _live = store.stream_all(live.handler()).await.unwrap();
    let name = DurableStream::new("ledger").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, ledger.handler()).await.unwrap();
    append(&store, "a", 1).await;
    in_time("its cursor is stored", stream.wait_for(1)).await.unwrap();
    let (held, let_go) = hold(&database, "SELECT FROM cursor WHERE name = 'ledger' FOR UPDATE");
    held.await.unwrap();
    append(&store, "a", 1).await;
    in_time("it is handled", ledger.batches(2)).await;
    append(&store, "a", 1).await;
    assert_eq!(stream.status().cursor, Some(1), "it could not be moved");
    let_go();
    let last = append(&store, "a", 1).await.1;
    assert_eq!(last, 4);
    in_time("the stream goes on", stream.wait_for(last))
        .await
        .unwrap();
    let all: Vec<u64> = (1..=last).collect();
    assert_eq!(ledger.sequences(), all);
    in_time("the other one, too", live.batches(all.len())).await;
    assert_eq!(live.sequences(), all);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_claims_delays_a_registration_and_not_for_ever() {
    let Some(database) = database() else { return };
    let limit = Duration::from_millis(300);
    let builder = database.builder().server_limit(limit);
    let store = builder.connect(&database.address).await.unwrap();
    let (held, let_go) = hold(&database, "LOCK TABLE claim IN ACCESS EXCLUSIVE MODE");
    held.await.unwrap();
    let (name, recorder) = (DurableStream::new("ledger"), Recorder::new());
    let refused = in_time(
        "it is answered",
        store.stream_all_durable(&name, recorder.handler()),
    )
    .await;
    let text = refused.err().map(|error| error.to_string());
    assert!(
        text.is_some_and(|text| text.contains("another session")),
        "it says why"
    );
    // What is asked of the claims meanwhile may take along an append that comes with it.
    assert_eq!(append_patiently(&store).await, 1);
    let_go();
    assert_eq!(append_patiently(&store).await, 2);
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    append(&store, "a", 1).await;
    in_time("it runs", stream.wait_for(3)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3]);
}

const STREAMS: [&str; 3] = ["ledger", "mails", "stock"];
/// How many batches of a stream may come again.
const UNSTORED_MAX: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_while_streams_run_and_stand_by_costs_nothing_but_time() {
    let Some(cluster) = cluster() else { return };
    let schema = new_schema();
    let open = async || {
        let builder = Store::builder()
            .schema(&schema)
            .server_limit(Duration::from_millis(700));
        builder.connect(cluster.address()).await.expect("opens")
    };
    let stores = [open().await, open().await];
    let recorders = STREAMS.map(|_| Recorder::new());
    let mut streams: Vec<EventStream> = Vec::new();
    for store in &stores {
        for (name, recorder) in STREAMS.iter().zip(&recorders) {
            let checkpoint = Checkpoint::Every {
                batches: UNSTORED_MAX,
                within: Duration::from_millis(20),
            };
            let durable = DurableStream::new(*name).checkpoint(checkpoint);
            let durable = durable.ownership(Ownership::Standby);
            streams.push(
                store
                    .stream_all_durable(&durable, recorder.handler())
                    .await
                    .unwrap(),
            );
        }
    }
    let mut committed = 0;
    for _ in 0..10 {
        committed = append(&stores[0], "a", 1).await.1;
    }
    for recorder in &recorders {
        in_time("it is handled", recorder.batches(10)).await;
    }
    // A stream that cannot store its cursor for long enough stops loudly, as it should.
    for name in STREAMS {
        let stored = stores[0].stream(name).await.unwrap();
        in_time("its cursor is stored", stored.wait_for(committed))
            .await
            .unwrap();
    }
    cluster.stop();
    // Each of them waits for the server as long as it is told to: together that takes seconds.
    for store in [&stores[0], &stores[1], &stores[0], &stores[1]] {
        let (none, error) = append_until_refused(store).await;
        assert_eq!(none, 0);
        assert!(error.is_retryable() && !error.is_outcome_unknown(), "{error}");
    }
    cluster.start_again();
    for store in &stores {
        let sequence = append_patiently(store).await;
        assert_eq!(sequence, committed + 1, "what was refused is not there");
        committed = sequence;
    }
    for (name, recorder) in STREAMS.iter().zip(&recorders) {
        let has_all = |seen: &[crate::common::Delivery]| seen.iter().any(|one| one.last == committed);
        let handled = tokio::time::timeout(Duration::from_secs(25), recorder.until(has_all)).await;
        let states: Vec<_> = streams.iter().map(EventStream::status).collect();
        assert!(handled.is_ok(), "{name} is not handled: {states:#?}");
        check(name, &recorder.sequences(), committed);
    }
    for name in STREAMS {
        let stored = stores[0].stream(name).await.unwrap();
        in_time("its cursor is stored", stored.wait_for(committed))
            .await
            .unwrap();
    }
    eventually("nobody has stopped", || {
        streams.iter().all(|stream| stream.status().last_error.is_none())
    })
    .await;
}

/// Everything came, in order; what came again was not yet stored.
fn check(name: &str, sequences: &[u64], head: u64) {
    let mut newest: u64 = 0;
    for &sequence in sequences {
        let repeats = (newest + 1).saturating_sub(sequence);
        let is_next = sequence <= newest + 1 && repeats <= u64::from(UNSTORED_MAX);
        assert!(
            is_next,
            "{name}: {sequence} came after {newest}, of {sequences:?}"
        );
        newest = newest.max(sequence);
    }
    assert_eq!(newest, head, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_is_back_first_when_a_server_starts_again_takes_no_stream_from_its_owner() {
    let Some(cluster) = cluster() else { return };
    let (proxy, schema) = (Proxy::to(cluster.port()).await, new_schema());
    let open = async |address| Store::builder().schema(&schema).connect(address).await.unwrap();
    let (late, early) = (open(proxy.address()).await, open(cluster.address()).await);
    let name = DurableStream::new("ledger").ownership(Ownership::Standby);
    let (handled, others) = (Recorder::new(), Recorder::new());
    let stream = late.stream_all_durable(&name, handled.handler()).await.unwrap();
    let waiting = early.stream_all_durable(&name, others.handler()).await.unwrap();
    let first = append(&late, "a", 1).await.1;
    in_time("it is handled", stream.wait_for(first)).await.unwrap();
    proxy.set(Mode::IsClosed);
    cluster.stop();
    cluster.start_again();
    let beats = || {
        let sql = format!("SELECT coalesce(sum(beats), 0)::bigint FROM {schema}.beat");
        on_connection(&cluster.address(), async move |client| {
            let row = client.query_one(&sql, &[]).await.expect("it is there");
            row.get::<_, i64>(0)
        })
    };
    let before = beats();
    // The other one is cut off. The first two come with the session.
    eventually("the early one has looked twice", || beats() >= before + 4).await;
    proxy.set(Mode::Passes);
    append_patiently(&late).await;
    let last = append_patiently(&early).await;
    in_time("its owner goes on", stream.wait_for(last)).await.unwrap();
    assert!(
        matches!(waiting.status().state, StreamState::Standby),
        "{:?}",
        waiting.status()
    );
    assert_eq!(
        (handled.sequences(), others.sequences()),
        ((1..=last).collect(), vec![])
    );
}

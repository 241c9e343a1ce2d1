//! Owners whose connection is lost by which they are seen to live.

use std::sync::Arc;
use std::time::Duration;

use millstream::{Checkpoint, DurableStream, EventStream, Ownership, StopCause, Store, StreamState};
use tokio::sync::Semaphore;

use crate::common::postgres::{Cluster, cluster, new_schema, on_connection, shared_cluster};
use crate::common::{Recorder, append, in_time};
use crate::proxy::{Mode, Proxy};

/// The sessions by which stores are seen to live.
async fn presences(cluster: &Cluster, but: &[i32]) -> Vec<i32> {
    let known = but.to_vec();
    on_connection(&cluster.address(), async move |client| {
        let sql =
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted";
        let rows = client.query(sql, &[]).await.expect("locks are shown");
        let pids = rows.iter().map(|row| row.get(0));
        pids.filter(|pid| !known.contains(pid)).collect()
    })
}

async fn stands_by(store: &Store, name: &str, recorder: &Recorder) -> EventStream {
    let durable = DurableStream::new(name).ownership(Ownership::Standby);
    store
        .stream_all_durable(&durable, recorder.handler())
        .await
        .expect("it is registered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_was_lost_for_a_moment_keeps_what_nobody_took_over() {
    let Some(cluster) = cluster() else { return };
    let schema = new_schema();
    let open = async |poll| {
        let builder = Store::builder()
            .schema(&schema)
            .poll_interval(Duration::from_millis(poll));
        builder.connect(cluster.address()).await.expect("opens")
    };
    // The other one looks more often, and so finds the first one gone before that is back.
    let (first, other) = (open(1_000).await, open(10).await);
    let [ledger, mails, of_other] = [Recorder::new(), Recorder::new(), Recorder::new()];
    let _ledger = stands_by(&first, "ledger", &ledger).await;
    let of_first = presences(&cluster, &[]).await;
    assert_eq!(of_first.len(), 1, "one session for a store");
    let owned = stands_by(&other, "mails", &of_other).await;
    in_time("it is owned", owned.owned()).await.unwrap();
    let mine = stands_by(&first, "mails", &mails).await;
    let taken_over = stands_by(&other, "ledger", &Recorder::new()).await;
    let of_other = presences(&cluster, &of_first).await;
    for _ in 0..3 {
        let there = async {
            loop {
                let found = presences(&cluster, &of_other).await;
                if !found.is_empty() {
                    return found;
                }
            }
        };
        let lost = in_time("the first one is back", there).await;
        on_connection(&cluster.address(), async move |client| {
            for pid in lost {
                let end = "SELECT pg_terminate_backend($1)";
                client.execute(end, &[&pid]).await.expect("it is ended");
            }
        });
        append(&first, "a", 1).await;
    }
    // Whether it took the ledger over or not, the first one still stands by for the mails.
    assert!(matches!(mine.status().state, StreamState::Standby));
    drop((owned, taken_over));
    other.close().await.unwrap();
    in_time("the first takes over", mine.owned()).await.unwrap();
    let last = append(&first, "a", 1).await;
    in_time("it is handled", mine.wait_for(last.1)).await.unwrap();
    assert_eq!(mails.sequences().last(), Some(&last.1));
    first.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_was_cut_off_while_another_one_took_over_moves_no_cursor() {
    let Some(cluster) = shared_cluster() else { return };
    let (proxy, schema) = (Proxy::to(cluster.port()).await, new_schema());
    // It does not look for what others do, so that it writes before it hears of them.
    let never = Store::builder().poll_interval(Duration::from_secs(3_600));
    let cut_off = never.schema(&schema).connect(proxy.address()).await.unwrap();
    let winner = Store::builder().schema(&schema).connect(cluster.address());
    let winner = winner.await.unwrap();
    let name = DurableStream::new("ledger").checkpoint(Checkpoint::Strict);
    let (lost, gate) = (Recorder::new(), Arc::new(Semaphore::new(2)));
    let stream = cut_off
        .stream_all_durable(&name, lost.gated(&gate))
        .await
        .unwrap();
    for _ in 0..5 {
        append(&cut_off, "a", 1).await;
    }
    in_time("two are stored", stream.wait_for(2)).await.unwrap();
    proxy.set(Mode::Holds);
    let (name, won) = (name.ownership(Ownership::TakeOver), Recorder::new());
    let owner = winner.stream_all_durable(&name, won.handler()).await.unwrap();
    in_time("all are stored", owner.wait_for(5)).await.unwrap();
    gate.add_permits(100);
    in_time("the third is handled", lost.batches(3)).await;
    proxy.set(Mode::Passes);
    let cause = in_time("it stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert_eq!(
        (lost.sequences(), won.sequences()),
        (vec![1, 2, 3], vec![3, 4, 5])
    );
    let stored = on_connection(&cluster.address(), async move |client| {
        let sql = format!("SELECT position FROM {schema}.cursor WHERE name = 'ledger'");
        client
            .query_one(&sql, &[])
            .await
            .expect("there is a row")
            .get::<_, i64>(0)
    });
    assert_eq!(stored, 5, "what it handled last moved no cursor back");
}

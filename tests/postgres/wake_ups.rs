//! What one process commits another one is told at once; and when it cannot be told, it looks.

use std::time::Duration;

use millstream::Store;

use crate::common::postgres::{Database, cluster, database, on_connection};
use crate::common::{Recorder, append, in_time};

const AN_HOUR: Duration = Duration::from_secs(3_600);

/// A store that does not look for news, so that it has to be told.
async fn that_never_looks(database: &Database) -> Store {
    let builder = database.builder().poll_interval(AN_HOUR);
    builder.connect(&database.address).await.expect("opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_store_commits_another_one_is_told() {
    let Some(database) = database() else { return };
    let (one, other) = (
        that_never_looks(&database).await,
        that_never_looks(&database).await,
    );
    let recorder = Recorder::new();
    let _stream = other.stream_all(recorder.handler()).await.unwrap();
    for round in 1..=20 {
        append(&one, "a", 2).await;
        in_time("the other one is told", recorder.batches(round)).await;
    }
    assert_eq!(recorder.sequences(), (1..=40).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_ups_come_again_when_their_connections_were_killed() {
    let Some(cluster) = cluster() else { return };
    let address = cluster.address();
    let open = async |poll_interval| {
        let builder = Store::builder().poll_interval(poll_interval);
        builder.connect(&address).await.expect("opens")
    };
    let (one, other) = (open(AN_HOUR).await, open(AN_HOUR).await);
    let looks = open(Duration::from_millis(20)).await;
    let (told, found) = (Recorder::new(), Recorder::new());
    let _told = other.stream_all(told.handler()).await.unwrap();
    let _found = looks.stream_all(found.handler()).await.unwrap();
    append(&one, "a", 1).await;
    in_time("the other one is told", told.batches(1)).await;
    for round in 2..=4 {
        let killed = on_connection(&address, async |client| {
            let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name = 'millstream' AND (query LIKE 'NOTIFY%' OR query LIKE 'LISTEN%'
                    OR query LIKE '%pg_backend_pid%' OR query LIKE '%WHERE sequence > $1 ORDER BY sequence LIMIT $2')";
            client.query_one(kill, &[]).await.expect("kills").get::<_, i64>(0)
        });
        assert!(killed > 0, "there were connections for wake-ups");
        append(&one, "a", 1).await;
        // Whoever looks does without; whoever is told hears of it when it listens again.
        in_time("who looks finds it", found.batches(round)).await;
        in_time("the other one is told", told.batches(round)).await;
    }
    assert_eq!(told.sequences(), [1, 2, 3, 4]);
    assert_eq!(found.sequences(), [1, 2, 3, 4]);
}

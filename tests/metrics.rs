//! What a recorder is told: run with `cargo test --features metrics --test metrics`.

use std::path::Path;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, DurableStream, EventBatch, EventQuery, FailurePolicy, HandleStream, NewEvent, Projection,
    ReadModels, Retry, Store,
};

/// Takes every number but 2.
fn handler() -> HandleStream {
    let handle = HandleStream::new(|batch: EventBatch| async move {
        let is_bad = batch.iter().any(|event| event.payload().as_str() == "2");
        if is_bad { Err("it is 2") } else { Ok(()) }
    });
    handle.retry(Retry::never())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorder_is_told_what_the_log_and_its_streams_do() {
    let recorded = PrometheusBuilder::new().install_recorder().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let builder = Store::builder().poll_interval(Duration::from_millis(5));
    let store = builder.open(folder.path().join("log.db")).unwrap();
    let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let durable = store.stream_all_durable(&ledger, handler()).await.unwrap();
    let live = store.stream_all(handler()).await.unwrap();
    store.append([NewEvent::new("number", 1)]).await.unwrap();
    live.caught_up().await.unwrap();
    live.unsubscribe();
    live.stopped().await;
    store.append([NewEvent::new("number", 2)]).await.unwrap();
    store
        .append([NewEvent::new("number", 3), NewEvent::new("number", 4)])
        .await
        .unwrap();
    durable.caught_up().await.unwrap();
    let expected = [
        "millstream_head 4",
        "millstream_committed_events_total 4",
        "millstream_stream_calls_total{stream=\"ledger\",outcome=\"handled\"} 2",
        "millstream_stream_calls_total{stream=\"ledger\",outcome=\"failed\"} 1",
        "millstream_stream_handled_events_total{stream=\"ledger\"} 3",
        "millstream_stream_call_seconds_count{stream=\"ledger\"} 3",
        "millstream_stream_delay_seconds_count{stream=\"ledger\"} 3",
        "millstream_stream_set_aside_total{stream=\"ledger\"} 1",
        "millstream_stream_dead_letters{stream=\"ledger\"} 1",
        "millstream_stream_skipped_letters{stream=\"ledger\"} 0",
        "millstream_stream_position{stream=\"ledger\"} 4",
        "millstream_stream_lag_events{stream=\"ledger\"} 0",
        "millstream_stream_lag_seconds{stream=\"ledger\"} 0",
        "millstream_stream_halted{stream=\"ledger\"} 0",
        "millstream_stream_calls_total{stream=\"\",outcome=\"handled\"} 1",
    ];
    until_told(&recorded, "all of it", |lines| {
        expected.iter().all(|line| lines.contains(line)) && {
            let letter = value(
                lines,
                "millstream_stream_oldest_letter_seconds{stream=\"ledger\"}",
            );
            letter.is_some_and(|seconds| seconds > 0.0)
        }
    })
    .await;
    let text = recorded.render();
    // Registrations and dead letters may share a group with an append, or have one of their own.
    for name in [
        "millstream_commit_group_requests_count",
        "millstream_commit_group_seconds_count",
        "millstream_cursor_store_seconds_count",
        "millstream_window_bytes",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} in\n{text}"
        );
    }
    let lines: Vec<&str> = text.lines().collect();
    let free_bytes = value(&lines, "millstream_disk_free_bytes");
    assert!(free_bytes.is_some_and(|bytes| bytes > 0.0), "{text}");
    let unnamed = "millstream_stream_lag_events{stream=\"\"}";
    assert!(!text.contains(unnamed), "they stand at many places\n{text}");
    store.close().await.unwrap();
    a_paused_stream_tells_how_old_its_lag_is(&recorded, &folder.path().join("paused.db")).await;
    a_model_in_the_log_tells_how_long_it_held_it(&recorded, &folder.path().join("model.db")).await;
}

#[derive(Clone)]
struct Slow;

impl Projection for Slow {
    fn name(&self) -> &str {
        "slow"
    }
    fn version(&self) -> u32 {
        1
    }
    fn query(&self) -> EventQuery {
        EventQuery::all()
    }
    fn schema(&self) -> &str {
        "CREATE TABLE slow (number INTEGER)"
    }
    fn apply(&mut self, tx: &Transaction<'_>, _: &EventBatch) -> Result<(), BoxError> {
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                       INSERT INTO slow SELECT i FROM n";
        tx.execute(numbers, [])?;
        Ok(())
    }
}

/// A part of the test above: there is one recorder in a process.
async fn a_model_in_the_log_tells_how_long_it_held_it(recorded: &PrometheusHandle, path: &Path) {
    let store = Store::open(path).unwrap();
    let model = ReadModels::in_log(&store).unwrap().project(Slow).await.unwrap();
    for number in 0..3 {
        let appended = store.append([NewEvent::new("number", number)]).await.unwrap();
        model.wait_for(appended).await.unwrap();
    }
    until_told(recorded, "how long it held the log", |lines| {
        let seconds = value(lines, "millstream_model_held_log_seconds_sum{stream=\"slow@1\"}");
        lines.contains(&"millstream_model_held_log_seconds_count{stream=\"slow@1\"} 3")
            && seconds.is_some_and(|seconds| seconds > 0.001)
    })
    .await;
    store.close().await.unwrap();
}

/// A part of the test above: there is one recorder in a process.
async fn a_paused_stream_tells_how_old_its_lag_is(recorded: &PrometheusHandle, path: &Path) {
    // The window holds nothing, so that the age is found in the log.
    let builder = Store::builder()
        .poll_interval(Duration::from_millis(5))
        .window_bytes(1);
    let store = builder.open(path).unwrap();
    let report = DurableStream::new("report");
    let stream = store.stream_all_durable(&report, handler()).await.unwrap();
    store.stream("report").await.unwrap().pause("anna").await.unwrap();
    store.append([NewEvent::new("number", 5)]).await.unwrap();
    until_told(recorded, "a lag with its age", |lines| {
        let age = value(lines, "millstream_stream_lag_seconds{stream=\"report\"}");
        lines.contains(&"millstream_stream_lag_events{stream=\"report\"} 1")
            && lines.contains(&"millstream_stream_halted{stream=\"report\"} 1")
            && age.is_some_and(|seconds| seconds > 0.0)
    })
    .await;
    stream.unsubscribe();
    stream.stopped().await;
    drop(stream);
    until_told(recorded, "that it has left", |lines| {
        lines.contains(&"millstream_stream_lag_events{stream=\"report\"} 0")
            && lines.contains(&"millstream_stream_lag_seconds{stream=\"report\"} 0")
            && lines.contains(&"millstream_stream_halted{stream=\"report\"} 0")
    })
    .await;
    store.close().await.unwrap();
}

/// The value in a line that begins with this.
fn value(lines: &[&str], name: &str) -> Option<f64> {
    let line = lines.iter().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until a recorder was told something. Where streams stand is told at the poll interval.
async fn until_told(recorded: &PrometheusHandle, what: &str, is_told: impl Fn(&[&str]) -> bool) {
    let told = async {
        while !is_told(&recorded.render().lines().collect::<Vec<_>>()) {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    assert!(told.is_ok(), "{what} is missing in\n{}", recorded.render());
}

//! What a recorder is told: run with `cargo test --features metrics --test metrics`.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use millstream::{DurableStream, EventBatch, FailurePolicy, HandleStream, NewEvent, Retry, Store};

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
        "millstream_stream_calls_total{stream=\"\",outcome=\"handled\"} 1",
    ];
    // Where streams stand is told at the poll interval.
    let missing = || {
        let text = recorded.render();
        let lines: Vec<&str> = text.lines().collect();
        let missing: Vec<&str> = expected
            .into_iter()
            .filter(|line| !lines.contains(line))
            .collect();
        (!missing.is_empty()).then(|| format!("{missing:#?} are missing in\n{text}"))
    };
    let told = async {
        while missing().is_some() {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    assert!(told.is_ok(), "{}", missing().unwrap_or_default());
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
    store.close().await.unwrap();
}

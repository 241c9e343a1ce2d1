//! What Prometheus would scrape: a log, a stream that is slow, and one that parks what it cannot handle.
//!
//! `cargo run --features metrics --example prometheus`
//!
//! A service hands out the text at `/metrics`, with the HTTP server that it has. Any other recorder of the crate `metrics`
//! takes the place of this one.

use std::error::Error;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use millstream::{DurableStream, EventBatch, FailurePolicy, HandleStream, NewEvent, Retry, Store};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Before the store is opened: instruments are asked for then.
    let recorded = PrometheusBuilder::new().install_recorder()?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("shop.db"))?;

    let slow = HandleStream::new(|_batch: EventBatch| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok::<_, std::io::Error>(())
    });
    let report = DurableStream::new("report");
    let _report = store.stream_all_durable(&report, slow).await?;

    let picky = HandleStream::new(|batch: EventBatch| async move {
        let is_bad = |total: &serde_json::Value| total["total"] == 13;
        for event in &batch {
            if is_bad(event.payload().json()?) {
                return Err("13 cannot be booked".into());
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let ledger = store
        .stream_all_durable(&ledger, picky.retry(Retry::never()))
        .await?;

    for total in 0..200 {
        store
            .append([NewEvent::new("order-placed", json!({ "total": total }))])
            .await?;
    }
    ledger.caught_up().await?;
    // Where streams stand is told at the poll interval.
    tokio::time::sleep(Duration::from_millis(150)).await;
    for line in recorded.render().lines().filter(|line| !line.is_empty()) {
        println!("{line}");
    }
    store.close().await?;
    Ok(())
}

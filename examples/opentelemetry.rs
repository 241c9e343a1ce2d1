//! What OpenTelemetry gets to see: a span for each handler call, with what the handler logs in it, and all metrics.
//!
//! `cargo run --features metrics --example opentelemetry`
//!
//! Everything is printed. A service puts the exporters of `opentelemetry-otlp` in the place of those of `opentelemetry-stdout`,
//! and the rest stays as it is.

use std::error::Error;
use std::time::Duration;

use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use millstream::{DurableStream, EventBatch, FailurePolicy, HandleStream, NewEvent, Retry, Store};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::json;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The default limits of the buckets are meant for milliseconds.
const SECONDS: [f64; 9] = [0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];
const IN_SECONDS: [&str; 4] = [
    "millstream_commit_group_seconds",
    "millstream_cursor_store_seconds",
    "millstream_stream_call_seconds",
    "millstream_stream_delay_seconds",
];

/// Sends spans, and what is logged inside them, on their way.
fn export_spans(service: &Resource) -> Result<SdkTracerProvider, Box<dyn Error>> {
    let provider = SdkTracerProvider::builder()
        .with_resource(service.clone())
        .with_batch_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
    // The spans of handler calls are of the level DEBUG.
    tracing_subscriber::registry()
        .with(LevelFilter::DEBUG)
        .with(layer)
        .try_init()?;
    Ok(provider)
}

/// Sends what the recorder is told on its way, every minute and at the end.
fn export_metrics(service: &Resource) -> Result<SdkMeterProvider, Box<dyn Error>> {
    let provider = SdkMeterProvider::builder()
        .with_resource(service.clone())
        .with_periodic_exporter(opentelemetry_stdout::MetricExporter::default())
        .build();
    let mut recorder = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(provider.meter("shop")));
    recorder.set_histogram_bounds_mut(IN_SECONDS.into_iter(), &SECONDS);
    metrics_opentelemetry::metrics::set_global_recorder(recorder)?;
    Ok(provider)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let service = Resource::builder_empty().with_service_name("shop").build();
    // Before the store is opened: instruments are asked for then.
    let spans = export_spans(&service)?;
    let metrics = export_metrics(&service)?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("shop.db"))?;

    let picky = HandleStream::new(|batch: EventBatch| async move {
        for event in &batch {
            if event.payload().json()?["total"] == 13 {
                return Err("13 cannot be booked".into());
            }
        }
        // Goes with the span of this call, which knows stream and sequences.
        tracing::info!(orders = batch.len(), "booked");
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let ledger = store
        .stream_all_durable(&ledger, picky.retry(Retry::never()))
        .await?;
    for total in 11..=15 {
        store
            .append([NewEvent::new("order-placed", json!({ "total": total }))])
            .await?;
    }
    ledger.caught_up().await?;
    // Where streams stand is told at the poll interval.
    tokio::time::sleep(Duration::from_millis(150)).await;
    metrics.shutdown()?;
    store.close().await?;
    spans.shutdown()?;
    Ok(())
}

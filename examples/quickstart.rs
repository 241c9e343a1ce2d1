//! The smallest useful program: `cargo run --example quickstart`
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::convert::Infallible;

use millstream::{DurableStream, EventBatch, HandleStream, NewEvent, Store};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("shop.db"))?;

    let handle = HandleStream::new(|batch: EventBatch| async move {
        for event in &batch {
            println!(
                "{} {} {}",
                event.sequence(),
                event.event_type(),
                event.payload().as_str()
            );
        }
        Ok::<_, Infallible>(())
    });
    let _shipping = store
        .stream_all_durable(&DurableStream::new("shipping"), handle)
        .await?;

    store
        .append([NewEvent::new("order-placed", json!({ "order": 7, "total": 1250 })).tag("order:7")])
        .await?;
    store.settled().await?;
    store.close().await?;
    Ok(())
}

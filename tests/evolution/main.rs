//! Events of older schema versions: whatever upcasters a store has, everybody is shown the same, live, replayed and found by
//! an index, and what cannot be brought up is nobody's loss.

#[path = "../common/mod.rs"]
mod common;

mod context;
mod naive;
mod program;
mod property;
mod reactors;
mod streams;

use std::path::Path;

use millstream::{EventRecord, NewEvent, Store, StoreBuilder};
use serde_json::{Value, json};

/// An event as a test compares it.
pub(crate) type Seen = (u64, String, u32, Value);

pub(crate) fn seen(event: &EventRecord) -> Seen {
    (
        event.sequence(),
        event.event_type().to_owned(),
        event.schema_version(),
        event.payload().decode().expect("payloads are JSON"),
    )
}

/// An order as it was placed at first: a total without a currency.
pub(crate) fn placed(order: u64) -> NewEvent {
    NewEvent::new("order-placed", json!({"order": order, "total": 12})).tag(format!("order:{order}"))
}

/// A program of today: totals have a currency, and the type another name.
pub(crate) fn today() -> StoreBuilder {
    Store::builder()
        .upcast("order-placed", 1, |mut payload: Value| {
            let total = payload["total"].as_u64().ok_or("there is no total")?;
            payload["total"] = json!({"cents": total * 100});
            Ok::<_, &str>(payload)
        })
        .rename_type("order-placed", "order-received")
        .upcast("order-received", 2, |mut payload: Value| {
            assert!(payload["order"] != json!(13), "unlucky");
            payload["open"] = json!(true);
            Ok::<_, std::convert::Infallible>(payload)
        })
}

/// A file that a program wrote which knew nothing of all that.
pub(crate) async fn written(path: &Path, events: impl IntoIterator<Item = NewEvent>) {
    let store = Store::open(path).expect("opens");
    for event in events {
        store.append([event]).await.expect("appends");
    }
    store.close().await.expect("closes");
}

//! Stock: knows what is on the shelf, and reserves what is ordered, or refuses to.
//!
//! Command: `restock`. Stream: `reserve`, which answers placed orders. Read model: `shelf`.

mod facts;
mod reserve;
mod restock;
mod shelf;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use millstream::{DurableStream, FailurePolicy, ReadModel, Store};

use crate::Result;
use crate::shop::Shop;
use crate::stock::shelf::Shelf;

struct Stock {
    store: Store,
    shelf: ReadModel,
}

pub(crate) async fn open(shop: &Shop) -> Result<Router> {
    let store = &shop.store;
    // An order that cannot be answered, whatever the cause, waits among the dead letters and holds up no other.
    let durable = DurableStream::new("stock-reserve").on_failure(FailurePolicy::park());
    let stream = store
        .stream_to_durable(&durable, &reserve::heard(), reserve::handle(store.clone()))
        .await?;
    // It runs until the store is closed.
    stream.detach();
    let slice = Stock {
        store: store.clone(),
        shelf: shop.models.project(store, Shelf).await?,
    };
    Ok(Router::new()
        .route("/stock", get(shelf::all))
        .route("/stock/{sku}", post(restock::restock))
        .with_state(Arc::new(slice)))
}

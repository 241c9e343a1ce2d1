//! Dispatch: the parcels that are to be sent, and sending them.
//!
//! Command: `send`. Read model, and the stream that keeps it: `parcels`.

mod facts;
mod parcels;
mod send;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use millstream::{ReadModel, Store};

use crate::Result;
use crate::dispatch::parcels::Parcels;
use crate::shop::Shop;

struct Dispatch {
    store: Store,
    parcels: ReadModel,
}

pub(crate) async fn open(shop: &Shop) -> Result<Router> {
    let slice = Dispatch {
        store: shop.store.clone(),
        parcels: shop.models.project(&shop.store, Parcels).await?,
    };
    Ok(Router::new()
        .route("/parcels", get(parcels::open))
        .route("/parcels/{number}/send", post(send::send))
        .with_state(Arc::new(slice)))
}

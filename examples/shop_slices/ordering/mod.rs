//! Ordering: places orders, and shows what becomes of them.
//!
//! Command: `place`. Read model: `orders`. Stream: `feed`, which a browser follows.

mod facts;
mod feed;
mod orders;
mod place;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use millstream::{ReadModel, Store};

use crate::Result;
use crate::closing::Closing;
use crate::ordering::orders::Orders;
use crate::shop::Shop;

struct Ordering {
    store: Store,
    orders: ReadModel,
    closing: Closing,
}

pub(crate) async fn open(shop: &Shop) -> Result<Router> {
    let slice = Ordering {
        store: shop.store.clone(),
        orders: shop.models.project(&shop.store, Orders).await?,
        closing: shop.closing.clone(),
    };
    Ok(Router::new()
        .route("/orders", get(orders::newest).post(place::place))
        .route("/orders/{number}", get(orders::one))
        .route("/feed", get(feed::follow))
        .with_state(Arc::new(slice)))
}

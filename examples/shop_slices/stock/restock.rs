//! The command of stock: something arrived.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use serde::Deserialize;

use crate::problem::Problem;
use crate::shop::seen;
use crate::stock::Stock;
use crate::stock::facts::Fact;
use crate::stock::shelf::{self, ShelfRow};
use crate::words::{Code, Pieces};

#[derive(Deserialize)]
pub(super) struct Delivery {
    quantity: Pieces,
}

/// `POST /stock/{sku}`. What arrived is there, whatever else there is: nothing has to be looked at first.
pub(super) async fn restock(
    State(slice): State<Arc<Stock>>,
    sku: Result<Path<Code>, PathRejection>,
    body: Result<Json<Delivery>, JsonRejection>,
) -> Result<Json<ShelfRow>, Problem> {
    let (Path(sku), Json(Delivery { quantity })) = (sku?, body?);
    let received = Fact::StockReceived {
        sku: sku.clone(),
        quantity,
    };
    let appended = slice.store.append([received.event()]).await?;
    seen(&slice.shelf, appended).await?;
    Ok(Json(shelf::row(&slice.shelf, sku).await?))
}

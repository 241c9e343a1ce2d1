//! The read model of stock: how much of each article came, and how much is reserved.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use millstream::rusqlite::{self, OptionalExtension, Row, Transaction};
use millstream::{BoxError, EventBatch, EventQuery, Projection, ReadModel};
use serde::Serialize;

use crate::problem::Problem;
use crate::stock::Stock;
use crate::stock::facts::Fact;
use crate::words::Code;

#[derive(Clone)]
pub(super) struct Shelf;

impl Projection for Shelf {
    fn name(&self) -> &str {
        "shelf"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::types(["stock-received", "stock-reserved"])
    }

    fn schema(&self) -> &str {
        "CREATE TABLE shelf (sku TEXT PRIMARY KEY, received INTEGER NOT NULL, reserved INTEGER NOT NULL)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mut add = tx.prepare_cached(
            "INSERT INTO shelf (sku, received, reserved) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE
             SET received = received + excluded.received, reserved = reserved + excluded.reserved",
        )?;
        for event in batch {
            match event.decode()? {
                Fact::StockReceived { sku, quantity } => {
                    add.execute((sku.as_str(), quantity.count(), 0))?;
                }
                Fact::StockReserved { lines, .. } => {
                    for line in lines {
                        add.execute((line.sku.as_str(), 0, line.quantity.count()))?;
                    }
                }
                Fact::ReservationRefused { .. } => (),
            }
        }
        Ok(())
    }
}

/// An article as it is shown.
#[derive(Serialize)]
pub(super) struct ShelfRow {
    sku: String,
    received: i64,
    reserved: i64,
}

impl ShelfRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sku: row.get("sku")?,
            received: row.get("received")?,
            reserved: row.get("reserved")?,
        })
    }
}

/// Reads one article.
pub(super) async fn row(shelf: &ReadModel, sku: Code) -> Result<ShelfRow, Problem> {
    let wanted = sku.clone();
    let row = shelf.read(move |rows| {
        rows.prepare_cached("SELECT sku, received, reserved FROM shelf WHERE sku = ?1")?
            .query_row([wanted.as_str()], ShelfRow::of)
            .optional()
    });
    row.await?
        .ok_or_else(|| Problem::not_found(format!("there is no article {sku}")))
}

/// `GET /stock`
pub(super) async fn all(State(slice): State<Arc<Stock>>) -> Result<Json<Vec<ShelfRow>>, Problem> {
    let all = slice.shelf.read(|rows| {
        rows.prepare_cached("SELECT sku, received, reserved FROM shelf ORDER BY sku")?
            .query_map([], ShelfRow::of)?
            .collect()
    });
    Ok(Json(all.await?))
}

//! The read model of dispatch: one parcel for each order, from when it is placed until it is refused.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use millstream::rusqlite::{self, OptionalExtension, Row, Transaction};
use millstream::{BoxError, EventBatch, EventQuery, Projection, ReadModel};
use serde::Serialize;
use serde_json::Value;

use crate::dispatch::Dispatch;
use crate::dispatch::facts::{Heard, heard};
use crate::problem::Problem;
use crate::words::Code;

/// How many parcels a list shows.
const LISTED_MAX: u32 = 100;

#[derive(Clone)]
pub(super) struct Parcels;

impl Projection for Parcels {
    fn name(&self) -> &str {
        "parcels"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        heard()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE parcel (
            number TEXT PRIMARY KEY,
            customer TEXT NOT NULL,
            lines TEXT NOT NULL,
            ready INTEGER,
            state TEXT NOT NULL
        );
        CREATE INDEX parcel_ready ON parcel (ready) WHERE state = 'ready'"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            match event.decode()? {
                Heard::OrderPlaced {
                    number,
                    customer,
                    lines,
                } => tx
                    .prepare_cached(
                        "INSERT INTO parcel (number, customer, lines, state) VALUES (?1, ?2, ?3, 'waits')",
                    )?
                    .execute((number.as_str(), customer.as_str(), serde_json::to_string(&lines)?))?,
                Heard::StockReserved { number } => tx
                    .prepare_cached("UPDATE parcel SET state = 'ready', ready = ?2 WHERE number = ?1")?
                    .execute((number.as_str(), i64::try_from(event.sequence())?))?,
                Heard::ReservationRefused { number } => tx
                    .prepare_cached("DELETE FROM parcel WHERE number = ?1")?
                    .execute([number.as_str()])?,
                Heard::ParcelSent { number } => tx
                    .prepare_cached("UPDATE parcel SET state = 'sent' WHERE number = ?1")?
                    .execute([number.as_str()])?,
            };
        }
        Ok(())
    }
}

/// A parcel as it is shown.
#[derive(Serialize)]
pub(super) struct ParcelRow {
    number: String,
    customer: String,
    lines: Value,
    state: String,
}

impl ParcelRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let lines: String = row.get("lines")?;
        Ok(Self {
            number: row.get("number")?,
            customer: row.get("customer")?,
            lines: serde_json::from_str(&lines).unwrap_or(Value::Null),
            state: row.get("state")?,
        })
    }
}

/// Reads one parcel.
pub(super) async fn row(parcels: &ReadModel, number: Code) -> Result<ParcelRow, Problem> {
    let wanted = number.clone();
    let row = parcels.read(move |rows| {
        rows.prepare_cached("SELECT number, customer, lines, state FROM parcel WHERE number = ?1")?
            .query_row([wanted.as_str()], ParcelRow::of)
            .optional()
    });
    row.await?
        .ok_or_else(|| Problem::not_found(format!("there is no parcel for order {number}")))
}

/// `GET /parcels`: what is to be sent, the longest ready first. It relies on the index `parcel_ready`.
pub(super) async fn open(State(slice): State<Arc<Dispatch>>) -> Result<Json<Vec<ParcelRow>>, Problem> {
    let open = slice.parcels.read(|rows| {
        rows.prepare_cached(
            "SELECT number, customer, lines, state FROM parcel WHERE state = 'ready' ORDER BY ready LIMIT ?1",
        )?
        .query_map([LISTED_MAX], ParcelRow::of)?
        .collect()
    });
    Ok(Json(open.await?))
}

//! The read model of ordering: every order, and what became of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use millstream::rusqlite::{self, OptionalExtension, Row, Transaction};
use millstream::{BoxError, EventBatch, EventQuery, Projection, ReadModel};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ordering::Ordering;
use crate::ordering::facts::Order;
use crate::problem::Problem;
use crate::words::Code;

/// How many orders a list shows.
const LISTED_MAX: u32 = 100;

/// What becomes of an order: ordering's own event, and of those of other slices the part that is of interest here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Heard {
    OrderPlaced(Order),
    StockReserved { number: Code },
    ReservationRefused { number: Code, reason: String },
    ParcelSent { number: Code },
}

/// Selects what [`Heard`] can be.
pub(super) fn heard() -> EventQuery {
    EventQuery::types([
        "order-placed",
        "stock-reserved",
        "reservation-refused",
        "parcel-sent",
    ])
}

#[derive(Clone)]
pub(super) struct Orders;

impl Projection for Orders {
    fn name(&self) -> &str {
        "orders"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        heard()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE orders (
            sequence INTEGER PRIMARY KEY,
            number TEXT NOT NULL UNIQUE,
            customer TEXT NOT NULL,
            lines TEXT NOT NULL,
            state TEXT NOT NULL,
            note TEXT
        )"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            let (state, number, note) = match event.decode()? {
                Heard::OrderPlaced(order) => {
                    insert(tx, event.sequence(), &order)?;
                    continue;
                }
                Heard::StockReserved { number } => ("reserved", number, None),
                Heard::ReservationRefused { number, reason } => ("refused", number, Some(reason)),
                Heard::ParcelSent { number } => ("sent", number, None),
            };
            tx.prepare_cached("UPDATE orders SET state = ?2, note = ?3 WHERE number = ?1")?
                .execute((number.as_str(), state, note))?;
        }
        Ok(())
    }
}

fn insert(tx: &Transaction<'_>, sequence: u64, order: &Order) -> Result<(), BoxError> {
    let lines = serde_json::to_string(&order.lines)?;
    tx.prepare_cached(
        "INSERT INTO orders (sequence, number, customer, lines, state) VALUES (?1, ?2, ?3, ?4, 'placed')",
    )?
    .execute((
        i64::try_from(sequence)?,
        order.number.as_str(),
        order.customer.as_str(),
        lines,
    ))?;
    Ok(())
}

/// An order as it is shown.
#[derive(Serialize)]
pub(super) struct OrderRow {
    number: String,
    customer: String,
    lines: Value,
    state: String,
    note: Option<String>,
}

impl OrderRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let lines: String = row.get("lines")?;
        Ok(Self {
            number: row.get("number")?,
            customer: row.get("customer")?,
            lines: serde_json::from_str(&lines).unwrap_or(Value::Null),
            state: row.get("state")?,
            note: row.get("note")?,
        })
    }
}

/// Reads one order.
pub(super) async fn row(orders: &ReadModel, number: Code) -> Result<OrderRow, Problem> {
    let wanted = number.clone();
    let row = orders.read(move |rows| {
        rows.prepare_cached("SELECT number, customer, lines, state, note FROM orders WHERE number = ?1")?
            .query_row([wanted.as_str()], OrderRow::of)
            .optional()
    });
    row.await?
        .ok_or_else(|| Problem::not_found(format!("there is no order {number}")))
}

/// `GET /orders/{number}`
pub(super) async fn one(
    State(slice): State<Arc<Ordering>>,
    number: Result<Path<Code>, PathRejection>,
) -> Result<Json<OrderRow>, Problem> {
    let Path(number) = number?;
    Ok(Json(row(&slice.orders, number).await?))
}

/// The newest orders, and the sequence up to which that is the whole truth: whoever follows what comes after it has no gap.
#[derive(Serialize)]
pub(super) struct Newest {
    as_of: i64,
    orders: Vec<OrderRow>,
}

/// `GET /orders`. A read is one transaction, so the rows are exactly what they were at the model's position.
pub(super) async fn newest(State(slice): State<Arc<Ordering>>) -> Result<Json<Newest>, Problem> {
    let newest = slice.orders.read(|rows| {
        let as_of = rows.query_row("SELECT position FROM millstream_build", [], |row| row.get(0))?;
        let orders = rows
            .prepare_cached(
                "SELECT number, customer, lines, state, note FROM orders ORDER BY sequence DESC LIMIT ?1",
            )?
            .query_map([LISTED_MAX], OrderRow::of)?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Newest { as_of, orders })
    });
    Ok(Json(newest.await?))
}

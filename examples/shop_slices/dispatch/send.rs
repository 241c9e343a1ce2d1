//! The command of dispatch: a parcel leaves the house, once, and not before all that belongs into it is reserved.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use millstream::{AppendError, Appended};

use crate::dispatch::Dispatch;
use crate::dispatch::facts::{Fact, Heard, life};
use crate::dispatch::parcels::{self, ParcelRow};
use crate::problem::Problem;
use crate::shop::seen;
use crate::words::Code;

/// `POST /parcels/{number}/send`
pub(super) async fn send(
    State(slice): State<Arc<Dispatch>>,
    number: Result<Path<Code>, PathRejection>,
) -> Result<Json<ParcelRow>, Problem> {
    let Path(number) = number?;
    let appended = append(&slice, &number).await?;
    seen(&slice.parcels, appended).await?;
    Ok(Json(parcels::row(&slice.parcels, number).await?))
}

async fn append(slice: &Dispatch, number: &Code) -> Result<Appended, Problem> {
    let query = life(number);
    loop {
        let context = slice.store.query(&query).await?;
        let last = context.events.last();
        let last = last.map(|event| event.decode()).transpose()?;
        let sent = decide(number, last.as_ref())?;
        match slice
            .store
            .append_if([sent.event()], &query, context.context_version)
            .await
        {
            // Something happened to the order meanwhile, so there is another decision to be made.
            Err(AppendError::Conflict { .. }) => (),
            appended => return Ok(appended?),
        }
    }
}

/// Whether a parcel may be sent, given the last that happened to its order.
fn decide(number: &Code, last: Option<&Heard>) -> Result<Fact, Problem> {
    let why_not = match last {
        Some(Heard::StockReserved { .. }) => {
            let number = number.clone();
            return Ok(Fact::ParcelSent { number });
        }
        None => return Err(Problem::not_found(format!("there is no order {number}"))),
        Some(Heard::OrderPlaced { .. }) => "nothing is reserved for it yet",
        Some(Heard::ReservationRefused { .. }) => "its reservation was refused",
        Some(Heard::ParcelSent { .. }) => "it was sent already",
    };
    Err(Problem::conflict(format!(
        "order {number} cannot be sent: {why_not}"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn only_what_is_reserved_is_sent() {
        let number: Code = from_value(json!("A-1")).unwrap();
        let heard = |event: &str| {
            let order = json!({"number": "A-1", "customer": "Anna", "lines": []});
            let heard: Heard = from_value(json!({ event: order })).unwrap();
            heard
        };
        assert!(decide(&number, None).is_err());
        assert!(decide(&number, Some(&heard("order-placed"))).is_err());
        assert!(decide(&number, Some(&heard("reservation-refused"))).is_err());
        assert!(decide(&number, Some(&heard("parcel-sent"))).is_err());
        let Ok(Fact::ParcelSent { number: sent }) = decide(&number, Some(&heard("stock-reserved"))) else {
            panic!("it is reserved, and is not sent");
        };
        assert_eq!(sent, number);
    }
}

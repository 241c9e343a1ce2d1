//! What dispatch says to the log, and what it hears there.

use millstream::{EventFilter, EventQuery, NewEvent};
use serde::{Deserialize, Serialize};

use crate::words::{Code, Customer, Line};

/// The events of this slice: the variant is the event's type, its content the payload.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fact {
    ParcelSent { number: Code },
}

impl Fact {
    pub(super) fn event(&self) -> NewEvent {
        let Self::ParcelSent { number } = self;
        NewEvent::encode(self).tag(format!("order:{number}"))
    }
}

/// The life of an order as far as it matters to a parcel: this slice's own event among those of others.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Heard {
    OrderPlaced {
        number: Code,
        customer: Customer,
        lines: Vec<Line>,
    },
    StockReserved {
        number: Code,
    },
    ReservationRefused {
        number: Code,
    },
    ParcelSent {
        number: Code,
    },
}

const HEARD: [&str; 4] = [
    "order-placed",
    "stock-reserved",
    "reservation-refused",
    "parcel-sent",
];

/// Selects what [`Heard`] can be.
pub(super) fn heard() -> EventQuery {
    EventQuery::types(HEARD)
}

/// The same, of one order: what has to stay as it is while its parcel is sent.
pub(super) fn life(number: &Code) -> EventQuery {
    EventFilter::types(HEARD).tags([format!("order:{number}")]).into()
}

//! What ordering says to the log.

use millstream::{EventFilter, EventQuery, NewEvent};
use serde::{Deserialize, Serialize};

use crate::words::{Code, Customer, Line};

/// The events of this slice: the variant is the event's type, its content the payload.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fact {
    OrderPlaced(Order),
}

/// An order, as the customer wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) number: Code,
    pub(super) customer: Customer,
    pub(super) lines: Vec<Line>,
}

impl Fact {
    /// The event carries its order's number as a tag: so do those of the other slices that are about the order.
    pub(super) fn event(&self) -> NewEvent {
        let Self::OrderPlaced(order) = self;
        NewEvent::encode(self).tag(format!("order:{}", order.number))
    }
}

/// Whether there is an order of this number already: what has to stay as it is while one is placed.
pub(super) fn placed(number: &Code) -> EventQuery {
    EventFilter::types(["order-placed"])
        .tags([format!("order:{number}")])
        .into()
}

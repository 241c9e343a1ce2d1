//! What stock says to the log.

use millstream::NewEvent;
use serde::{Deserialize, Serialize};

use crate::words::{Code, Line, Pieces};

/// The events of this slice: the variant is the event's type, its content the payload.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fact {
    StockReceived {
        sku: Code,
        quantity: Pieces,
    },
    /// All of an order, or nothing of it.
    StockReserved {
        number: Code,
        lines: Vec<Line>,
    },
    ReservationRefused {
        number: Code,
        reason: String,
    },
}

impl Fact {
    /// The event carries the tags of all that it is about.
    pub(super) fn event(&self) -> NewEvent {
        let event = NewEvent::encode(self);
        match self {
            Self::StockReceived { sku, .. } => event.tag(article(sku)),
            Self::StockReserved { number, lines } => event
                .tag(order(number))
                .tags(lines.iter().map(|line| article(&line.sku))),
            Self::ReservationRefused { number, .. } => event.tag(order(number)),
        }
    }
}

pub(super) fn article(sku: &Code) -> String {
    format!("sku:{sku}")
}

pub(super) fn order(number: &Code) -> String {
    format!("order:{number}")
}

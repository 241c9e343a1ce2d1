//! The payload: an order, about 200 bytes of JSON.

use millstream::NewEvent;
use serde::{Deserialize, Serialize};

pub(crate) const TYPE: &str = "order-placed";
pub(crate) const RARE_TYPE: &str = "order-refunded";

#[derive(Serialize)]
pub(crate) struct Order {
    order: u64,
    customer: String,
    placed_at: &'static str,
    currency: &'static str,
    total_cents: u64,
    lines: [Line; 2],
}

#[derive(Serialize)]
struct Line {
    sku: &'static str,
    quantity: u64,
    price_cents: u64,
}

impl Order {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            order: number,
            customer: format!("customer-{:05}", number % 10_000),
            placed_at: "2026-03-14T09:26:53Z",
            currency: "EUR",
            total_cents: 1250 + number % 977,
            lines: [
                Line {
                    sku: "KB-104-DE",
                    quantity: 1,
                    price_cents: 950,
                },
                Line {
                    sku: "CBL-USB-2M",
                    quantity: 1 + number % 3,
                    price_cents: 300,
                },
            ],
        }
    }

    pub(crate) fn event(number: u64) -> NewEvent {
        NewEvent::new(TYPE, Self::new(number))
    }
}

/// The events of the long log, as a program would decode them: with texts of their own.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "decoding is what is measured")]
pub(crate) enum Fact {
    OrderPlaced(Decoded),
    OrderRefunded(Decoded),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoding is what is measured")]
pub(crate) struct Decoded {
    order: u64,
    customer: String,
    placed_at: String,
    currency: String,
    total_cents: u64,
    lines: Vec<DecodedLine>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoding is what is measured")]
struct DecodedLine {
    sku: String,
    quantity: u64,
    price_cents: u64,
}

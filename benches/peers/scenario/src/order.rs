//! The events: orders, about 150 bytes of JSON each.

use serde::{Deserialize, Serialize};

/// What happened. Every peer is given this struct, and makes of it what its interface takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The number of the event, by which it is recognised; the first field, so that [`number_in`] finds it at once.
    pub n: u64,
    /// The order that it belongs to: the tag, key or stream of a peer.
    pub order: String,
    pub customer: String,
    pub item: String,
    pub quantity: u32,
    pub cents: u32,
    pub note: String,
}

impl Order {
    /// The event of this number, which belongs to the order of that number.
    pub(crate) fn new(n: u64, order: usize) -> Self {
        Self {
            n,
            order: name(order),
            customer: format!("customer-{:04}", n % 10_000),
            item: String::from("bell for a bicycle, blue"),
            quantity: 1 + (n % 5) as u32,
            cents: 1250,
            note: String::from("leave it with the neighbours"),
        }
    }

    /// The same with about a thousand bytes.
    pub(crate) fn large(n: u64, order: usize) -> Self {
        Self {
            note: "leave it with the neighbours. ".repeat(30),
            ..Self::new(n, order)
        }
    }
}

/// The order of this number. No name is the beginning of another.
pub(crate) fn name(order: usize) -> String {
    format!("order-{order:05}")
}

/// The number of the event whose JSON this is, without parsing all of it.
pub fn number_in(json: &[u8]) -> Option<u64> {
    let digits = json.strip_prefix(b"{\"n\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_in_the_json() {
        let json = serde_json::to_vec(&Order::new(4711, 7)).unwrap();
        assert_eq!(number_in(&json), Some(4711));
        assert_eq!(number_in(b"{\"m\":1}"), None);
    }

    #[test]
    fn events_have_the_stated_size() {
        let size = |order: &Order| serde_json::to_vec(order).unwrap().len();
        assert!((140..=160).contains(&size(&Order::new(123_456, 7))));
        assert!((1_000..=1_100).contains(&size(&Order::large(123_456, 7))));
    }
}

//! The stream of stock: every order that is placed gets one answer, whatever dies in between.

use std::collections::BTreeMap;

use millstream::{AppendError, BoxError, EventBatch, EventFilter, EventQuery, HandleStream, Store};
use serde::Deserialize;

use crate::stock::facts::{Fact, article, order};
use crate::words::{Code, Line};

/// Of a placed order, what stock has to know: nothing of who wants it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Heard {
    OrderPlaced(Wanted),
}

#[derive(Deserialize)]
struct Wanted {
    number: Code,
    lines: Vec<Line>,
}

pub(super) fn heard() -> EventQuery {
    EventQuery::types(["order-placed"])
}

/// A handler that answers each order of a batch. After a crash it may be given some again; they have their answer, and get no
/// second one.
pub(super) fn handle(store: Store) -> HandleStream {
    HandleStream::new(move |batch: EventBatch| {
        let store = store.clone();
        async move {
            for event in &batch {
                let Heard::OrderPlaced(wanted) = event.decode()?;
                answer(&store, &wanted, event.sequence()).await?;
            }
            Result::<_, BoxError>::Ok(())
        }
    })
}

async fn answer(store: &Store, wanted: &Wanted, cause: u64) -> Result<(), BoxError> {
    let query = context(wanted);
    loop {
        let context = store.query(&query).await?;
        let mut history = Vec::new();
        for event in &context.events {
            history.push(event.decode()?);
        }
        let Some(answer) = decide(wanted, &history) else {
            return Ok(());
        };
        let event = answer.event().causation_id(cause.to_string());
        match store.append_if([event], &query, context.context_version).await {
            // Something arrived meanwhile, so there is another decision to be made.
            Err(AppendError::Conflict { .. }) => (),
            appended => return Ok(appended.map(|_| ())?),
        }
    }
}

/// What the answer depends on: all that came and went of each article, and whether the order has been answered.
fn context(wanted: &Wanted) -> EventQuery {
    let moved =
        |line: &Line| EventFilter::types(["stock-received", "stock-reserved"]).tags([article(&line.sku)]);
    let answered =
        EventFilter::types(["stock-reserved", "reservation-refused"]).tags([order(&wanted.number)]);
    EventQuery::any(wanted.lines.iter().map(moved).chain([answered]))
}

/// The answer to an order, given the history of its articles. None, when it has one.
fn decide(wanted: &Wanted, history: &[Fact]) -> Option<Fact> {
    let mut left = BTreeMap::<&Code, i64>::new();
    for fact in history {
        match fact {
            Fact::StockReceived { sku, quantity } => *left.entry(sku).or_default() += quantity.count(),
            Fact::StockReserved { number, .. } | Fact::ReservationRefused { number, .. }
                if *number == wanted.number =>
            {
                return None;
            }
            Fact::StockReserved { lines, .. } => {
                for line in lines {
                    *left.entry(&line.sku).or_default() -= line.quantity.count();
                }
            }
            Fact::ReservationRefused { .. } => (),
        }
    }
    let left = |sku| left.get(sku).copied().unwrap_or(0);
    let number = wanted.number.clone();
    let lacking = wanted
        .lines
        .iter()
        .find(|line| left(&line.sku) < line.quantity.count());
    Some(match lacking {
        None => Fact::StockReserved {
            number,
            lines: wanted.lines.clone(),
        },
        Some(line) => Fact::ReservationRefused {
            number,
            reason: format!(
                "{} of {} are wanted, {} are there",
                line.quantity.count(),
                line.sku,
                left(&line.sku)
            ),
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn wanted(number: &str, mugs: u32) -> Wanted {
        let lines = json!([{"sku": "mug", "quantity": mugs}]);
        from_value(json!({"number": number, "lines": lines})).unwrap()
    }

    fn received(sku: &str, quantity: u32) -> Fact {
        from_value(json!({"stock-received": {"sku": sku, "quantity": quantity}})).unwrap()
    }

    #[test]
    fn what_is_there_is_reserved_once() {
        let mut history = vec![received("mug", 2), received("mug", 1), received("jug", 9)];
        let first = decide(&wanted("A-1", 2), &history).unwrap();
        assert!(matches!(&first, Fact::StockReserved { number, .. } if number.as_str() == "A-1"));
        history.push(first);
        assert_eq!(decide(&wanted("A-1", 2), &history), None);

        let second = decide(&wanted("A-2", 2), &history).unwrap();
        let Fact::ReservationRefused { reason, .. } = &second else {
            panic!("one mug is left, two were given: {second:?}");
        };
        assert_eq!(reason, "2 of mug are wanted, 1 are there");
        history.push(second);
        assert_eq!(decide(&wanted("A-2", 2), &history), None);
        assert!(matches!(
            decide(&wanted("A-3", 1), &history),
            Some(Fact::StockReserved { .. })
        ));
    }

    #[test]
    fn an_order_is_reserved_whole_or_not_at_all() {
        let both = json!([{"sku": "mug", "quantity": 1}, {"sku": "jug", "quantity": 1}]);
        let wanted: Wanted = from_value(json!({"number": "A-1", "lines": both})).unwrap();
        let answer = decide(&wanted, &[received("mug", 5)]);
        assert!(matches!(answer, Some(Fact::ReservationRefused { .. })));
    }
}

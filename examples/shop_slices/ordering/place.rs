//! The command of ordering: look, decide, append if what was looked at is still so, and answer with what the read model says.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use millstream::{AppendError, EventRecord, Until};

use crate::ordering::Ordering;
use crate::ordering::facts::{Fact, Order, placed};
use crate::ordering::orders::{self, OrderRow};
use crate::problem::Problem;
use crate::shop::seen;

/// Whoever answers an order may tag the answer with each article, and an event has at most 64 tags.
const LINES_MAX: usize = 50;

/// `POST /orders`. The customer's side chooses the number, so a request that is sent again, because its answer was lost, orders
/// nothing twice.
pub(super) async fn place(
    State(slice): State<Arc<Ordering>>,
    body: Result<Json<Order>, JsonRejection>,
) -> Result<(StatusCode, Json<OrderRow>), Problem> {
    let Json(order) = body?;
    check(&order)?;
    let (status, until) = append(&slice, &order).await?;
    seen(&slice.orders, until).await?;
    let row = orders::row(&slice.orders, order.number).await?;
    Ok((status, Json(row)))
}

async fn append(slice: &Ordering, order: &Order) -> Result<(StatusCode, Until), Problem> {
    let query = placed(&order.number);
    loop {
        let context = slice.store.query(&query).await?;
        let earlier = context.events.first();
        match decide(order, earlier.map(EventRecord::decode).transpose()?.as_ref())? {
            Decision::Place(fact) => {
                let version = context.context_version;
                match slice.store.append_if([fact.event()], &query, version).await {
                    // Somebody took the number meanwhile, so there is another decision to be made.
                    Err(AppendError::Conflict { .. }) => (),
                    appended => return Ok((StatusCode::CREATED, appended?.into())),
                }
            }
            Decision::Keep => return Ok((StatusCode::OK, context.context_version.into())),
        }
    }
}

/// What the types of an order's parts do not say of the whole.
fn check(order: &Order) -> Result<(), Problem> {
    let lines = order.lines.len();
    if lines == 0 || lines > LINES_MAX {
        return Err(Problem::bad_request(format!(
            "an order has 1 to {LINES_MAX} lines, this one has {lines}"
        )));
    }
    let mut articles = BTreeSet::new();
    match order.lines.iter().find(|line| !articles.insert(&line.sku)) {
        Some(line) => Err(Problem::bad_request(format!(
            "the article {} is in two lines; make one of them",
            line.sku
        ))),
        None => Ok(()),
    }
}

enum Decision {
    Place(Fact),
    /// The same was placed before.
    Keep,
}

/// What is to be done with an order, given the one that has its number already.
fn decide(wanted: &Order, earlier: Option<&Fact>) -> Result<Decision, Problem> {
    match earlier {
        None => Ok(Decision::Place(Fact::OrderPlaced(wanted.clone()))),
        Some(Fact::OrderPlaced(earlier)) if earlier == wanted => Ok(Decision::Keep),
        Some(_) => Err(Problem::conflict(format!(
            "there is another order with the number {}; choose a new one",
            wanted.number
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn order(customer: &str, lines: Value) -> Order {
        let order = json!({"number": "A-1", "customer": customer, "lines": lines});
        serde_json::from_value(order).unwrap()
    }

    #[test]
    fn a_number_is_given_once() {
        let mug = json!([{"sku": "mug", "quantity": 1}]);
        let (annas, bens) = (order("Anna", mug.clone()), order("Ben", mug));
        assert!(matches!(decide(&annas, None), Ok(Decision::Place(_))));
        let earlier = Fact::OrderPlaced(annas.clone());
        assert!(matches!(decide(&annas, Some(&earlier)), Ok(Decision::Keep)));
        assert!(decide(&bens, Some(&earlier)).is_err());
    }

    #[test]
    fn an_order_has_lines_and_each_article_once() {
        let line = |sku: String| json!({"sku": sku, "quantity": 1});
        let lines = |count: usize| (0..count).map(|n| line(format!("mug-{n}"))).collect::<Value>();
        assert!(check(&order("Anna", lines(0))).is_err());
        assert!(check(&order("Anna", lines(LINES_MAX))).is_ok());
        assert!(check(&order("Anna", lines(LINES_MAX + 1))).is_err());
        let twice = json!([line("mug".to_owned()), line("mug".to_owned())]);
        assert!(check(&order("Anna", twice)).is_err());
    }
}

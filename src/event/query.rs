//! Which events matter, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::event::matching::{self, Selectable};
use crate::event::names::Names;
use crate::event::record::EventRecord;

/// Which events matter: an OR of [`EventFilter`]s.
///
/// ```
/// use millstream::{EventFilter, EventQuery};
/// use serde_json::json;
///
/// let everything = EventQuery::all();
/// let orders = EventQuery::types(["order-placed", "order-shipped"]);
/// let order_7 = EventQuery::tags(["order:7"]);
/// let either = EventQuery::any([
///     EventFilter::types(["order-placed"]).payload(json!({"express": true})),
///     EventFilter::all().tags(["order:7", "urgent"]),
/// ]);
/// # let _ = (everything, orders, order_7, either);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EventQuery {
    /// Sorted and without repetitions, so that equal queries are equal values.
    filters: Vec<EventFilter>,
}

/// One alternative of an [`EventQuery`]: types are OR, tags are AND, payload predicates are OR, and the three are
/// joined by AND.
///
/// A constraint that is not given means "any"; one that is given as an empty set means "none", for each of the three.
///
/// A payload predicate is a subset match: a scalar equals the event's scalar; every member of an object is found in the
/// event's object; every element of an array is contained somewhere in the event's array; each recursively. Numbers
/// compare by mathematical value, so `1` equals `1.0`; integers beyond 64 bits count as the nearest 64-bit float.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    types: Option<Names>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Names>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "sorted_predicates")]
    payloads: Option<Vec<Value>>,
}

impl EventQuery {
    /// Selects every event.
    pub fn all() -> Self {
        Self::any([EventFilter::all()])
    }

    /// Selects the events of any of these types; none, when there are none.
    pub fn types(types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::any([EventFilter::types(types)])
    }

    /// Selects the events that carry all of these tags; none, when there are none.
    pub fn tags(tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::any([EventFilter::all().tags(tags)])
    }

    /// Selects what any of these filters selects; nothing, when there are none.
    pub fn any(filters: impl IntoIterator<Item = EventFilter>) -> Self {
        let mut filters: Vec<EventFilter> = filters.into_iter().collect();
        filters.sort_by_cached_key(EventFilter::canonical_text);
        filters.dedup();
        Self { filters }
    }

    /// Whether the query selects this event.
    pub fn matches(&self, event: &EventRecord) -> bool {
        self.selects(event)
    }

    pub(crate) fn selects(&self, event: &impl Selectable) -> bool {
        self.filters.iter().any(|filter| matching::selects(filter, event))
    }

    /// The filters, sorted.
    pub(crate) fn filters(&self) -> &[EventFilter] {
        &self.filters
    }

    /// Whether some filter has no constraint at all.
    pub(crate) fn selects_everything(&self) -> bool {
        self.filters.iter().any(EventFilter::is_unconstrained)
    }

    /// The query as text that is equal for equal queries: what a cursor is stored with (D7).
    pub(crate) fn canonical_text(&self) -> String {
        let filters: Vec<String> = self.filters.iter().map(EventFilter::canonical_text).collect();
        format!("[{}]", filters.join(","))
    }

    /// The query that was written as such a text.
    pub(crate) fn from_canonical_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Vec<EventFilter>>(text).map(Self::any)
    }
}

impl From<EventFilter> for EventQuery {
    fn from(filter: EventFilter) -> Self {
        Self::any([filter])
    }
}

impl EventFilter {
    /// A filter without constraints: every event.
    pub fn all() -> Self {
        Self::default()
    }

    /// A filter for any of these types.
    pub fn types(types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            types: Some(types.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    /// Demands all of these tags, beside those demanded before.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let demanded = self.tags.unwrap_or_default();
        self.tags = Some(demanded.and(tags.into_iter().map(Into::into)));
        self
    }

    /// Demands this predicate of the payload, or one of those given before.
    #[must_use]
    pub fn payload(self, predicate: Value) -> Self {
        self.payloads([predicate])
    }

    /// Demands one of these predicates of the payload, or one of those given before.
    #[must_use]
    pub fn payloads(mut self, predicates: impl IntoIterator<Item = Value>) -> Self {
        let demanded = self.payloads.get_or_insert_default();
        demanded.extend(predicates);
        demanded.sort_by_cached_key(|predicate| text(&Sorted(predicate)));
        demanded.dedup();
        self
    }

    /// Whether it may select an event that has one of these types.
    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn may_select_type(&self, names: [&str; 2]) -> bool {
        let types = self.types.as_ref();
        types.is_none_or(|types| names.iter().any(|name| types.contains(name)))
    }

    pub(crate) fn type_set(&self) -> Option<&Names> {
        self.types.as_ref()
    }

    pub(crate) fn tag_set(&self) -> Option<&Names> {
        self.tags.as_ref()
    }

    pub(crate) fn payload_predicates(&self) -> Option<&[Value]> {
        self.payloads.as_deref()
    }

    fn is_unconstrained(&self) -> bool {
        self.types.is_none() && self.tags.is_none() && self.payloads.is_none()
    }

    fn canonical_text(&self) -> String {
        text(self)
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and JSON values always serialise")
}

/// JSON that is written with sorted keys, whatever order `serde_json` is set to keep them in.
struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => {
                let sorted: BTreeMap<_, _> =
                    members.iter().map(|(key, value)| (key, Sorted(value))).collect();
                sorted.serialize(serializer)
            }
            Value::Array(elements) => serializer.collect_seq(elements.iter().map(Sorted)),
            scalar => scalar.serialize(serializer),
        }
    }
}

fn sorted_predicates<S: Serializer>(
    predicates: &Option<Vec<Value>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let predicates = predicates.iter().flatten();
    serializer.collect_seq(predicates.map(Sorted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_queries_have_equal_text_in_whatever_order_they_were_written() {
        let one = EventQuery::any([
            EventFilter::types(["b", "a"]).tags(["x"]).tags(["w"]),
            EventFilter::all().payload(json!({"n": 1})).payload(json!(2)),
        ]);
        let other = EventQuery::any([
            EventFilter::all().payloads([json!(2), json!({"n": 1}), json!(2)]),
            EventFilter::types(["a", "b", "a"]).tags(["w", "x"]),
        ]);
        assert_eq!(one, other);
        assert_eq!(one.canonical_text(), other.canonical_text());
        for query in [&one, &EventQuery::all(), &EventQuery::any([])] {
            let again = EventQuery::from_canonical_text(&query.canonical_text()).unwrap();
            assert_eq!(again, *query);
        }
        assert!(EventQuery::from_canonical_text(r#"[{"hours":[1]}]"#).is_err());
        assert_ne!(one.canonical_text(), EventQuery::all().canonical_text());
        assert_ne!(
            EventQuery::any([]).canonical_text(),
            EventQuery::all().canonical_text()
        );
    }
}

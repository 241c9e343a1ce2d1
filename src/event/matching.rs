//! What it means that a filter selects an event. There is this one definition; the index of the bus and the SQL of the
//! log are only allowed to leave out what it refuses.

use serde_json::{Number, Value};

use crate::error::UndecodableEvent;
use crate::event::query::EventFilter;

/// What a filter asks an event, whether it is a record already or still a row.
pub(crate) trait Selectable {
    fn event_type(&self) -> &str;
    fn has_tag(&self, tag: &str) -> bool;
    /// The payload, or nothing when it is not JSON.
    fn parsed_payload(&self) -> Option<&Value>;
    /// Why the event cannot be decoded, if it cannot.
    fn fault(&self) -> Option<&UndecodableEvent> {
        None
    }
}

/// Whether `filter` selects `event`.
///
/// One that cannot be decoded is selected by the type that it is stored with and by the one that it would have, and whatever
/// its payload would be: nobody is to miss it.
pub(crate) fn selects(filter: &EventFilter, event: &impl Selectable) -> bool {
    if let Some(types) = filter.type_set()
        && !types.contains(event.event_type())
        && !event
            .fault()
            .is_some_and(|fault| types.contains(fault.shown_type()))
    {
        return false;
    }
    if let Some(tags) = filter.tag_set()
        && (tags.is_empty() || !tags.iter().all(|tag| event.has_tag(tag)))
    {
        return false;
    }
    match filter.payload_predicates() {
        None => true,
        Some([]) => false,
        Some(_) if event.fault().is_some() => true,
        Some(predicates) => event
            .parsed_payload()
            .is_some_and(|payload| predicates.iter().any(|predicate| is_subset(predicate, payload))),
    }
}

/// Whether all that `predicate` says is said by `payload` too.
pub(crate) fn is_subset(predicate: &Value, payload: &Value) -> bool {
    match (predicate, payload) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().all(|(key, value)| {
            found
                .get(key)
                .is_some_and(|candidate| is_subset(value, candidate))
        }),
        (Value::Array(wanted), Value::Array(found)) => wanted
            .iter()
            .all(|value| found.iter().any(|candidate| is_subset(value, candidate))),
        _ => match (Scalar::of(predicate), Scalar::of(payload)) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => false,
        },
    }
}

/// A JSON value without parts. Two that match each other are equal, and have equal hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scalar<'a> {
    Null,
    Flag(bool),
    Number(NumberValue),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    pub(crate) fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(flag) => Some(Self::Flag(*flag)),
            Value::Number(number) => Some(Self::Number(NumberValue::of(number))),
            Value::String(text) => Some(Self::Text(text)),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// A number's mathematical value: 1 equals 1.0, and an integer equals a float only when the float is exactly that
/// integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NumberValue {
    Whole(i128),
    /// The bits of a float that is not whole, or so large that no integer of 64 bits equals it.
    Float(u64),
}

impl NumberValue {
    fn of(number: &Number) -> Self {
        let integer = number.as_i64().map(i128::from);
        if let Some(integer) = integer.or_else(|| number.as_u64().map(i128::from)) {
            return Self::Whole(integer);
        }
        // What has no nearest float is larger than all of them.
        let float = number.as_f64().unwrap_or(f64::INFINITY);
        // Both zeros are whole, so that floats which are equal have equal bits here; and i128 holds what is below the bound.
        if float.fract() == 0.0 && float.abs() < 1e20 {
            Self::Whole(float as i128)
        } else {
            Self::Float(float.to_bits())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subset(predicate: &str, payload: &str) -> bool {
        let parse = |text| serde_json::from_str(text).unwrap();
        is_subset(&parse(predicate), &parse(payload))
    }

    #[test]
    fn numbers_compare_by_value() {
        for (one, other) in [
            ("1", "1.0"),
            ("1e2", "100"),
            ("-0.0", "0"),
            ("18446744073709551615", "18446744073709551615"),
            ("9007199254740992", "9007199254740992.0"),
            ("0.1", "1e-1"),
        ] {
            assert!(subset(one, other), "{one} is {other}");
            assert!(subset(other, one), "{other} is {one}");
        }
        for (one, other) in [
            ("1", "1.5"),
            ("9007199254740993", "9007199254740992.0"),
            ("18446744073709551615", "18446744073709551614"),
            ("18446744073709551615", "18446744073709551616"),
            ("-1", "18446744073709551615"),
            ("1", "\"1\""),
            ("0", "null"),
            ("0", "false"),
        ] {
            assert!(!subset(one, other), "{one} is not {other}");
            assert!(!subset(other, one), "{other} is not {one}");
        }
    }

    #[test]
    fn objects_and_arrays_match_by_subset() {
        let payload = json!({"a": 1, "b": [{"c": 2, "d": 3}, [4, 5], null], "e": {}});
        for predicate in [
            json!({}),
            json!({"a": 1.0}),
            json!({"b": []}),
            json!({"b": [{"c": 2}, {"d": 3}]}),
            json!({"b": [[5]]}),
            json!({"b": [null, null]}),
            json!({"e": {}}),
        ] {
            assert!(is_subset(&predicate, &payload), "{predicate}");
        }
        for predicate in [
            json!({"a": 2}),
            json!({"f": null}),
            json!({"b": [{"c": 3}]}),
            json!({"b": {}}),
            json!({"e": []}),
            json!([]),
            json!(null),
        ] {
            assert!(!is_subset(&predicate, &payload), "{predicate}");
        }
    }
}

//! What it means that a filter selects an event. There is this one definition; the index of the bus and the SQL of the
//! log are only allowed to leave out what it refuses.

use serde_json::{Number, Value};

use crate::event::query::EventFilter;

/// What a filter asks an event, whether it is a record already or still a row.
pub(crate) trait Selectable {
    fn event_type(&self) -> &str;
    fn has_tag(&self, tag: &str) -> bool;
    /// The payload, or nothing when it is not JSON.
    fn parsed_payload(&self) -> Option<&Value>;
}

/// Whether `filter` selects `event`.
pub(crate) fn selects(filter: &EventFilter, event: &impl Selectable) -> bool {
    if let Some(types) = filter.type_set()
        && !types.contains(event.event_type())
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
        (Value::Number(wanted), Value::Number(found)) => is_same_number(wanted, found),
        _ => predicate == payload,
    }
}

/// Whether two numbers have the same mathematical value: 1 equals 1.0, and an integer equals a float only when the
/// float is exactly that integer.
fn is_same_number(one: &Number, other: &Number) -> bool {
    match (as_integer(one), as_integer(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.as_f64() == other.as_f64(),
        (Some(integer), None) => is_integer_of(other, integer),
        (None, Some(integer)) => is_integer_of(one, integer),
    }
}

fn as_integer(number: &Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

fn is_integer_of(float: &Number, integer: i128) -> bool {
    // Integers of 64 bits convert to i128 and back without loss, and every whole float in their range fits i128.
    float
        .as_f64()
        .is_some_and(|float| float.fract() == 0.0 && float.abs() < 1e20 && float as i128 == integer)
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

//! The subset match of payloads: laws that hold for every JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::internals::is_subset;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let (one, other) = text.split_once('\n').unwrap_or((text, text));
    let (Ok(one), Ok(other)) = (
        serde_json::from_str::<Value>(one),
        serde_json::from_str::<Value>(other),
    ) else {
        return;
    };
    assert!(is_subset(&one, &one), "every payload says what it says");
    for part in parts(&one) {
        assert!(is_subset(&part, &one), "{part} is a part of {one}");
        if is_subset(&one, &other) {
            assert!(is_subset(&part, &other), "a part of a subset is a subset");
        }
    }
    if is_subset(&one, &other) && is_scalar(&one) {
        assert!(is_subset(&other, &one), "for scalars it is equality");
    }
    assert_eq!(is_subset(&one, &other), naive(&one, &other), "{one} and {other}");
});

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// The value with one member, or one element, less.
fn parts(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(members) => members
            .keys()
            .map(|key| {
                let mut part = members.clone();
                part.remove(key);
                Value::Object(part)
            })
            .collect(),
        Value::Array(elements) => (0..elements.len())
            .map(|index| {
                let mut part = elements.clone();
                part.remove(index);
                Value::Array(part)
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The rule once more, written for reading; numbers are compared as decimal text.
fn naive(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|other| naive(value, other))),
        (Value::Array(wanted), Value::Array(found)) => wanted
            .iter()
            .all(|value| found.iter().any(|other| naive(value, other))),
        (Value::Number(wanted), Value::Number(found)) => decimal(wanted) == decimal(found),
        (wanted, found) => wanted == found,
    }
}

/// The exact decimal value of a number.
fn decimal(number: &serde_json::Number) -> String {
    if number.is_f64() {
        let float = number.as_f64().unwrap_or(f64::NAN);
        let text = format!("{float:.1100}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        return if text == "-0" {
            String::from("0")
        } else {
            text.to_owned()
        };
    }
    number.to_string()
}

//! How a document is stored, so that the server compares what is in it as views do.

use serde_json::{Number, Value};

use crate::log::postgres::text::stored;

/// From here on no integer is one of 64 bits with a sign.
const INTEGERS_END: f64 = 9_223_372_036_854_775_808.0;

/// A document as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// What becomes JSONB.
    pub(super) body: String,
    /// Whether that reads back as the same document.
    pub(super) is_whole: bool,
}

impl Body {
    pub(super) fn of(document: &Value) -> Self {
        let mut body = Self {
            body: String::new(),
            is_whole: true,
        };
        body.write(document);
        body
    }

    fn write(&mut self, value: &Value) {
        match value {
            Value::Number(number) => {
                let is_float = |holds: fn(f64) -> bool| number.as_f64().is_some_and(holds);
                // It may be an integer that only the document's own type can hold.
                let is_beyond = number.as_i64().is_none() && is_float(|float| float.abs() >= INTEGERS_END);
                let is_negative_zero = is_float(|float| float == 0.0 && float.is_sign_negative());
                self.is_whole &= !(is_beyond || is_negative_zero);
                self.body.push_str(&number_text(number));
            }
            Value::String(text) => self.write_text(text),
            Value::Array(elements) => {
                self.body.push('[');
                for (index, element) in elements.iter().enumerate() {
                    self.body.push_str(if index > 0 { "," } else { "" });
                    self.write(element);
                }
                self.body.push(']');
            }
            Value::Object(members) => {
                self.body.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    self.body.push_str(if index > 0 { "," } else { "" });
                    self.write_text(name);
                    self.body.push(':');
                    self.write(member);
                }
                self.body.push('}');
            }
            Value::Null | Value::Bool(_) => self.body.push_str(&value.to_string()),
        }
    }

    fn write_text(&mut self, text: &str) {
        let stored = stored(text);
        self.is_whole &= stored == text;
        self.body.push_str(&Value::from(&*stored).to_string());
    }
}

/// A number as views compare it: the integer that it is, or the exact value of the nearest float.
pub(super) fn number_text(number: &Number) -> String {
    /// From here on every float is an integer, whose shortest text may be another one.
    const WHOLE_FROM: f64 = 9_007_199_254_740_992.0;
    match (number.as_i64(), number.as_f64()) {
        (None, Some(float)) if float.abs() >= WHOLE_FROM => format!("{float:.1}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_reads_back_the_same_is_stored_once() {
        for (document, body) in [
            (
                json!({ "a": [1, -2.5, true, null, "ä\n"] }),
                r#"{"a":[1,-2.5,true,null,"ä\n"]}"#,
            ),
            (json!(1e17), "100000000000000000.0"),
            (json!(1_u64 << 60), "1152921504606846976"),
            (json!(2_f64.powi(60)), "1152921504606846976.0"),
        ] {
            let found = Body::of(&document);
            assert_eq!((found.body.as_str(), found.is_whole), (body, true), "{document}");
            assert_eq!(serde_json::from_str::<Value>(&found.body).unwrap(), document);
        }
        for (document, body) in [
            (json!("a\0b"), r#""a\u00010b""#),
            (json!({ "\u{1}": 1 }), r#"{"\u00011":1}"#),
            (json!(u64::MAX), "18446744073709551616.0"),
            (json!(-0.0), "-0.0"),
            (
                serde_json::from_str("1000000000000000000000").unwrap(),
                "1000000000000000000000.0",
            ),
            (
                serde_json::from_str("-1e21").unwrap(),
                "-1000000000000000000000.0",
            ),
        ] {
            let found = Body::of(&document);
            assert_eq!((found.body.as_str(), found.is_whole), (body, false), "{document}");
        }
    }
}

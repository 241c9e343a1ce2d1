//! What an address says beside what the driver reads.

use std::borrow::Cow;

/// The schema that a URL names with `schema=`, and the URL without it. Of several the last one counts.
pub(super) fn split_schema(address: &str) -> (Cow<'_, str>, Option<String>) {
    let url = address.split_once("://").and_then(|_| address.split_once('?'));
    let Some((base, parameters)) = url else {
        return (address.into(), None);
    };
    let (of_schema, others): (Vec<&str>, Vec<&str>) = parameters
        .split('&')
        .partition(|parameter| parameter.starts_with("schema="));
    let Some(schema) = of_schema.last() else {
        return (address.into(), None);
    };
    let schema = schema["schema=".len()..].to_owned();
    let rest = match others.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", others.join("&")),
    };
    (rest.into(), Some(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_taken_out_of_a_url_and_everything_else_stays() {
        for (address, rest, schema) in [
            ("postgres://h/d", "postgres://h/d", None),
            ("postgres://h/d?schema=shop", "postgres://h/d", Some("shop")),
            (
                "postgres://h/d?sslmode=require&schema=shop&a=b",
                "postgres://h/d?sslmode=require&a=b",
                Some("shop"),
            ),
            ("postgres://h/d?schema=a&schema=b", "postgres://h/d", Some("b")),
            ("postgres://h/d?schema=", "postgres://h/d", Some("")),
            ("postgres://h/d?schematic=a", "postgres://h/d?schematic=a", None),
            ("host=h dbname=d", "host=h dbname=d", None),
        ] {
            let (found_rest, found) = split_schema(address);
            assert_eq!((&*found_rest, found.as_deref()), (rest, schema), "{address}");
        }
    }
}

//! What is asked of a view's table, in the words of the server. Pure.

use serde_json::Value;

use crate::log::postgres::text::stored;
use crate::projection::server::view::body::number_text;
use crate::projection::view::path::{JsonPath, Rank};
use crate::projection::view::statement::Sql;

/// A document as it reads back.
pub(crate) const DOCUMENT: &str = "coalesce(json, body::text)";

/// How many characters of a text are in an index: an entry has a bound, and the document's id is in it too.
const INDEXED_CHARACTERS: usize = 100;

/// What stands at the end of a path through the members of objects. An array has no members.
pub(crate) fn path(members: &[String]) -> String {
    let mut sql = String::from("body");
    for member in members {
        sql.push_str(" -> ");
        sql.push_str(&literal(&stored(member)));
    }
    format!("({sql})")
}

/// A text as SQL has it, whatever the server makes of backslashes.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// The kind of what stands at a path. Never NULL.
pub(crate) fn rank(path: &JsonPath) -> String {
    let kinds = [
        ("null", Rank::Null),
        ("boolean", Rank::Flag),
        ("number", Rank::Number),
        ("string", Rank::Text),
        ("array", Rank::Other),
        ("object", Rank::Other),
    ];
    let kinds: String = kinds
        .iter()
        .map(|(kind, rank)| format!(" WHEN '{kind}' THEN {}", *rank as u8))
        .collect();
    format!(
        "CASE jsonb_typeof({}){kinds} ELSE {} END",
        path.on_server(),
        Rank::Missing as u8
    )
}

/// A number that stands at a path; NULL, when it is none.
fn number(path: &JsonPath) -> String {
    let path = path.on_server();
    format!("CASE WHEN jsonb_typeof({path}) = 'number' THEN {path}::numeric END")
}

/// A text, a boolean, an array or an object that stands at a path; NULL, when it is none of them.
fn other(path: &JsonPath) -> String {
    let path = path.on_server();
    format!(
        "(CASE WHEN jsonb_typeof({path}) NOT IN ('number', 'null') THEN {path} #>> '{{}}' END COLLATE \"C\")"
    )
}

/// The first characters of such a text.
fn start(text: &str) -> String {
    format!("(left({text}, {INDEXED_CHARACTERS}) COLLATE \"C\")")
}

/// What documents of one kind are sorted by.
pub(crate) fn columns(path: &JsonPath) -> Vec<String> {
    let other = other(path);
    vec![number(path), start(&other), other]
}

/// What a path is indexed by.
pub(super) fn indexed(path: &JsonPath) -> String {
    format!(
        "({}), ({}), {}, id",
        rank(path),
        number(path),
        start(&other(path))
    )
}

/// A text as a parameter.
pub(crate) fn text(sql: &mut Sql, text: &str) {
    let number = sql.parameter(stored(text).into_owned());
    sql.push(format_args!("${number}::text"));
}

/// Compares what stands at a path, which is of a kind, with a value of that kind as JSON.
pub(crate) fn compare(sql: &mut Sql, path: &JsonPath, rank: Rank, operator: &str, json: String) {
    match (rank, serde_json::from_str(&json)) {
        (Rank::Number, Ok(Value::Number(value))) => {
            let parameter = sql.parameter(number_text(&value));
            sql.push(format_args!(
                "{} {operator} ${parameter}::text::numeric",
                number(path)
            ));
        }
        (Rank::Text, Ok(Value::String(text))) => compare_text(sql, path, operator, &text),
        // As the server itself writes it.
        _ => compare_stored(sql, path, operator, json),
    }
}

/// Compares a text that stands at a path with a text.
pub(crate) fn compare_text(sql: &mut Sql, path: &JsonPath, operator: &str, text: &str) {
    compare_stored(sql, path, operator, stored(text).into_owned());
}

/// The first characters say it to an index, all of them say it exactly.
fn compare_stored(sql: &mut Sql, path: &JsonPath, operator: &str, text: String) {
    let number = sql.parameter(text);
    let of_start = match operator {
        "<" => "<=",
        ">" => ">=",
        same => same,
    };
    let other = other(path);
    sql.push(format_args!(
        "{} {of_start} left(${number}::text, {INDEXED_CHARACTERS}) AND {other} {operator} ${number}::text",
        start(&other)
    ));
}

/// How rank and value are found of the path by which documents are sorted.
pub(crate) fn sort_place(path: &JsonPath) -> String {
    format!(
        "SELECT {}, {}::text FROM document WHERE id = $1",
        rank(path),
        path.on_server()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_literal_for_each_member() {
        let members = ["a'b", "c\\d", "\u{1}"].map(str::to_owned);
        assert_eq!(path(&members), "(body -> 'a''b' -> E'c\\\\d' -> '\u{1}1')");
        assert_eq!(path(&[]), "(body)");
    }
}

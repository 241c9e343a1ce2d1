//! A path into documents, and the SQL that finds what stands there.

#[cfg(feature = "sqlite")]
use std::fmt::Write;
#[cfg(feature = "sqlite")]
use std::sync::LazyLock;

#[cfg(feature = "sqlite")]
use rusqlite::Connection;

use crate::error::ViewError;
use crate::log::pointer;
use crate::projection::view::statement::Dialect;

/// A JSON pointer through the members of objects, as a log's indexed paths are; or an empty one, for the whole document. Arrays end a
/// path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPath {
    #[cfg(feature = "sqlite")]
    /// As an SQL literal: each member in double quotes and escaped as JSON has it, the whole in single quotes.
    literal: String,
    /// The same as the server's SQL.
    #[cfg(feature = "postgres")]
    on_server: String,
}

/// Whether the SQLite library finds a member whose name has a double quote in it. Older ones end the name there, and find nothing.
#[cfg(feature = "sqlite")]
static FINDS_QUOTES: LazyLock<bool> = LazyLock::new(|| {
    let asked = r#"SELECT json_extract('{"a\"b":1}', '$."a\"b"') IS 1"#;
    Connection::open_in_memory()
        .and_then(|connection| connection.query_row(asked, [], |row| row.get(0)))
        .unwrap_or(false)
});

impl JsonPath {
    pub(crate) fn parse(dialect: Dialect, pointer: &str) -> Result<Self, ViewError> {
        let invalid = |problem| ViewError::InvalidPath {
            path: pointer.to_owned(),
            problem,
        };
        if pointer.contains('\0') {
            // SQLite ends a member's name there, and would find another one.
            return Err(invalid("no path here; it contains the character U+0000"));
        }
        let finds_quotes = match dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => *FINDS_QUOTES,
            #[cfg(feature = "postgres")]
            Dialect::Postgres => true,
        };
        if pointer.contains('"') && !finds_quotes {
            return Err(invalid(
                "no path here; this SQLite library does not find members with a double quote, the bundled one does",
            ));
        }
        let members = match pointer.is_empty() {
            true => Vec::new(),
            false => pointer::members(pointer).map_err(invalid)?,
        };
        Ok(Self {
            #[cfg(feature = "sqlite")]
            literal: literal(&members),
            #[cfg(feature = "postgres")]
            on_server: crate::projection::server::view::sql::path(&members),
        })
    }

    /// How the server finds what stands there, NULL when nothing does.
    #[cfg(feature = "postgres")]
    pub(crate) fn on_server(&self) -> &str {
        &self.on_server
    }

    #[cfg(feature = "sqlite")]
    /// What stands there as an SQL value, NULL for null and for nothing.
    pub(crate) fn value(&self) -> String {
        format!("json_extract(json, {})", self.literal)
    }

    #[cfg(feature = "sqlite")]
    /// What stands there as JSON text.
    pub(crate) fn json(&self) -> String {
        format!("json -> {}", self.literal)
    }

    #[cfg(feature = "sqlite")]
    /// The kind of what stands there, by which values of different kinds are told apart and sorted: see [`Rank`]. Never NULL.
    pub(crate) fn rank(&self) -> String {
        let kinds = [
            ("null", Rank::Null),
            ("false", Rank::Flag),
            ("true", Rank::Flag),
            ("integer", Rank::Number),
            ("real", Rank::Number),
            ("text", Rank::Text),
            ("array", Rank::Other),
            ("object", Rank::Other),
        ];
        let mut sql = format!("CASE json_type(json, {})", self.literal);
        for (kind, rank) in kinds {
            let _ = write!(sql, " WHEN '{kind}' THEN {}", rank as u8);
        }
        let _ = write!(sql, " ELSE {} END", Rank::Missing as u8);
        sql
    }
}

#[cfg(feature = "sqlite")]
fn literal(members: &[String]) -> String {
    let mut path = "$".to_owned();
    for member in members {
        // The text of a JSON string: quotes, backslashes and control characters in it are escaped.
        let quoted = serde_json::Value::from(member.as_str());
        // Writing to a text cannot fail.
        let _ = write!(path, ".{quoted}");
    }
    format!("'{}'", path.replace('\'', "''"))
}

/// The kinds of what may stand at a path, in the order in which they are sorted. The numbers are part of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    Missing = 0,
    Null = 1,
    Flag = 2,
    Number = 3,
    Text = 4,
    /// Arrays and objects.
    Other = 5,
}

impl Rank {
    pub(crate) fn of(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(_) => Self::Flag,
            serde_json::Value::Number(_) => Self::Number,
            serde_json::Value::String(_) => Self::Text,
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => Self::Other,
        }
    }

    /// Whether values of the kind are told apart by more than their kind.
    pub(crate) fn has_values(self) -> bool {
        !matches!(self, Self::Missing | Self::Null)
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        use Rank::{Flag, Missing, Null, Number, Other, Text};
        [Missing, Null, Flag, Number, Text, Other]
            .into_iter()
            .find(|rank| *rank as u8 == number)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_literal_whatever_its_members_are() {
        let literal = |pointer| JsonPath::parse(Dialect::Sqlite, pointer).unwrap().literal;
        assert_eq!(literal(""), "'$'");
        assert_eq!(literal("/"), r#"'$.""'"#);
        assert_eq!(literal("/a/b.c"), r#"'$."a"."b.c"'"#);
        assert_eq!(literal("/a~1b/~0"), r#"'$."a/b"."~"'"#);
        assert_eq!(
            literal("/'); DROP TABLE document; --"),
            r#"'$."''); DROP TABLE document; --"'"#
        );
        assert_eq!(literal("/\"\\\u{1}\n"), r#"'$."\"\\\u0001\n"'"#);
        for pointer in ["owner", "$.owner", "/a~", "/a~2", "/a\0"] {
            let refused = JsonPath::parse(Dialect::Sqlite, pointer);
            assert!(matches!(refused, Err(ViewError::InvalidPath { .. })), "{pointer}");
        }
    }
}

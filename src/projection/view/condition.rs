//! Conditions on documents.

use std::ops::Not;

use serde_json::Value;

use crate::error::ViewError;
use crate::projection::view::path::{JsonPath, Rank};
use crate::projection::view::statement::Sql;

/// Which documents a [`ViewQuery`](crate::ViewQuery) finds, by what stands at paths in their JSON.
///
/// A path is a JSON pointer through the members of objects, such as `/owner` or `/address/city`, in which `~1` stands for a slash and
/// `~0` for a tilde. An empty one is the whole document. Arrays end a path: what is in them is not found. A path has at most 256 bytes, and
/// no character U+0000; a member whose name has one is taken for one whose name ends there.
///
/// Values are compared with those of their own kind, and no other:
///
/// | kind | how it is compared |
/// | --- | --- |
/// | missing | equals nothing, not even null; see [`exists`](Self::exists) |
/// | null | equals null; neither less nor greater than anything |
/// | booleans | equal as they are; neither less nor greater than anything |
/// | numbers | by value: 1 equals 1.0, and never `true` or `"1"`. Integers outside of the range of `i64` are taken for the nearest `f64` |
/// | texts | byte by byte, which is the order of their code points; case counts |
/// | arrays, objects | equal nothing: they can only be there or not |
///
/// ```
/// use millstream::Condition;
///
/// let rich = Condition::at_least("/cents", 100_000).and(Condition::is_in("/country", ["AT", "CH"]));
/// let known = Condition::starts_with("/owner", "an").or(!Condition::exists("/owner"));
/// # let _ = (rich, known);
/// ```
///
/// A condition has at most 500 parts, values of [`is_in`](Self::is_in) included, in at most 32 levels. What is wrong with one is said by whoever is given it.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Compare(String, Comparison, Value),
    OneOf(String, Vec<Value>),
    Exists(String),
    StartsWith(String, String),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Comparison {
    fn sql(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }
}

/// Parts of one condition, and how deep they may be nested: SQLite's expressions have limits too.
const PARTS_MAX: usize = 500;
const DEPTH_MAX: usize = 32;

impl Condition {
    /// What stands at the path equals a number, a text, a boolean or null.
    pub fn equals(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(path, Comparison::Equal, value)
    }

    /// The opposite of [`equals`](Self::equals): also where the path is missing.
    pub fn not_equals(path: impl Into<String>, value: impl Into<Value>) -> Self {
        !Self::equals(path, value)
    }

    /// A number less than a number, or a text before a text.
    pub fn less(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(path, Comparison::Less, value)
    }

    /// The same, or equal.
    pub fn at_most(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(path, Comparison::AtMost, value)
    }

    /// A number greater than a number, or a text after a text.
    pub fn greater(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(path, Comparison::Greater, value)
    }

    /// The same, or equal.
    pub fn at_least(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(path, Comparison::AtLeast, value)
    }

    /// What stands at the path equals one of the values. None of them: no document.
    pub fn is_in<V: Into<Value>>(path: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self(Node::OneOf(
            path.into(),
            values.into_iter().map(Into::into).collect(),
        ))
    }

    /// Anything stands at the path: null too, and arrays and objects.
    pub fn exists(path: impl Into<String>) -> Self {
        Self(Node::Exists(path.into()))
    }

    /// A text that begins with this one.
    pub fn starts_with(path: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self(Node::StartsWith(path.into(), prefix.into()))
    }

    /// All of these hold. None of them: every document.
    pub fn all(conditions: impl IntoIterator<Item = Self>) -> Self {
        Self(Node::All(conditions.into_iter().collect()))
    }

    /// At least one of these holds. None of them: no document.
    pub fn any(conditions: impl IntoIterator<Item = Self>) -> Self {
        Self(Node::Any(conditions.into_iter().collect()))
    }

    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self.0 {
            Node::All(mut conditions) => {
                conditions.push(other);
                Self(Node::All(conditions))
            }
            node => Self::all([Self(node), other]),
        }
    }

    /// One of them holds, or both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self.0 {
            Node::Any(mut conditions) => {
                conditions.push(other);
                Self(Node::Any(conditions))
            }
            node => Self::any([Self(node), other]),
        }
    }

    fn compare(path: impl Into<String>, comparison: Comparison, value: impl Into<Value>) -> Self {
        Self(Node::Compare(path.into(), comparison, value.into()))
    }

    /// Adds the condition to a statement, as an expression that is never NULL.
    pub(crate) fn write(&self, sql: &mut Sql) -> Result<(), ViewError> {
        let mut parts_left = PARTS_MAX;
        self.write_part(sql, DEPTH_MAX, &mut parts_left)
    }

    fn write_part(&self, sql: &mut Sql, levels_left: usize, parts_left: &mut usize) -> Result<(), ViewError> {
        let Some(levels_left) = levels_left.checked_sub(1) else {
            return refused(format!("it has more than {DEPTH_MAX} levels"));
        };
        count(1, parts_left)?;
        match &self.0 {
            Node::Compare(path, comparison, value) => write_comparison(sql, path, *comparison, value)?,
            Node::OneOf(path, values) => {
                count(values.len(), parts_left)?;
                write_one_of(sql, path, values)?;
            }
            Node::Exists(path) => {
                let rank = sql.rank(&JsonPath::parse(sql.dialect, path)?);
                sql.push(format_args!("{rank} > {}", Rank::Missing as u8));
            }
            Node::StartsWith(path, prefix) => write_prefix(sql, path, prefix)?,
            Node::All(conditions) | Node::Any(conditions) => {
                let (word, of_none) = match &self.0 {
                    Node::All(_) => (" AND ", true),
                    _ => (" OR ", false),
                };
                sql.push(format_args!("("));
                if conditions.is_empty() {
                    sql.truth(of_none);
                }
                for (index, condition) in conditions.iter().enumerate() {
                    sql.push(format_args!("{}", if index > 0 { word } else { "" }));
                    condition.write_part(sql, levels_left, parts_left)?;
                }
                sql.push(format_args!(")"));
            }
            Node::Not(condition) => {
                sql.push(format_args!("NOT ("));
                condition.write_part(sql, levels_left, parts_left)?;
                sql.push(format_args!(")"));
            }
        }
        Ok(())
    }
}

impl Not for Condition {
    type Output = Self;

    /// The opposite: it holds exactly where the condition does not.
    fn not(self) -> Self {
        Self(Node::Not(Box::new(self)))
    }
}

fn refused<T>(problem: String) -> Result<T, ViewError> {
    Err(ViewError::InvalidCondition { problem })
}

fn count(parts: usize, left: &mut usize) -> Result<(), ViewError> {
    match left.checked_sub(parts) {
        Some(rest) => *left = rest,
        None => return refused(format!("it has more than {PARTS_MAX} parts, values included")),
    }
    Ok(())
}

fn write_comparison(
    sql: &mut Sql,
    pointer: &str,
    comparison: Comparison,
    value: &Value,
) -> Result<(), ViewError> {
    let path = JsonPath::parse(sql.dialect, pointer)?;
    let rank = comparable(pointer, value)?;
    if comparison != Comparison::Equal && !matches!(rank, Rank::Number | Rank::Text) {
        return refused(format!(
            "{value} at {pointer:?} is neither less nor greater than anything; only numbers and texts have an order"
        ));
    }
    sql.push(format_args!("({} = {}", sql.rank(&path), rank as u8));
    if rank.has_values() {
        sql.push(format_args!(" AND "));
        sql.compare(&path, rank, comparison.sql(), value.to_string());
    }
    sql.push(format_args!(")"));
    Ok(())
}

fn write_one_of(sql: &mut Sql, pointer: &str, values: &[Value]) -> Result<(), ViewError> {
    let path = JsonPath::parse(sql.dialect, pointer)?;
    let ranks = values.iter().map(|value| comparable(pointer, value));
    let ranks = ranks.collect::<Result<Vec<_>, _>>()?;
    sql.push(format_args!("("));
    let mut word = "";
    for rank in [Rank::Null, Rank::Flag, Rank::Number, Rank::Text] {
        let mut of_rank = values
            .iter()
            .zip(&ranks)
            .filter(|(_, found)| **found == rank)
            .map(|(value, _)| value)
            .peekable();
        if of_rank.peek().is_none() {
            continue;
        }
        sql.push(format_args!("{word}({} = {}", sql.rank(&path), rank as u8));
        if rank.has_values() {
            sql.push(format_args!(" AND "));
            sql.equals_any(&path, rank, of_rank.map(Value::to_string));
        }
        sql.push(format_args!(")"));
        word = " OR ";
    }
    if word.is_empty() {
        sql.truth(false);
    }
    sql.push(format_args!(")"));
    Ok(())
}

fn write_prefix(sql: &mut Sql, pointer: &str, prefix: &str) -> Result<(), ViewError> {
    let path = JsonPath::parse(sql.dialect, pointer)?;
    sql.push(format_args!("({} = {} AND ", sql.rank(&path), Rank::Text as u8));
    sql.compare_text(&path, ">=", prefix.to_owned());
    if let Some(end) = after_prefix(prefix) {
        sql.push(format_args!(" AND "));
        sql.compare_text(&path, "<", end);
    }
    sql.push(format_args!(")"));
    Ok(())
}

/// The first text behind all that begin with a prefix. Nothing: they are the last ones.
pub(crate) fn after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // The surrogates are no characters, a range of them leaves them out.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// The kind of a value that something is compared with.
fn comparable(pointer: &str, value: &Value) -> Result<Rank, ViewError> {
    match Rank::of(value) {
        Rank::Other => refused(format!(
            "what stands at {pointer:?} cannot be compared with an array or an object; compare its members"
        )),
        rank => Ok(rank),
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::projection::view::statement::Dialect;

    #[test]
    fn the_end_of_a_prefix_is_the_first_text_behind_it() {
        assert_eq!(after_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_prefix("\u{10ffff}"), None);
        assert_eq!(after_prefix(""), None);
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_refused() {
        let write = |condition: &Condition| condition.write(&mut Sql::new(Dialect::Sqlite));
        let deep = (1..DEPTH_MAX).fold(Condition::exists("/a"), |inner, _| !inner);
        assert!(write(&deep).is_ok());
        assert!(matches!(write(&!deep), Err(ViewError::InvalidCondition { .. })));
        assert!(write(&Condition::is_in("/a", 0..PARTS_MAX - 1)).is_ok());
        let large = Condition::is_in("/a", 0..PARTS_MAX);
        assert!(matches!(write(&large), Err(ViewError::InvalidCondition { .. })));
    }
}

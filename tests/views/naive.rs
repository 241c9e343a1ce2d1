//! What a view's query means, said once more and without SQL; and random cases of it, made of bytes. Shared with the fuzzer.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use millstream::internals::DocumentTable;
use millstream::{Condition, PageToken, ViewError, ViewQuery};
use serde_json::{Value, json};

/// Makes documents, indexes and queries of the bytes, and compares what is found with what is to be found.
///
/// # Panics
/// When they differ, and when SQL fails.
pub(crate) fn check(bytes: &[u8]) {
    let mut source = Source(bytes);
    let documents: BTreeMap<String, Value> = (0..source.below(24))
        .map(|_| (source.id(), source.document()))
        .collect();
    let indexes: Vec<String> = (0..source.below(3)).map(|_| pointer(&source.path())).collect();
    let table = DocumentTable::new(&documents, &indexes).expect("the paths are paths");
    for _ in 0..=source.below(4) {
        let asked = source.asked();
        check_query(&table, &documents, &asked);
    }
    check_raw(&table, bytes);
}

/// Whatever is given as a path or a token: an answer, or a typed error.
fn check_raw(table: &DocumentTable, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let by_path = ViewQuery::filter(Condition::equals(&*text, 1)).sort_by(&*text);
    let refused = table.page(&by_path);
    assert!(matches!(refused, Ok(_) | Err(ViewError::InvalidPath { .. })));
    if let Err(error) = text.parse::<PageToken>() {
        assert!(matches!(error, ViewError::InvalidPage { .. }));
    }
    let first = table.page(&ViewQuery::all().sort_by("/a").limit(1));
    let Some(token) = first.expect("that can be asked").next else {
        return;
    };
    let mut forged = token.to_string().into_bytes();
    for pair in bytes.chunks_exact(2) {
        let at = usize::from(pair[0]) % forged.len();
        forged[at] = b"0123456789abcdef"[usize::from(pair[1] % 16)];
    }
    let forged = String::from_utf8(forged).expect("digits are text");
    if let Ok(forged) = forged.parse::<PageToken>() {
        let page = table.page(&ViewQuery::all().sort_by("/a").after(forged));
        assert!(matches!(page, Ok(_) | Err(ViewError::InvalidPage { .. })));
    }
}

fn check_query(table: &DocumentTable, documents: &BTreeMap<String, Value>, asked: &Asked) {
    let query = asked.query();
    if !asked.rule.is_valid() {
        let refused = table.page(&query);
        assert!(
            matches!(refused, Err(ViewError::InvalidCondition { .. })),
            "{asked:?}: {refused:?}"
        );
        return;
    }
    let expected = asked.find(documents);
    let (mut found, mut query) = (Vec::new(), query);
    loop {
        let page = table.page(&query).expect("the query is right");
        assert!(page.documents.len() <= asked.limit);
        found.extend(page.documents.into_iter().map(|(id, _)| id));
        assert!(found.len() <= expected.len(), "{asked:?} finds too much");
        let Some(next) = page.next else { break };
        let travelled: PageToken = next.to_string().parse().expect("a token comes back");
        assert_eq!(next, travelled);
        query = query.after(travelled);
    }
    assert_eq!(found, expected, "{asked:?} of {documents:?}");
    let count = table.count(&query).expect("the query is right");
    assert_eq!(count, expected.len() as u64);
}

/// Documents, paths to be indexed and questions, made of the bytes: for a table elsewhere, which is asked here and there.
#[allow(dead_code, reason = "not everybody who shares this has another table")]
pub(crate) fn case(bytes: &[u8]) -> (BTreeMap<String, Value>, Vec<String>, Vec<Asked>) {
    let mut source = Source(bytes);
    let documents = (0..source.below(24))
        .map(|_| (source.id(), source.document()))
        .collect();
    let indexes = (0..source.below(3)).map(|_| pointer(&source.path())).collect();
    let asked = (0..=source.below(4)).map(|_| source.asked()).collect();
    (documents, indexes, asked)
}

#[derive(Debug)]
pub(crate) struct Asked {
    rule: Rule,
    sort: Option<Vec<&'static str>>,
    is_descending: bool,
    limit: usize,
}

#[allow(dead_code, reason = "not everybody who shares this has another table")]
impl Asked {
    pub(crate) fn is_valid(&self) -> bool {
        self.rule.is_valid()
    }

    /// Whether it sorts some of the documents by arrays or objects.
    pub(crate) fn sorts_structures(&self, documents: &BTreeMap<String, Value>) -> bool {
        let Some(path) = &self.sort else { return false };
        documents.values().any(|document| kind(at(document, path)) == 5)
    }

    pub(crate) fn query(&self) -> ViewQuery {
        let mut query = ViewQuery::filter(self.rule.condition()).limit(self.limit);
        if let Some(path) = &self.sort {
            query = query.sort_by(pointer(path));
        }
        match self.is_descending {
            true => query.descending(),
            false => query,
        }
    }

    pub(crate) fn find(&self, documents: &BTreeMap<String, Value>) -> Vec<String> {
        let mut found: Vec<(&String, &Value)> = documents
            .iter()
            .filter(|(_, document)| self.rule.holds(document))
            .collect();
        found.sort_by(|one, other| {
            let by_path = self
                .sort
                .as_ref()
                .map_or(Ordering::Equal, |path| order(at(one.1, path), at(other.1, path)));
            by_path.then_with(|| one.0.as_bytes().cmp(other.0.as_bytes()))
        });
        if self.is_descending {
            found.reverse();
        }
        found.into_iter().map(|(id, _)| id.clone()).collect()
    }
}

#[derive(Debug)]
enum Rule {
    Equals(Vec<&'static str>, Value),
    NotEquals(Vec<&'static str>, Value),
    Less(Vec<&'static str>, Value),
    AtMost(Vec<&'static str>, Value),
    Greater(Vec<&'static str>, Value),
    AtLeast(Vec<&'static str>, Value),
    OneOf(Vec<&'static str>, Vec<Value>),
    Exists(Vec<&'static str>),
    StartsWith(Vec<&'static str>, String),
    All(Vec<Rule>),
    Any(Vec<Rule>),
    Not(Box<Rule>),
}

impl Rule {
    fn condition(&self) -> Condition {
        match self {
            Self::Equals(path, value) => Condition::equals(pointer(path), value.clone()),
            Self::NotEquals(path, value) => Condition::not_equals(pointer(path), value.clone()),
            Self::Less(path, value) => Condition::less(pointer(path), value.clone()),
            Self::AtMost(path, value) => Condition::at_most(pointer(path), value.clone()),
            Self::Greater(path, value) => Condition::greater(pointer(path), value.clone()),
            Self::AtLeast(path, value) => Condition::at_least(pointer(path), value.clone()),
            Self::OneOf(path, values) => Condition::is_in(pointer(path), values.clone()),
            Self::Exists(path) => Condition::exists(pointer(path)),
            Self::StartsWith(path, prefix) => Condition::starts_with(pointer(path), prefix.clone()),
            Self::All(rules) => Condition::all(rules.iter().map(Self::condition)),
            Self::Any(rules) => Condition::any(rules.iter().map(Self::condition)),
            Self::Not(rule) => !rule.condition(),
        }
    }

    fn is_valid(&self) -> bool {
        let is_scalar = |value: &Value| !value.is_array() && !value.is_object();
        match self {
            Self::Equals(_, value) | Self::NotEquals(_, value) => is_scalar(value),
            Self::Less(_, value)
            | Self::AtMost(_, value)
            | Self::Greater(_, value)
            | Self::AtLeast(_, value) => value.is_number() || value.is_string(),
            Self::OneOf(_, values) => values.iter().all(is_scalar),
            Self::Exists(_) | Self::StartsWith(..) => true,
            Self::All(rules) | Self::Any(rules) => rules.iter().all(Self::is_valid),
            Self::Not(rule) => rule.is_valid(),
        }
    }

    fn holds(&self, document: &Value) -> bool {
        let equals = |path: &[&str], value: &Value| {
            at(document, path).is_some_and(|found| order(Some(found), Some(value)).is_eq())
        };
        let compares = |path: &[&str], value: &Value, wanted: fn(Ordering) -> bool| {
            at(document, path).is_some_and(|found| {
                kind(Some(found)) == kind(Some(value)) && wanted(order(Some(found), Some(value)))
            })
        };
        match self {
            Self::Equals(path, value) => equals(path, value),
            Self::NotEquals(path, value) => !equals(path, value),
            Self::Less(path, value) => compares(path, value, Ordering::is_lt),
            Self::AtMost(path, value) => compares(path, value, Ordering::is_le),
            Self::Greater(path, value) => compares(path, value, Ordering::is_gt),
            Self::AtLeast(path, value) => compares(path, value, Ordering::is_ge),
            Self::OneOf(path, values) => values.iter().any(|value| equals(path, value)),
            Self::Exists(path) => at(document, path).is_some(),
            Self::StartsWith(path, prefix) => at(document, path)
                .and_then(Value::as_str)
                .is_some_and(|text| text.starts_with(prefix.as_str())),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(document)),
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(document)),
            Self::Not(rule) => !rule.holds(document),
        }
    }
}

fn pointer(path: &[&str]) -> String {
    let escape = |member: &&str| format!("/{}", member.replace('~', "~0").replace('/', "~1"));
    path.iter().map(escape).collect()
}

fn at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter()
        .try_fold(document, |value, member| value.as_object()?.get(*member))
}

fn kind(value: Option<&Value>) -> u8 {
    match value {
        None => 0,
        Some(Value::Null) => 1,
        Some(Value::Bool(_)) => 2,
        Some(Value::Number(_)) => 3,
        Some(Value::String(_)) => 4,
        Some(Value::Array(_) | Value::Object(_)) => 5,
    }
}

/// The order in which documents are sorted.
fn order(one: Option<&Value>, other: Option<&Value>) -> Ordering {
    kind(one).cmp(&kind(other)).then_with(|| match (one, other) {
        (Some(Value::Bool(one)), Some(Value::Bool(other))) => one.cmp(other),
        (Some(Value::Number(one)), Some(Value::Number(other))) => {
            match (one.as_i64(), other.as_i64(), one.as_f64(), other.as_f64()) {
                (Some(one), Some(other), _, _) => one.cmp(&other),
                (Some(one), None, _, Some(other)) => whole_to_float(one, other),
                (None, Some(other), Some(one), _) => whole_to_float(other, one).reverse(),
                (_, _, one, other) => one.partial_cmp(&other).expect("JSON has no NaN"),
            }
        }
        (Some(Value::String(one)), Some(Value::String(other))) => one.as_bytes().cmp(other.as_bytes()),
        (Some(one), Some(other)) => one.to_string().cmp(&other.to_string()),
        _ => Ordering::Equal,
    })
}

fn whole_to_float(whole: i64, float: f64) -> Ordering {
    let by_whole = i128::from(whole).cmp(&(float.trunc() as i128));
    by_whole.then_with(|| 0.0.partial_cmp(&float.fract()).expect("it is finite"))
}

/// Bytes, and zeros when they are used up.
struct Source<'a>(&'a [u8]);

const MEMBERS: [&str; 16] = [
    "a", "b", "a", "b", "a.b", "a\"b", "a\\b", "ü", "", "0", "a/b", "~", "'", "$", "[0]", "\u{1}\n",
];
const TEXTS: [&str; 16] = [
    "",
    "1",
    "true",
    "null",
    "a",
    "ab",
    "a\0b",
    "b",
    "ü",
    "\u{10ffff}",
    "A",
    "{}",
    "a\u{10ffff}c",
    "[1]",
    "'\"\\",
    "1.0",
];

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn text(&mut self) -> &'static str {
        TEXTS[usize::from(self.below(16))]
    }

    fn id(&mut self) -> String {
        format!("{}{}", self.text(), self.below(8))
    }

    fn path(&mut self) -> Vec<&'static str> {
        let members = [0, 1, 1, 1, 1, 2][usize::from(self.below(6))];
        (0..members)
            .map(|_| MEMBERS[usize::from(self.below(16))])
            .collect()
    }

    fn number(&mut self) -> Value {
        match self.below(12) {
            0..4 => json!(i64::from(self.byte() % 5) - 2),
            4 => json!(f64::from(self.byte() % 5) - 2.0),
            5 => json!(f64::from(self.byte() % 9) / 2.0 - 2.0),
            6 => json!(i64::MAX - i64::from(self.byte() % 3)),
            7 => json!(i64::MIN + i64::from(self.byte() % 3)),
            8 => json!(u64::MAX - u64::from(self.byte())),
            9 => json!((1_i64 << 53) + i64::from(self.byte() % 4)),
            10 => json!(
                [0.1, -0.0, 1e300, 5e-324, 9_007_199_254_740_994.0, -9.3e18][usize::from(self.below(6))]
            ),
            _ => {
                let bits = u64::from_le_bytes(std::array::from_fn(|_| self.byte()));
                // What is not finite is null.
                json!(f64::from_bits(bits))
            }
        }
    }

    fn value(&mut self, levels: u8) -> Value {
        match self.below(if levels == 0 { 7 } else { 10 }) {
            0 => Value::Null,
            1 => json!(self.byte().is_multiple_of(2)),
            2..5 => self.number(),
            5 | 6 => json!(self.text()),
            7 => (0..self.below(3)).map(|_| self.value(levels - 1)).collect(),
            _ => self.members(levels - 1),
        }
    }

    fn members(&mut self, levels: u8) -> Value {
        let members = (0..self.below(4)).map(|_| {
            let member = MEMBERS[usize::from(self.below(16))].to_owned();
            (member, self.value(levels))
        });
        Value::Object(members.collect())
    }

    fn document(&mut self) -> Value {
        match self.below(8) {
            0 => self.value(1),
            _ => self.members(2),
        }
    }

    fn rule(&mut self, levels: u8) -> Rule {
        let choice = self.below(if levels == 0 { 9 } else { 12 });
        if choice >= 9 {
            let rules = |source: &mut Self| (0..source.below(4)).map(|_| source.rule(levels - 1)).collect();
            return match choice {
                9 => Rule::All(rules(self)),
                10 => Rule::Any(rules(self)),
                _ => Rule::Not(Box::new(self.rule(levels - 1))),
            };
        }
        let path = self.path();
        match choice {
            0 => Rule::Equals(path, self.value(1)),
            1 => Rule::NotEquals(path, self.value(1)),
            2 => Rule::Less(path, self.value(0)),
            3 => Rule::AtMost(path, self.value(0)),
            4 => Rule::Greater(path, self.value(0)),
            5 => Rule::AtLeast(path, self.value(0)),
            6 => Rule::OneOf(path, (0..self.below(4)).map(|_| self.value(0)).collect()),
            7 => Rule::Exists(path),
            _ => Rule::StartsWith(path, self.text().to_owned()),
        }
    }

    fn asked(&mut self) -> Asked {
        Asked {
            rule: self.rule(2),
            sort: (!self.below(3).is_multiple_of(3)).then(|| self.path()),
            is_descending: self.byte().is_multiple_of(2),
            limit: 1 + usize::from(self.below(6)),
        }
    }
}

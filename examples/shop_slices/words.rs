//! The values that requests and events are made of. What is wrong with one is found when it is read, and never later.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What goes into a path and a tag: the number of an order, the name of an article.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Code(String);

/// Who orders. Any text of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Customer(String);

/// How many pieces: from 1 to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub(crate) struct Pieces(u32);

/// Some pieces of an article.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) sku: Code,
    pub(crate) quantity: Pieces,
}

const CODE_CHARS_MAX: usize = 40;
const CUSTOMER_CHARS_MAX: usize = 100;
const PIECES_MAX: u32 = 1_000;

impl Code {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Customer {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pieces {
    pub(crate) fn count(self) -> i64 {
        i64::from(self.0)
    }
}

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins_well && text.len() <= CODE_CHARS_MAX && text.chars().all(is_plain) {
            return Ok(Self(text));
        }
        Err(format!(
            "a number or an article is 1 to {CODE_CHARS_MAX} of the characters A-Z, a-z, 0-9, '-', '_' and '.', and begins with a letter or digit"
        ))
    }
}

impl TryFrom<String> for Customer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let chars = text.chars().count();
        if !text.trim().is_empty() && chars <= CUSTOMER_CHARS_MAX && !text.contains(char::is_control) {
            return Ok(Self(text));
        }
        Err(format!(
            "a customer is a text of one line of 1 to {CUSTOMER_CHARS_MAX} characters, this one has {chars}"
        ))
    }
}

impl TryFrom<u32> for Pieces {
    type Error = String;

    fn try_from(count: u32) -> Result<Self, String> {
        match count {
            1..=PIECES_MAX => Ok(Self(count)),
            _ => Err(format!(
                "a quantity is from 1 to {PIECES_MAX}, this one is {count}"
            )),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

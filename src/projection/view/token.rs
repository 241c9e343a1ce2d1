//! Where a page ends: the place of its last document in the order, as a text that may travel.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::error::ViewError;
use crate::projection::view::path::Rank;

/// Where the next page begins: see [`ViewPage::next`](crate::ViewPage::next).
///
/// It is written with `to_string` as hexadecimal digits, which are safe in an address, and read with `parse`. It holds the last document's id and what it is
/// sorted by, which whoever has the token can read. One that was changed gives other documents of the same query, or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    fingerprint: u64,
    place: Place,
}

/// A place in the order of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: String,
    /// Nothing: it is sorted by id alone.
    pub(crate) sort: Option<SortPlace>,
}

/// What a document is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SortPlace {
    pub(crate) rank: Rank,
    /// The value as JSON text.
    pub(crate) json: String,
}

/// As it is written: fingerprint, id, and rank and value of what it is sorted by.
type Written = (u64, String, Option<(u8, String)>);

impl PageToken {
    pub(crate) fn new(fingerprint: u64, place: Place) -> Self {
        Self { fingerprint, place }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Refuses the token of another query.
    pub(crate) fn check(&self, fingerprint: u64) -> Result<(), ViewError> {
        match self.fingerprint == fingerprint {
            true => Ok(()),
            false => refused("it belongs to a query with another condition or order"),
        }
    }
}

fn refused<T>(problem: &'static str) -> Result<T, ViewError> {
    Err(ViewError::InvalidPage { problem })
}

impl fmt::Display for PageToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = self.place.sort.as_ref();
        let sort = sort.map(|sort| (sort.rank as u8, sort.json.as_str()));
        let written = (self.fingerprint, &self.place.id, sort);
        let text = serde_json::to_string(&written).map_err(|_| fmt::Error)?;
        text.bytes().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for PageToken {
    type Err = ViewError;

    fn from_str(text: &str) -> Result<Self, ViewError> {
        const BROKEN: &str = "it is no page token";
        let digits = text.as_bytes().chunks_exact(2);
        if !digits.remainder().is_empty() {
            return refused(BROKEN);
        }
        let byte = |pair: &[u8]| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        };
        let Some(bytes) = digits.map(byte).collect::<Option<Vec<u8>>>() else {
            return refused(BROKEN);
        };
        let Ok((fingerprint, id, sort)) = serde_json::from_slice::<Written>(&bytes) else {
            return refused(BROKEN);
        };
        let sort = match sort {
            None => None,
            Some((rank, json)) => Some(read_sort(rank, json)?),
        };
        Ok(Self::new(fingerprint, Place { id, sort }))
    }
}

/// The value has to be of its kind, so that no text reaches SQLite that is not what it says.
fn read_sort(rank: u8, json: String) -> Result<SortPlace, ViewError> {
    let value = serde_json::from_str::<Value>(&json);
    match (Rank::from_number(rank), value) {
        (Some(Rank::Missing), Ok(Value::Null)) => Ok(SortPlace {
            rank: Rank::Missing,
            json,
        }),
        (Some(rank), Ok(value)) if Rank::of(&value) == rank => Ok(SortPlace { rank, json }),
        _ => refused("the value in it is not of its kind"),
    }
}

//! What stands in a row of `event`: tags as they are stored, and the row as a query sees it.

use std::cell::OnceCell;

use crate::error::UndecodableEvent;
use crate::event::matching::Selectable;
use crate::event::record::TAG_SEPARATOR;

/// The tags of a row: nearly always texts without an escape, which are found without parsing.
pub(super) enum StoredTags<'a> {
    None,
    /// What stands between `["` and `"]`.
    Plain(&'a str),
    Parsed(Vec<String>),
}

pub(super) fn stored_tags(json: &str) -> Result<StoredTags<'_>, serde_json::Error> {
    let inner = json.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]"));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(StoredTags::Plain(inner)),
        _ => serde_json::from_str(json).map(StoredTags::Parsed),
    }
}

impl StoredTags<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let (plain, parsed) = match self {
            Self::None => (None, &[][..]),
            // Without an escape every second quotation mark ends a tag.
            Self::Plain(inner) => (Some(inner.split('"').step_by(2)), &[][..]),
            Self::Parsed(tags) => (None, &tags[..]),
        };
        plain
            .into_iter()
            .flatten()
            .chain(parsed.iter().map(String::as_str))
    }
}

/// A row, as the query sees it.
pub(super) struct RowView<'a> {
    event_type: &'a str,
    tags: &'a str,
    payload: &'a str,
    fault: Option<&'a UndecodableEvent>,
    parsed: OnceCell<Option<serde_json::Value>>,
}

impl<'a> RowView<'a> {
    pub(super) fn new(
        event_type: &'a str,
        tags: &'a str,
        payload: &'a str,
        fault: Option<&'a UndecodableEvent>,
    ) -> Self {
        Self {
            event_type,
            tags,
            payload,
            fault,
            parsed: OnceCell::new(),
        }
    }
}

impl Selectable for RowView<'_> {
    fn event_type(&self) -> &str {
        self.event_type
    }

    fn has_tag(&self, tag: &str) -> bool {
        !tag.is_empty() && self.tags.split(TAG_SEPARATOR).any(|found| found == tag)
    }

    fn parsed_payload(&self) -> Option<&serde_json::Value> {
        self.parsed
            .get_or_init(|| serde_json::from_str(self.payload).ok())
            .as_ref()
    }

    fn fault(&self) -> Option<&UndecodableEvent> {
        self.fault
    }
}

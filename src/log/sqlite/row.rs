//! What stands in a row of `event`: tags as they are stored.

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

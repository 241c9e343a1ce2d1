//! A stored row as it is shown: after the upcasters of the store, and to a query.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::error::{StoredAs, UndecodableEvent};
use crate::event::evolution::{Evolution, Shown, check_batch_bytes};
use crate::event::lineage::Lineage;
use crate::event::matching::Selectable;
use crate::event::record::TAG_SEPARATOR;

/// What a row's type and schema version stand for.
#[derive(Clone)]
pub(super) struct Kind {
    pub(super) name: Arc<str>,
    pub(super) version: u32,
    /// What there is to say of an event of this version that is shown as it is stored.
    pub(super) lineage: Option<Arc<Lineage>>,
    /// Whether it is shown as it is stored.
    pub(super) is_current: bool,
}

impl Kind {
    pub(super) fn new(name: &str, version: u32, evolution: Option<&Evolution>) -> Self {
        Self {
            version,
            lineage: Lineage::of_version(version),
            is_current: evolution.is_none_or(|evolution| evolution.is_current(name, version)),
            name: name.into(),
        }
    }
}

/// What is shown of a row's type and payload.
pub(super) struct ShownRow {
    pub(super) event_type: Arc<str>,
    pub(super) lineage: Option<Arc<Lineage>>,
    /// Nothing: the payload is the stored one.
    pub(super) payload: Option<String>,
}

/// What is asked about.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) sequence: u64,
    pub(super) payload: &'a str,
    /// What was read of its batch before it.
    pub(super) batch_bytes: usize,
}

impl ShownRow {
    pub(super) fn as_stored(kind: Kind) -> Self {
        Self {
            event_type: kind.name,
            lineage: kind.lineage,
            payload: None,
        }
    }

    /// Asks the upcasters. What they cannot bring up is shown as it is stored, with the reason.
    pub(super) fn of(evolution: &Evolution, kind: Kind, row: Row<'_>) -> Self {
        let shown = evolution.show(&kind.name, kind.version, row.payload);
        let shown = shown.and_then(|shown| match &shown {
            Shown::As {
                payload: Some(payload),
                ..
            } => check_batch_bytes(&kind.name, row.batch_bytes + payload.len()).map(|()| shown),
            _ => Ok(shown),
        });
        match shown {
            Ok(Shown::AsStored) => Self::as_stored(kind),
            Ok(Shown::As {
                event_type,
                version,
                payload,
            }) => Self {
                event_type,
                lineage: Lineage::of_version(version),
                payload,
            },
            Err(cause) => {
                let stored = StoredAs {
                    sequence: row.sequence,
                    event_type: Arc::clone(&kind.name),
                    schema_version: kind.version,
                };
                let fault = evolution.undecodable(stored, cause);
                Self {
                    event_type: kind.name,
                    lineage: Some(Arc::new(Lineage::undecodable(kind.version, fault))),
                    payload: None,
                }
            }
        }
    }

    pub(super) fn fault(&self) -> Option<&UndecodableEvent> {
        self.lineage.as_deref()?.fault.as_ref()
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

//! A row of `event` as it is shown: after the upcasters of the store.

use std::sync::Arc;

use crate::error::{StoredAs, UndecodableEvent};
use crate::event::evolution::{Evolution, Shown};
use crate::event::lineage::Lineage;
use crate::log::sqlite::names::Kind;

/// What is shown of a row's type and payload.
pub(super) struct ShownRow {
    pub(super) event_type: Arc<str>,
    pub(super) lineage: Option<Arc<Lineage>>,
    /// Nothing: the payload is the stored one.
    pub(super) payload: Option<String>,
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
    pub(super) fn of(evolution: &Evolution, kind: Kind, sequence: u64, payload: &str) -> Self {
        match evolution.show(&kind.name, kind.version, payload) {
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
                    sequence,
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

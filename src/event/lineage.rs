//! What is known of an event beyond what is shown of it: its schema version, what is stored of it, and what is wrong with it.

use std::sync::Arc;

use crate::error::UndecodableEvent;
use crate::event::text::TextRange;

/// What is said of an event that is not simply one of version 1: of most there is nothing to say.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// The schema version of the payload that is shown.
    pub(crate) version: u32,
    /// What is to be stored, when that is not what is shown. Only of events that are being appended.
    pub(crate) stored: Option<Stored>,
    /// Why it cannot be brought to the newest version: it is shown as it is stored, and to nobody's handler.
    pub(crate) fault: Option<UndecodableEvent>,
}

/// An event as it is to be stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) event_type: Arc<str>,
    pub(crate) version: u32,
    /// In the buffer of the payload that is shown.
    pub(crate) payload: TextRange,
}

impl Lineage {
    pub(crate) fn shown(version: u32) -> Self {
        Self {
            version,
            stored: None,
            fault: None,
        }
    }

    /// Nothing of an event of version 1.
    pub(crate) fn of_version(version: u32) -> Option<Arc<Self>> {
        (version != 1).then(|| Arc::new(Self::shown(version)))
    }

    pub(crate) fn stored_as(self, event_type: &Arc<str>, version: u32, payload: TextRange) -> Self {
        Self {
            stored: Some(Stored {
                event_type: Arc::clone(event_type),
                version,
                payload,
            }),
            ..self
        }
    }

    #[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn undecodable(version: u32, fault: UndecodableEvent) -> Self {
        Self {
            fault: Some(fault),
            ..Self::shown(version)
        }
    }
}

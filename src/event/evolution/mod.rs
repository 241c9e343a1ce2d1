//! Events of older schema versions become events of today: the upcasters of a store, and how they are applied. Pure.
//!
//! What is stored never changes. What is shown is made of it at the two places where events come into sight, and before
//! anybody selects: by the caller of an append, before it is queued, and where a row of the log becomes an event. So what is
//! live and what is replayed cannot differ, and neither the committer nor a lock waits for a closure of the user, but for
//! what another process appended and for the context of a conditional append.
//!
//! An event begins with the upcasters of its stored type. When these are at an end and the type was renamed, it goes on
//! under the new name with the version that it has then.

mod register;
#[cfg(any(feature = "contract", feature = "postgres", feature = "sqlite"))]
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "a log of somebody else needs half of it")
)]
mod stored;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{BoxError, UpcastError};
use crate::event::draft::Drafts;
use crate::event::limits::check_depth;
use crate::event::lineage::Lineage;
use crate::event::record::EventRecord;

pub(crate) use crate::event::evolution::register::Registrations;

type Upcast = dyn Fn(Value) -> Result<Value, BoxError> + Send + Sync;

/// The upcasters and renames of a store, checked. A store without any has none.
pub(crate) struct Evolution {
    plans: HashMap<Arc<str>, Plan>,
}

/// What becomes of the events of one type.
struct Plan {
    /// The version that the first upcaster begins at.
    oldest: u32,
    /// One per version, without a gap.
    upcasts: Vec<Arc<Upcast>>,
    /// The newest version, if one is known.
    newest: Option<u32>,
    renamed: Option<Arc<str>>,
    /// Where the renames lead to in the end.
    shown_type: Arc<str>,
}

/// How an event is shown.
#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    AsStored,
    As {
        event_type: Arc<str>,
        version: u32,
        /// Nothing: the payload is the stored one.
        payload: Option<String>,
    },
}

/// No payload may become larger: the texts of a page share a buffer whose ranges have 32 bits.
const UPCAST_BYTES_MAX: usize = 16 << 20;
/// Nor the texts of one batch together, as far as they are read at once.
const UPCAST_BATCH_BYTES_MAX: usize = 1 << 30;

impl Evolution {
    /// Whether events of this type and version are shown as they are stored, whatever their payloads are.
    pub(crate) fn is_current(&self, event_type: &str, version: u32) -> bool {
        self.plans
            .get(event_type)
            .is_none_or(|plan| plan.renamed.is_none() && plan.newest.is_none_or(|newest| newest == version))
    }

    /// Brings an event to the newest version of its type.
    pub(crate) fn show(&self, stored_type: &str, version: u32, payload: &str) -> Result<Shown, UpcastError> {
        if self.is_current(stored_type, version) {
            return Ok(Shown::AsStored);
        }
        let (mut event_type, mut reached) = (stored_type, version);
        let mut value = None;
        while let Some(plan) = self.plans.get(event_type) {
            reached = plan.bring_up(event_type, reached, payload, &mut value)?;
            match &plan.renamed {
                Some(renamed) => event_type = renamed,
                None => break,
            }
        }
        let payload = value.map(|value| written(event_type, &value)).transpose()?;
        Ok(Shown::As {
            event_type: self.shown_type(stored_type),
            version: reached,
            payload,
        })
    }

    /// Shows the events of a batch that is to be appended. Those that change keep what is to be stored. An error names the
    /// event by its index.
    pub(crate) fn show_batch(
        &self,
        events: Vec<EventRecord>,
    ) -> Result<Vec<EventRecord>, (usize, UpcastError)> {
        let is_current = |event: &EventRecord| self.is_current(event.event_type(), event.schema_version());
        if events.iter().all(is_current) {
            return Ok(events);
        }
        let mut drafts = Drafts::with_capacity(events.len(), 0);
        for (index, event) in events.iter().enumerate() {
            let failed = |error| (index, error);
            let (event_type, version) = (event.event_type(), event.schema_version());
            let stored = event.payload().as_str();
            let metadata = event.metadata().map(|metadata| metadata.as_str());
            match self.show(event_type, version, stored).map_err(failed)? {
                Shown::AsStored => {
                    let place = drafts.place(event.tags(), stored, metadata);
                    drafts.keep(0, Arc::clone(&event.event_type), place, event.lineage.clone());
                }
                Shown::As {
                    event_type,
                    version: shown_version,
                    payload,
                } => {
                    let shown = payload.as_deref().unwrap_or(stored);
                    check_batch_bytes(&event_type, drafts.text_bytes() + shown.len()).map_err(failed)?;
                    let place = drafts.place(event.tags(), shown, metadata);
                    let kept = drafts.place_stored(stored);
                    let lineage = Lineage::shown(shown_version).stored_as(&event.event_type, version, kept);
                    drafts.keep(0, event_type, place, Some(Arc::new(lineage)));
                }
            }
        }
        Ok(drafts.finish(crate::clock::Timestamp::EPOCH))
    }

    fn shown_type(&self, stored_type: &str) -> Arc<str> {
        match self.plans.get(stored_type) {
            Some(plan) => Arc::clone(&plan.shown_type),
            None => stored_type.into(),
        }
    }
}

impl Plan {
    /// Applies the upcasters of this type from a version on, and gives the version that is reached.
    fn bring_up(
        &self,
        event_type: &str,
        version: u32,
        payload: &str,
        value: &mut Option<Value>,
    ) -> Result<u32, UpcastError> {
        let Some(newest) = self.newest else {
            return Ok(version);
        };
        let event_type = || event_type.to_owned();
        if version > newest {
            return Err(UpcastError::Newer {
                event_type: event_type(),
                version,
                newest,
            });
        }
        if version < self.oldest {
            return Err(UpcastError::Missing {
                event_type: event_type(),
                version,
                oldest: self.oldest,
            });
        }
        for (upcast, from) in self.upcasts.iter().zip(self.oldest..) {
            if from < version {
                continue;
            }
            let failed = |error: &dyn fmt::Display| UpcastError::Failed {
                event_type: event_type(),
                version: from,
                error: error.to_string().into(),
            };
            let old = match value.take() {
                Some(value) => value,
                None => serde_json::from_str(payload).map_err(|error| failed(&error))?,
            };
            let new = catch_unwind(AssertUnwindSafe(|| upcast(old))).map_err(|panic| {
                let text = panic.downcast_ref::<&str>().copied();
                let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                UpcastError::Panicked {
                    event_type: event_type(),
                    version: from,
                    error: text.unwrap_or("of an unknown kind").into(),
                }
            })?;
            *value = Some(new.map_err(|error| failed(&error))?);
        }
        Ok(newest)
    }
}

/// Refuses to make so much of one batch that it could not be held.
pub(crate) fn check_batch_bytes(event_type: &str, bytes: usize) -> Result<(), UpcastError> {
    if bytes <= UPCAST_BATCH_BYTES_MAX {
        return Ok(());
    }
    Err(UpcastError::Oversized {
        event_type: event_type.to_owned(),
        problem: format!(
            "the events of its batch have {bytes} bytes up to it, at most {UPCAST_BATCH_BYTES_MAX} are allowed"
        )
        .into(),
    })
}

/// The text of a payload that was made by upcasters.
fn written(event_type: &str, value: &Value) -> Result<String, UpcastError> {
    let oversized = |problem: String| UpcastError::Oversized {
        event_type: event_type.to_owned(),
        problem: problem.into(),
    };
    let text = value.to_string();
    if text.len() > UPCAST_BYTES_MAX {
        let bytes = text.len();
        return Err(oversized(format!(
            "it has {bytes} bytes as JSON, at most {UPCAST_BYTES_MAX} are allowed"
        )));
    }
    check_depth(&text).map_err(|error| oversized(error.to_string()))?;
    Ok(text)
}

impl fmt::Debug for Evolution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.plans.keys()).finish()
    }
}

#[cfg(test)]
mod tests;

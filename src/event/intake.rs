//! What becomes of events before they are queued: every limit is checked, and they are brought up to date (L5).

use crate::error::{AppendError, InvalidEvent};
use crate::event::batch::weight_bytes_of;
use crate::event::evolution::Evolution;
use crate::event::limits::Limits;
use crate::event::new_event::{NewEvent, check_batch};
use crate::event::record::EventRecord;

/// The events as they will be seen, and what they weigh, before anybody waits for them.
pub(crate) fn check(
    events: impl IntoIterator<Item = NewEvent>,
    limits: &Limits,
    evolution: Option<&Evolution>,
) -> Result<(Vec<EventRecord>, usize), AppendError> {
    let (events, bytes) = check_batch(events, limits)?;
    let Some(evolution) = evolution else {
        return Ok((events, bytes));
    };
    let events = evolution.show_batch(events).map_err(|(index, cause)| {
        let source = InvalidEvent::Undecodable(cause);
        AppendError::InvalidEvent { index, source }
    })?;
    let (bytes, max) = (weight_bytes_of(&events), limits.batch_bytes_max);
    if bytes > max {
        let index = events.len() - 1;
        return Err(AppendError::BatchTooLarge { index, bytes, max });
    }
    Ok((events, bytes))
}

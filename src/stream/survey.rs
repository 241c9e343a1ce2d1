//! All durable streams that a log knows, wherever they run.

use std::sync::Arc;

use crate::error::{ReadError, StopCause};
use crate::event::query::EventQuery;
use crate::log::cursor::NamedCursor;
use crate::log::page::{PageBounds, Range};
use crate::stream::core::StreamCore;
use crate::stream::hub::Hub;
use crate::stream::status::{StreamState, StreamStatus};

/// The status of each durable stream, sorted by name.
pub(crate) async fn all(hub: &Hub) -> Result<Vec<StreamStatus>, ReadError> {
    check_open(hub)?;
    let rows = hub.source.log.cursors().await?;
    let mut statuses = Vec::with_capacity(rows.len());
    for row in rows {
        statuses.push(status(hub, row).await?);
    }
    Ok(statuses)
}

/// The status of one of them, if there is one of this name.
pub(crate) async fn one(hub: &Hub, name: &Arc<str>) -> Result<Option<StreamStatus>, ReadError> {
    check_open(hub)?;
    let Some(cursor) = hub.source.log.cursor(name).await? else {
        return Ok(None);
    };
    let name = Arc::clone(name);
    status(hub, NamedCursor { name, cursor }).await.map(Some)
}

/// The stream of a name, if it belongs to this store: it runs here, or ended here with an error.
pub(crate) fn here(hub: &Hub, name: &str) -> Option<Arc<StreamCore>> {
    let core = hub.registry.named(name)?;
    let is_elsewhere = matches!(core.stop_cause(), Some(StopCause::OwnershipLost));
    (!is_elsewhere).then_some(core)
}

pub(crate) fn check_open(hub: &Hub) -> Result<(), ReadError> {
    match hub.source.log.is_closed() {
        true => Err(ReadError::Closed),
        false => Ok(()),
    }
}

/// The lag is measured against the log itself, not against what this store was told of it.
async fn status(hub: &Hub, row: NamedCursor) -> Result<StreamStatus, ReadError> {
    let head = hub.source.log.head().await?;
    let name = Arc::clone(&row.name);
    let mut status = match here(hub, &row.name) {
        Some(core) => of_core(&core, &row),
        None => of_row(&row),
    };
    status.head = head.max(status.position);
    status.lag = status.head - status.position;
    let counts = hub.source.log.letter_counts(&name).await?;
    (status.parked, status.skipped) = (counts.parked, counts.skipped);
    if status.lag > 0 && status.oldest_unhandled.is_none() {
        status.oldest_unhandled = age(hub, &status).await?;
    }
    Ok(status)
}

fn of_core(core: &StreamCore, row: &NamedCursor) -> StreamStatus {
    let mut status = core.status();
    let epoch = core.cursor().map(|cell| cell.epoch);
    if let Some(pause) = &row.cursor.paused
        && !matches!(status.state, StreamState::Stopped(_))
    {
        status.state = pause.into();
    }
    if epoch != Some(row.cursor.epoch) || matches!(status.state, StreamState::Stopped(_)) {
        // It was moved from outside, and the loop has yet to begin there, if it still runs.
        status.position = row.cursor.position;
        status.cursor = Some(row.cursor.position);
    }
    status
}

fn of_row(row: &NamedCursor) -> StreamStatus {
    let NamedCursor { name, cursor } = row;
    StreamStatus {
        calls_under_way: 0,
        name: Some(name.to_string()),
        state: cursor.paused.as_ref().map_or(StreamState::NotHere, Into::into),
        is_here: false,
        position: cursor.position,
        head: cursor.position,
        lag: 0,
        oldest_unhandled: None,
        started_after: cursor.position,
        cursor: Some(cursor.position),
        handled_batches: 0,
        handled_events: 0,
        failures: 0,
        last_error: None,
        parked: 0,
        skipped: 0,
        call_running_for: None,
        events_per_second: 0.0,
        still_for: cursor.updated_at.age(),
        heartbeat: None,
    }
}

/// How long ago the first event after the position was committed: one row, whatever the query selects.
async fn age(hub: &Hub, status: &StreamStatus) -> Result<Option<std::time::Duration>, ReadError> {
    let range = Range {
        after: status.position,
        through: status.head,
    };
    let one = PageBounds {
        batches_max: 1,
        bytes_max: 1,
    };
    let everything = Arc::new(EventQuery::all());
    match hub.source.log.page(&everything, range, one).await {
        Ok(page) => Ok(page.batches.first().map(|batch| batch.recorded_at.age())),
        Err(ReadError::Pruned { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

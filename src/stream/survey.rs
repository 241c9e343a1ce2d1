//! All durable streams that a log knows, wherever they run.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Clock;
use crate::error::{ReadError, StopCause};
use crate::log::LogReader;
use crate::log::cursor::NamedCursor;
use crate::log::letter::LetterCounts;
use crate::stream::core::StreamCore;
use crate::stream::hub::Hub;
use crate::stream::status::{Progress, StreamState, StreamStatus};

/// The status of each durable stream, sorted by name. What is stored is read at once: a statement for each of thousands of
/// streams would take seconds.
pub(crate) async fn all(hub: &Hub) -> Result<Vec<StreamStatus>, ReadError> {
    check_open(hub)?;
    let survey = hub.source.log.survey().await?;
    let rows = survey.rows.iter();
    let mut statuses: Vec<_> = rows
        .map(|row| {
            let mut status = status(hub, row, survey.head, survey.letters_of(&row.name));
            status.note_claims(survey.claims_of(&row.name));
            status
        })
        .collect();
    add_ages(hub, &mut statuses).await?;
    Ok(statuses)
}

/// The status of one of them, if there is one of this name.
pub(crate) async fn one(hub: &Hub, name: &Arc<str>) -> Result<Option<StreamStatus>, ReadError> {
    check_open(hub)?;
    let asked = Arc::clone(name);
    let read = move |reader: &dyn LogReader| {
        let Some(cursor) = reader.cursor(&asked)? else {
            return Ok(None);
        };
        let counts = reader.counts(&asked)?;
        let claims = reader.claims(Some(&asked))?;
        let row = NamedCursor { name: asked, cursor };
        Ok(Some((row, reader.head()?, counts, claims)))
    };
    let Some((row, head, counts, claims)) = hub.source.log.read(read).await? else {
        return Ok(None);
    };
    let mut statuses = [status(hub, &row, head, counts)];
    statuses[0].note_claims(&claims);
    add_ages(hub, &mut statuses).await?;
    let [status] = statuses;
    Ok(Some(status))
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
fn status(hub: &Hub, row: &NamedCursor, head: u64, counts: LetterCounts) -> StreamStatus {
    let mut status = match here(hub, &row.name) {
        Some(core) => of_core(&core, row),
        None => of_row(row, &hub.source.log.clock),
    };
    status.head = head.max(status.position);
    status.lag = status.head - status.position;
    status.note_letters(counts);
    status
}

fn of_core(core: &StreamCore, row: &NamedCursor) -> StreamStatus {
    // The epoch first: a status that is read afterwards is of that run, or of one after it.
    let epoch = core.cursor().map(|cell| cell.epoch);
    let mut status = core.status();
    if let Some(pause) = &row.cursor.paused
        && !matches!(status.state, StreamState::Stopped(_) | StreamState::Standby)
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

fn of_row(row: &NamedCursor, clock: &Clock) -> StreamStatus {
    let NamedCursor { name, cursor } = row;
    let position = cursor.position;
    let nothing = Progress::new(position, cursor.epoch);
    StreamStatus {
        calls_under_way: 0,
        name: Some(name.to_string()),
        state: cursor.paused.as_ref().map_or(StreamState::NotHere, Into::into),
        is_here: false,
        cursor: Some(position),
        still_for: cursor.updated_at.age(),
        heartbeat: None,
        ..StreamStatus::of(nothing, position, Instant::now(), clock)
    }
}

/// Says how long ago the first event after the position was committed, of streams that are behind and have none in hand: one row
/// for each, whatever the query selects.
async fn add_ages(hub: &Hub, statuses: &mut [StreamStatus]) -> Result<(), ReadError> {
    let unknown = |status: &&mut StreamStatus| status.lag > 0 && status.oldest_unhandled.is_none();
    let behind: Vec<_> = statuses.iter_mut().filter(unknown).collect();
    if behind.is_empty() {
        return Ok(());
    }
    let positions = behind.iter().map(|status| status.position).collect();
    let recorded = hub.source.log.recorded_after(positions).await?;
    for (status, recorded_at) in behind.into_iter().zip(recorded) {
        status.oldest_unhandled = recorded_at.map(|at| hub.source.log.clock.age(at));
    }
    Ok(())
}

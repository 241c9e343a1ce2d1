//! The stream of ordering: what becomes of orders, as server-sent events, for as many browsers as like to look.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use millstream::{BoxError, EventRecord};
use serde::Deserialize;

use crate::ordering::Ordering;
use crate::ordering::orders::heard;
use crate::problem::Problem;

#[derive(Deserialize)]
pub(super) struct Position {
    after: Option<u64>,
}

/// `GET /feed?after=SEQUENCE`. The sequence of an event is its id, which the browser sends back in `Last-Event-ID` when it
/// reconnects: it goes on right behind the last one that it saw. Without either it begins with the first event.
///
/// Each browser pulls from a reader of its own. One that is slow is further back in the log, and nobody waits for it.
pub(super) async fn follow(
    State(slice): State<Arc<Ordering>>,
    headers: HeaderMap,
    position: Result<Query<Position>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, BoxError>>>, Problem> {
    let Query(position) = position?;
    let after = match last_event_id(&headers)? {
        Some(last) => last,
        None => position.after.unwrap_or(0),
    };
    let head = slice.store.head();
    if after > head {
        return Err(Problem::bad_request(format!(
            "the log ends at {head}, there is no event {after} in it; begin anew"
        )));
    }
    let events = slice
        .store
        .follow(&heard())
        .after(after)
        .map_err(BoxError::from)
        .map_ok(|batch| stream::iter(batch.iter().map(sent).collect::<Vec<_>>()))
        .try_flatten()
        .take_until(slice.closing.clone().requested());
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(id) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.map(Some)
        .ok_or_else(|| Problem::bad_request("Last-Event-ID is not the sequence of an event"))
}

/// The payload is written anew: as text it may have line breaks, which would end the message.
fn sent(event: &EventRecord) -> Result<Event, BoxError> {
    let message = Event::default()
        .id(event.sequence().to_string())
        .event(event.event_type());
    Ok(message.json_data(event.payload().json()?)?)
}

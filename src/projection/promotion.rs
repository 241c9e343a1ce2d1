//! When a version is ready to serve, and what becomes of the streams of those that it retires.

use crate::error::{ReadModelError, SteerError};
use crate::store::Store;
use crate::stream::handle::StatusWatch;
use crate::stream::status::{StreamState, StreamStatus};

/// Under load a model may never be at the head, but always close to it.
const CLOSE_EVENTS: u64 = 100;

/// Waits until a model's stream has caught up. `false`: it ended before.
pub(crate) async fn caught_up(watch: &mut StatusWatch) -> bool {
    let mut status = watch.current();
    while !has_caught_up(&status) {
        let Some(newer) = watch.changed().await else {
            return false;
        };
        status = newer;
    }
    true
}

fn has_caught_up(status: &StreamStatus) -> bool {
    match status.state {
        StreamState::Live => true,
        StreamState::CatchingUp => status.lag <= CLOSE_EVENTS,
        _ => false,
    }
}

/// Removes the streams of older versions from the log, wherever they run: their builds are retired.
pub(crate) async fn end_older_streams(store: &Store, name: &str, version: u32) -> Result<(), ReadModelError> {
    for row in store.log().cursors().await? {
        let older = row
            .name
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('@'));
        let older = older.and_then(|older| older.parse::<u32>().ok());
        if older.is_none_or(|older| older >= version) {
            continue;
        }
        let ended = match store.stream(&row.name).await {
            Ok(older) => older.delete().await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) | Err(SteerError::NoSuchStream { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Refuses to let a version serve for which readers would wait.
pub(crate) fn check_close(name: &str, version: u32, lag: u64) -> Result<(), ReadModelError> {
    if lag <= CLOSE_EVENTS {
        return Ok(());
    }
    Err(ReadModelError::Refused {
        name: name.to_owned(),
        problem: format!(
            "version {version} is {lag} events behind, and is promoted when {CLOSE_EVENTS} are left; ask again then"
        ),
    })
}

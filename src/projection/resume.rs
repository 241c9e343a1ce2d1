//! Where a read model goes on: behind its own position, and behind the dead letters that follow it directly.
//!
//! What was set aside last moved the cursor in the log, and nothing in the model. Delivered again it would fail again, and lose
//! what is known of it.

use futures::TryStreamExt;

use crate::error::ReadModelError;
use crate::event::query::EventQuery;
use crate::log::letter::DeadLetter;
use crate::projection::standing::{BuildRow, BuildState};
use crate::store::Store;

/// The position up to which there is nothing but dead letters after `position`; nothing: the model goes on where it is.
pub(crate) async fn behind_letters(
    store: &Store,
    stream: &str,
    query: &EventQuery,
    position: u64,
) -> Result<Option<u64>, ReadModelError> {
    let row = store.log().cursor(&stream.into()).await?;
    let Some(cursor) = row.map(|row| row.position).filter(|cursor| *cursor > position) else {
        return Ok(None);
    };
    let is_behind = |letter: &DeadLetter| letter.last_sequence > position;
    let letters = store.dead_letters(stream).list();
    let letters = letters.try_filter(|letter| futures::future::ready(is_behind(letter)));
    let letters: Vec<DeadLetter> = letters.try_collect().await?;
    if letters.is_empty() {
        return Ok(None);
    }
    let mut reader = store.read(query).after(position).through(cursor);
    while let Some(batch) = reader.try_next().await? {
        let is_set_aside = |sequence: u64| letters.iter().any(|letter| letter.contains(sequence));
        if !batch.iter().all(|event| is_set_aside(event.sequence())) {
            return Ok(None);
        }
    }
    Ok(Some(cursor))
}

/// Refuses a build that lacks what was pruned. The first version begins with what is left, as a stream does. Others would lack what older
/// ones have.
pub(crate) fn refuse_pruned(
    row: &BuildRow,
    position: u64,
    pruned_through: u64,
) -> Result<(), ReadModelError> {
    if position < pruned_through && (position > 0 || row.state == BuildState::Beside) {
        return Err(ReadModelError::Pruned {
            name: row.name.clone(),
            position,
            pruned_through,
        });
    }
    Ok(())
}

//! What the committer does for a stream that takes the place of another one.
//!
//! The older stream's row stays, under a new epoch and owner, so that nobody who runs it can store anything. It says who took over,
//! in the place of who paused it: a version of this crate that does not know this lets it rest, too.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::StreamError;
use crate::log::committer::Committer;
use crate::log::cursor::{CursorClaim, OnMismatch, Pause, PauseKind, StoredCursor};
use crate::log::letter::Attempt;
use crate::log::steer::{Stands, Word};
use crate::log::{Extent, LogWriter};

impl<W: LogWriter> Committer<W> {
    /// Retires the older stream, and gives its row as it stood. A stream that it was retired for before finds it where it stood then.
    pub(super) fn take_over(
        &mut self,
        claim: &CursorClaim,
        older: &str,
        extent: Extent,
    ) -> Result<StoredCursor, StreamError> {
        let Some(mut stood) = self.writer.cursor(older)? else {
            return Err(StreamError::NoSuchOlderStream {
                name: claim.name.to_string(),
                older: older.to_owned(),
                nearest: None,
            });
        };
        let name: Arc<str> = older.into();
        let of_older = CursorClaim {
            name: Arc::clone(&name),
            query: stood.query.clone(),
            on_mismatch: OnMismatch::Refuse,
            ..claim.clone()
        };
        of_older.resume(Some(&stood), extent, &self.log_id)?;
        match stood.successor() {
            Some(by) if *by == claim.name => {
                stood.paused = None;
                return Ok(stood);
            }
            Some(by) => return Err(taken_over(older, by)),
            None => {}
        }
        let number = self.writer.next_epoch()?;
        let retired = StoredCursor {
            epoch: number,
            owner: number,
            steering: number,
            attempt: Attempt::ENDED,
            retry: None,
            paused: Some(Pause {
                by: Arc::clone(&claim.name),
                since: Timestamp::now(),
                kind: PauseKind::TakenOver,
            }),
            ..stood.clone()
        };
        self.writer.put_cursor(older, &retired)?;
        self.writer.give_letters(older, &claim.name)?;
        self.writer.remove_claims(older)?;
        tracing::info!(stream = %claim.name, older, position = stood.position, "a stream takes over from another one");
        let stands = Stands::At(retired);
        self.words.push(Word { name, number, stands });
        Ok(stood)
    }
}

pub(super) fn taken_over(name: &str, by: &str) -> StreamError {
    StreamError::TakenOver {
        name: name.to_owned(),
        by: by.to_owned(),
    }
}

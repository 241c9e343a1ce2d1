//! What the committer lets streams know of words from outside.

use crate::error::StorageError;
use crate::log::LogWriter;
use crate::log::committer::Committer;
use crate::log::steer::Heard;

impl<W: LogWriter> Committer<W> {
    /// Lets those who run streams know what was said to them through this store.
    pub(super) fn pass_on_words(&mut self) {
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            (self.tell)(Heard::Words(words));
        }
    }

    /// Lets those who run streams know how all of them stand: another process may have spoken to them.
    pub(super) fn hear_all(&mut self) -> Result<(), StorageError> {
        let roll_call = self.writer.roll_call()?;
        self.epoch_heard = Some(roll_call.number);
        (self.tell)(Heard::All(roll_call));
        Ok(())
    }

    /// A write was refused: its stream is told why, before it is told that it was.
    pub(super) fn hear_why(&mut self) {
        if let Err(error) = self.hear_all() {
            // The stream ends, and its cursor stays where it was moved to.
            tracing::warn!(%error, "it could not be read who moved a cursor");
        }
    }
}

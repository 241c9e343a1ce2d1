//! What the committer does beside the log: read models in the log's own file, each piece in a transaction of its own.

use std::time::Instant;

use crate::log::LogWriter;
use crate::log::beside::{BesideWork, End, Written};
use crate::log::committer::Committer;

impl<W: LogWriter> Committer<W> {
    /// Does what came with a group, when the group's callers have their answers. What fails here fails no append.
    pub(super) fn write_beside(&mut self) {
        for work in std::mem::take(&mut self.beside) {
            self.write_one_beside(work);
        }
    }

    fn write_one_beside(&mut self, mut work: Box<dyn BesideWork>) {
        let begun = Instant::now();
        let outcome = self.writer.beside(&mut *work);
        let took = begun.elapsed();
        if matches!(outcome, Ok(Written::OwnershipLost)) {
            // Its stream learns who owns it before it learns that it was refused.
            self.hear_why();
        }
        work.done(End { outcome, took });
    }
}

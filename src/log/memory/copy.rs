//! The log in memory as the source of a copy.

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::query::EventQuery;
use crate::log::LogReader;
use crate::log::copy::CopySource;
use crate::log::copy::standing::{CopiedStream, Standing};
use crate::log::memory::MemoryReader;
use crate::log::page::{Page, PageBounds, Range};

impl CopySource for MemoryReader {
    /// Events in memory know what is to be stored of them.
    fn stored_page(&self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        self.page(&EventQuery::all(), range, bounds)
    }

    fn standing(&self) -> Result<Standing, StorageError> {
        let contents = self.shared.lock();
        let extent = contents.extent();
        let (pruned_through, pruned_recorded_at) = contents.pruned.unwrap_or((0, Timestamp::EPOCH));
        let rows = contents.all_cursors();
        let streams = rows.into_iter().map(|row| {
            let letters = contents.letters_of(&row.name);
            CopiedStream::new(row, letters)
        });
        Ok(Standing {
            head: extent.head,
            pruned_through,
            pruned_recorded_at,
            removed_through: 0,
            epoch: contents.epoch,
            streams: streams.collect(),
        })
    }
}

//! What is read from a log in one go.

use std::sync::Arc;

use crate::event::batch::CommittedBatch;

/// A stretch of the log: after one sequence, up to and with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) after: u64,
    pub(crate) through: u64,
}

/// How much one page may hold. A page with less than a whole batch is of no use, so the first batch is taken in any case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageBounds {
    pub(crate) batches_max: usize,
    pub(crate) bytes_max: usize,
}

impl PageBounds {
    /// Whether a page that holds this much is full.
    pub(crate) fn are_reached(&self, batches: usize, bytes: usize) -> bool {
        batches >= self.batches_max || bytes >= self.bytes_max
    }
}

/// The batches of a stretch of the log, with the events that a query selects.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) batches: Vec<Arc<CommittedBatch>>,
    /// Everything after the range's start and up to here was examined.
    pub(crate) through: u64,
}

/// Whether another page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Yes,
    No,
}

/// How many events one page may examine: bounds the time of a page whose query selects next to nothing.
pub(crate) const EXAMINED_MAX: u64 = 100_000;

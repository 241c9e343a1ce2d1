//! When a durable stream's position is handed to the committer, and when the stream waits for it (D3, D4).

use std::sync::Arc;

use crate::log::cursor::CursorCell;
use crate::log::queue::{Due, Queue};
use crate::log::request::Request;
use crate::stream::options::CheckpointLimits;

/// How far a position may move without a handled batch before it is stored: what a restart scans again at the most.
pub(crate) const SWEEP_EVENTS: u64 = 10_000;

pub(crate) struct Checkpointer {
    cell: Arc<CursorCell>,
    queue: Arc<Queue<Request>>,
    limits: CheckpointLimits,
    unstored: Unstored,
}

/// How many handled batches the stored cursor does not cover.
#[derive(Default)]
struct Unstored {
    batches: u32,
    /// A position that is on its way, and how many of the batches it covers.
    on_its_way: Option<(u64, u32)>,
}

impl Checkpointer {
    pub(crate) fn new(cell: Arc<CursorCell>, queue: Arc<Queue<Request>>, limits: CheckpointLimits) -> Self {
        Self {
            cell,
            queue,
            limits,
            unstored: Unstored::default(),
        }
    }

    /// The same limits for a run under another epoch.
    pub(crate) fn start_over(self, cell: Arc<CursorCell>) -> Self {
        Self::new(cell, self.queue, self.limits)
    }

    pub(crate) fn cell(&self) -> &Arc<CursorCell> {
        &self.cell
    }

    /// So many batches were handled, up to this position. `true`: the limit is reached, the next batch waits until the cursor is
    /// stored.
    pub(crate) fn handled(&mut self, batches: u32, position: u64) -> bool {
        let batches_max = self.limits.batches_max.get();
        self.unstored.batches += batches;
        if let Some((_, covered)) = self
            .unstored
            .on_its_way
            .take_if(|(handed, _)| *handed <= self.cell.stored_position())
        {
            self.unstored.batches -= covered;
        }
        let must_wait = self.unstored.batches >= batches_max;
        let is_half_way = self.unstored.batches >= batches_max.div_ceil(2);
        let due = if must_wait || (is_half_way && self.unstored.on_its_way.is_none()) {
            // Asked for half-way, so that a stream which is fast enough to reach the limit rarely has to wait.
            self.unstored.on_its_way = Some((position, self.unstored.batches));
            Due::Now
        } else {
            Due::Within(self.limits.within)
        };
        self.queue.hand_cursor(&self.cell, position, due);
        must_wait
    }

    /// How many batches may be handled before the cursor has to be stored.
    pub(crate) fn room(&self) -> u32 {
        self.limits
            .batches_max
            .get()
            .saturating_sub(self.unstored.batches)
    }

    /// The position moved without a handled batch.
    pub(crate) fn passed(&self, position: u64) {
        if position.saturating_sub(self.cell.stored_position()) >= SWEEP_EVENTS {
            self.queue
                .hand_cursor(&self.cell, position, Due::Within(self.limits.within));
        }
    }

    /// The position is to be stored at once.
    pub(crate) fn flush(&self, position: u64) {
        self.queue.hand_cursor(&self.cell, position, Due::Now);
    }

    /// Nothing more comes: the last position is stored at once, and that the run has ended in order.
    pub(crate) fn finish(&self, position: u64) {
        self.queue.hand_last(&self.cell, position);
    }
}

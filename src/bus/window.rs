//! The newest committed batches, under a byte budget.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::LookBounds;
#[cfg(feature = "metrics")]
use crate::clock::Timestamp;
use crate::event::batch::CommittedBatch;

/// Invariant: holds every committed batch that ends after `floor`, in the order of the log.
pub(super) struct Window {
    batches: VecDeque<Held>,
    bytes: usize,
    bytes_max: usize,
    /// The window has everything after this sequence.
    floor: u64,
    head: u64,
}

struct Held {
    batch: Arc<CommittedBatch>,
    bytes: usize,
}

/// What the window has after a position.
pub(super) enum Tail {
    Batches {
        batches: Vec<Arc<CommittedBatch>>,
        through: u64,
    },
    OutOfReach,
}

impl Window {
    pub(super) fn new(head: u64, bytes_max: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            floor: head,
            head,
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    #[cfg(feature = "metrics")]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first batch was recorded that ends after a position. Nothing: there is none, or the window does not reach back.
    #[cfg(feature = "metrics")]
    pub(super) fn recorded_after(&self, position: u64) -> Option<Timestamp> {
        let reaches_back = position >= self.floor;
        let first = self
            .batches
            .partition_point(|held| held.batch.last_sequence <= position);
        let held = self.batches.get(first).filter(|_| reaches_back)?;
        Some(held.batch.recorded_at)
    }

    /// Adds the newest batch. What the budget no longer allows goes into `evicted`, to be dropped outside the lock.
    pub(super) fn push(&mut self, batch: Arc<CommittedBatch>, evicted: &mut Vec<Arc<CommittedBatch>>) {
        assert!(
            batch.first_sequence > self.head,
            "batches are published in the order of the log"
        );
        self.head = batch.last_sequence;
        let bytes = batch.weight_bytes();
        self.bytes += bytes;
        self.batches.push_back(Held { batch, bytes });
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.floor = oldest.batch.last_sequence;
            evicted.push(oldest.batch);
        }
    }

    /// The batches that end after `position`, as many as the bounds allow and at least one. There are some: `position`
    /// is below the head.
    pub(super) fn after(&self, position: u64, bounds: LookBounds) -> Tail {
        if position < self.floor {
            return Tail::OutOfReach;
        }
        let first = self
            .batches
            .partition_point(|held| held.batch.last_sequence <= position);
        let mut batches = Vec::new();
        let mut bytes = 0;
        let mut through = position;
        for held in self.batches.range(first..) {
            if batches.len() >= bounds.batches_max || (bytes >= bounds.bytes_max && bytes > 0) {
                break;
            }
            through = held.batch.last_sequence;
            bytes += held.bytes;
            batches.push(Arc::clone(&held.batch));
        }
        Tail::Batches { batches, through }
    }
}

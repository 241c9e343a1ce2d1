//! What driver and peers tell each other.

use serde::{Deserialize, Serialize};

/// What the driver asks a peer to do, in a process of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub task: Task,
    /// For how long it is measured.
    pub seconds: f64,
    /// For how long it is waited afterwards until everything that was appended is handled.
    pub drain_seconds: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// So many writers at once, each with so many events per append.
    Append { writers: usize, batch: usize },
    /// Live streams, each of which wants the events of one order.
    Live { streams: usize, batch: usize },
    /// Streams with a stored cursor, each of which wants everything.
    Durable { streams: usize, batch: usize },
    /// One stream; from the call of append to the start of the handler.
    Delay { per_second: u32 },
    /// Fills a log for a replay in another process.
    Fill { events: u64, batch: usize },
    /// Replays all of a log to a handler.
    Replay { events: u64 },
    /// The only handler does not return while so many bytes are appended.
    Memory { bytes: u64, batch: usize },
}

/// The last line that a peer prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Measured(Measured),
    /// The peer has nothing that would do this.
    Cannot(String),
}

/// What came out. Numbers that a task does not measure are zero.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Events per second; MiB in [`Task::Memory`], microseconds (p50) in [`Task::Delay`].
    pub value: f64,
    /// Events that were appended and acknowledged, or were to be replayed.
    pub events: u64,
    /// Events that should have been stored, or handled by all streams together, and never were.
    pub lost: u64,
    /// Events that were stored or handled twice.
    pub doubled: u64,
    /// Events that were handled by a stream that did not want them.
    pub foreign: u64,
    /// Events that were still coming when the time was over.
    pub late: u64,
    /// Appends that failed.
    pub failed: u64,
    /// Microseconds, at p50, p99 and p99.9.
    pub delay: Option<[f64; 3]>,
    /// MiB that were appended while the handler did not return.
    pub burst: f64,
    /// The first error of an append.
    pub error: Option<String>,
}

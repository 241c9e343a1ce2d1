//! What a peer has to do.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::order::Order;
use crate::sink::Sink;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A store as it is measured. One process opens it once.
pub trait Peer: Sized + Send + Sync + 'static {
    /// Calls block their thread: every writer then gets a thread of its own instead of a task.
    const BLOCKS: bool = false;

    type Writer: Writer;

    /// Opens the store in this folder, which may have been filled by another process, so that an acknowledged append
    /// survives a power cut.
    fn open(folder: &Path) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// What one writer holds. No other writer appends to its orders.
    fn writer(&self) -> Self::Writer;

    /// Registers a handler that passes all it is given to [`Sink::handle`], and is there until the process ends. May
    /// return late when it replays. Fails with [`Cannot`] when there is nothing of this kind.
    fn subscribe(&self, subscription: Subscription) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How many events are in the store, asked of the store itself.
    fn stored(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}

pub trait Writer: Send + 'static {
    /// Appends all at once, and returns when they are on the disk.
    fn append(&mut self, orders: &[Order]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// One stream, and where its events go.
pub struct Subscription {
    /// Its number, for the sink.
    pub stream: usize,
    pub kind: Kind,
    pub wants: Wants,
    pub sink: Arc<Sink>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is appended from now on.
    Live,
    /// The same, with a cursor that is stored under a name.
    Durable,
    /// Everything from the first event on, with a stored cursor if there is such a thing.
    Replay,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    All,
    /// The events of one order. What a peer cannot select its adapter leaves out.
    Order(String),
}

impl Wants {
    /// For adapters that have to select by themselves.
    pub fn wants(&self, order: &str) -> bool {
        match self {
            Self::All => true,
            Self::Order(wanted) => wanted == order,
        }
    }
}

/// The peer has nothing of this kind; why.
#[derive(Debug)]
pub struct Cannot(pub &'static str);

impl fmt::Display for Cannot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Cannot {}

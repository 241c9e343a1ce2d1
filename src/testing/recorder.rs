//! A handler that keeps what it was given.

use std::convert::Infallible;
use std::fmt;

use tokio::sync::watch;

use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;
use crate::stream::handler::HandleStream;
use crate::testing::patience::{PATIENCE, within};

/// Keeps the batches that its handlers are given, and can be waited for. Clones keep them together.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::testing::Recorder;
/// use millstream::{EventQuery, NewEvent, Store};
///
/// let store = Store::in_memory()?;
/// let recorder = Recorder::new();
/// let orders = EventQuery::types(["order-placed"]);
/// let _stream = store.stream_to(&orders, recorder.handler()).await?;
/// store.append([NewEvent::new("order-placed", 7), NewEvent::new("order-paid", 7)]).await?;
/// recorder.until(|batches| !batches.is_empty()).await;
/// assert_eq!(recorder.events()[0].event_type(), "order-placed");
/// assert_eq!(recorder.sequences(), [1], "the other one is not selected");
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Recorder {
    batches: watch::Sender<Vec<EventBatch>>,
}

impl Recorder {
    /// A recorder that has nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handler that keeps each batch and takes it. Several handlers may have one recorder.
    pub fn handler(&self) -> HandleStream {
        let recorder = self.clone();
        HandleStream::new(move |batch: EventBatch| {
            recorder.record(batch);
            async { Ok::<_, Infallible>(()) }
        })
    }

    /// Keeps a batch, for handlers that do something beside it.
    pub fn record(&self, batch: EventBatch) {
        self.batches.send_modify(|batches| batches.push(batch));
    }

    /// The batches, in the order in which they came, repetitions included.
    pub fn batches(&self) -> Vec<EventBatch> {
        self.batches.borrow().clone()
    }

    /// The events that were selected of them.
    pub fn events(&self) -> Vec<EventRecord> {
        let batches = self.batches.borrow();
        batches.iter().flatten().cloned().collect()
    }

    /// The sequences of these events.
    pub fn sequences(&self) -> Vec<u64> {
        let batches = self.batches.borrow();
        batches.iter().flatten().map(EventRecord::sequence).collect()
    }

    /// Forgets what came so far.
    pub fn clear(&self) {
        self.batches.send_modify(Vec::clear);
    }

    /// Waits until the batches are as they should be.
    ///
    /// # Panics
    /// When they are not after 30 s, with what there is.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn until(&self, reached: impl Fn(&[EventBatch]) -> bool) {
        let mut batches = self.batches.subscribe();
        let waiting = batches.wait_for(|batches| reached(batches));
        let is_reached = within(PATIENCE, waiting).await.is_some();
        assert!(
            is_reached,
            "waited {PATIENCE:?} in vain; what came: {:?}",
            self.sequences()
        );
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Recorder")
            .field(&self.sequences())
            .finish()
    }
}

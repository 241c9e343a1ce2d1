//! What the test targets share: handlers that write down what they get, and ways to wait for a state.

pub mod hands;
pub mod poison;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::store::Store;
use crate::stream::handler::HandleStream;
use crate::stream::policy::Retry;
use crate::stream::reader::EventReader;

/// What one handler call got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The range of the committed batch.
    pub first: u64,
    pub last: u64,
    /// The events that were shown.
    pub sequences: Vec<u64>,
}

impl From<&EventBatch> for Delivery {
    fn from(batch: &EventBatch) -> Self {
        Self {
            first: batch.first_sequence(),
            last: batch.last_sequence(),
            sequences: batch.iter().map(|event| event.sequence()).collect(),
        }
    }
}

/// Writes down what its handlers get, and can be waited for.
#[derive(Clone, Default)]
pub struct Recorder {
    seen: watch::Sender<Vec<Delivery>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn write(&self, batch: &EventBatch) {
        self.seen.send_modify(|seen| seen.push(batch.into()));
    }

    /// A handler that writes every batch down and takes it.
    pub fn handler(&self) -> HandleStream {
        let recorder = self.clone();
        HandleStream::new(move |batch: EventBatch| {
            recorder.write(&batch);
            async { Ok::<_, std::io::Error>(()) }
        })
    }

    /// The same, with one permit of the gate used up for each batch before it is written down.
    pub fn gated(&self, gate: &Arc<Semaphore>) -> HandleStream {
        let (recorder, gate) = (self.clone(), Arc::clone(gate));
        HandleStream::new(move |batch: EventBatch| {
            let (recorder, gate) = (recorder.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await.map_err(std::io::Error::other)?.forget();
                recorder.write(&batch);
                Ok::<_, std::io::Error>(())
            }
        })
    }

    /// Writes each batch down, and fails as long as `fails` says so. Retried without long pauses.
    pub fn failing(&self, fails: impl Fn(&EventBatch) -> bool + Send + Sync + 'static) -> HandleStream {
        let recorder = self.clone();
        let handler = HandleStream::new(move |batch: EventBatch| {
            let failed = fails(&batch);
            if !failed {
                recorder.write(&batch);
            }
            async move { if failed { Err("not now") } else { Ok(()) } }
        });
        handler.retry(hasty())
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.seen.borrow().clone()
    }

    /// All sequences in the order in which they came.
    pub fn sequences(&self) -> Vec<u64> {
        let seen = self.seen.borrow();
        seen.iter()
            .flat_map(|delivery| delivery.sequences.iter().copied())
            .collect()
    }

    pub fn clear(&self) {
        self.seen.send_modify(Vec::clear);
    }

    /// Waits until so many batches came.
    pub async fn batches(&self, count: usize) {
        self.until(|seen| seen.len() >= count).await;
    }

    pub async fn until(&self, reached: impl Fn(&[Delivery]) -> bool) {
        let mut seen = self.seen.subscribe();
        seen.wait_for(|seen| reached(seen))
            .await
            .expect("the recorder has the sender");
    }
}

/// Retries with next to no pauses, and hardly an end.
pub fn hasty() -> Retry {
    let pause = Duration::from_millis(1);
    Retry::default()
        .attempts_max(1_000)
        .delay_min(pause)
        .delay_max(pause)
}

/// A handler that takes everything.
pub fn takes_all() -> HandleStream {
    HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) })
}

/// Looks again and again until the state is there that nobody reports.
pub async fn eventually(what: &str, mut is_there: impl FnMut() -> bool) {
    let mut looks = interval(Duration::from_millis(1));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let waiting = async {
        while !is_there() {
            looks.tick().await;
        }
    };
    let outcome = timeout(Duration::from_secs(25), waiting).await;
    assert!(outcome.is_ok(), "waited in vain until {what}");
}

/// Fails the test when the future takes too long.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(25), future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

/// So many events of a type, numbered.
pub fn events(event_type: &str, count: usize) -> Vec<NewEvent> {
    (0..count)
        .map(|number| NewEvent::new(event_type, number))
        .collect()
}

/// Appends a batch and gives its range.
pub async fn append(store: &Store, event_type: &str, count: usize) -> (u64, u64) {
    let appended = store.append(events(event_type, count)).await.expect("appends");
    (appended.first_sequence, appended.last_sequence)
}

/// Everything that a reader gives.
pub async fn read_all(reader: EventReader) -> Vec<Delivery> {
    use futures::TryStreamExt;
    let batches: Vec<EventBatch> = reader.try_collect().await.expect("reads");
    batches.iter().map(Delivery::from).collect()
}

/// The log as the query shows it.
pub async fn log(store: &Store, query: &EventQuery) -> Vec<Delivery> {
    read_all(store.read(query)).await
}

/// The sequences of deliveries.
pub fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries
        .iter()
        .flat_map(|delivery| delivery.sequences.iter().copied())
        .collect()
}

//! Handlers that fail on some events, and what becomes of these.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;

use crate::conformance::tools::{Recorder, hasty};
use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::record::EventRecord;
use crate::log::letter::{DeadLetter, DeadLetterState};
use crate::store::Store;
use crate::stream::failure::{FailurePolicy, HandlerError};
use crate::stream::handler::HandleStream;
use crate::stream::policy::Retry;

/// Which events a handler fails on, to be changed while it runs.
#[derive(Clone, Default)]
pub struct Poison(Arc<Mutex<BTreeSet<u64>>>);

impl Poison {
    pub fn on(sequences: impl IntoIterator<Item = u64>) -> Self {
        Self(Arc::new(Mutex::new(sequences.into_iter().collect())))
    }

    pub fn add(&self, sequence: u64) {
        self.0.lock().unwrap().insert(sequence);
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn first_in(&self, batch: &EventBatch) -> Option<u64> {
        let poisoned = self.0.lock().unwrap();
        let mut sequences = batch.iter().map(EventRecord::sequence);
        sequences.find(|sequence| poisoned.contains(sequence))
    }

    /// A handler that fails on a batch with a poisoned event, and writes the others down.
    pub fn handler(&self, recorder: &Recorder) -> HandleStream {
        let (poison, recorder) = (self.clone(), recorder.clone());
        let handler = HandleStream::new(move |batch: EventBatch| {
            let failed = poison.first_in(&batch);
            if failed.is_none() {
                recorder.write(&batch);
            }
            async move { failed.map_or(Ok(()), |sequence| Err(format!("poisoned by {sequence}"))) }
        });
        handler.retry(hasty().attempts_max(2))
    }

    /// A handler that takes the events one by one, and says which of them it fails on.
    pub fn naming(&self, recorder: &Recorder) -> HandleStream {
        let (poison, recorder) = (self.clone(), recorder.clone());
        let handler = HandleStream::new(move |batch: EventBatch| {
            let failed = poison.first_in(&batch);
            if failed.is_none() {
                recorder.write(&batch);
            }
            async move { failed.map_or(Ok(()), |sequence| Err(HandlerError::at(sequence, "poisoned"))) }
        });
        handler.retry(Retry::never())
    }
}

/// The key of an event is its type, in these tests; `free` events have none.
pub fn by_type() -> FailurePolicy {
    FailurePolicy::park_key(|event| (event.event_type() != "free").then(|| event.event_type().to_owned()))
}

pub async fn letters(store: &Store, name: &str) -> Vec<DeadLetter> {
    store.dead_letters(name).list().try_collect().await.unwrap()
}

/// Where each letter begins and ends, and what it waits for.
pub async fn shapes(store: &Store, name: &str) -> Vec<(u64, u64, DeadLetterState)> {
    let letters = letters(store, name).await;
    let shape = |letter: &DeadLetter| (letter.first_sequence, letter.last_sequence, letter.state);
    letters.iter().map(shape).collect()
}

pub async fn append_types(store: &Store, types: &[&str]) {
    let events = types.iter().map(|name| NewEvent::new(*name, 1));
    store.append(events).await.unwrap();
}

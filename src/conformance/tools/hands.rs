//! A handler for streams that handle several keys at once: it says what it was given and what it took, can be held and made
//! to fail by key, and notices when two calls of a key overlap. The key of an event is its type; `free` events have none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;
use crate::stream::failure::FailurePolicy;
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;

/// What hands have done.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// The first event of each call that began.
    pub begun: Vec<u64>,
    /// The events that were taken, in order.
    pub taken: Vec<u64>,
    /// The range of each call that was taken.
    pub ranges: Vec<(u64, u64)>,
    /// The calls under way, by key.
    pub under_way: BTreeMap<String, u64>,
    pub most_under_way: usize,
}

#[derive(Clone, Default)]
pub struct Hands {
    work: watch::Sender<Work>,
    held: watch::Sender<BTreeSet<String>>,
    failing: Arc<Mutex<BTreeSet<String>>>,
}

pub fn key_of(event: &EventRecord) -> Option<String> {
    (event.event_type() != "free").then(|| event.event_type().to_owned())
}

/// A stream whose key is the type of its events.
pub fn keyed(name: &str, workers: u32) -> DurableStream {
    DurableStream::new(name).partition_by(workers, key_of)
}

pub fn park_key() -> FailurePolicy {
    FailurePolicy::park_key(key_of)
}

impl Hands {
    /// A call with events of this type does not end before it is let go.
    pub fn hold(&self, event_type: &str) {
        self.held.send_modify(|held| {
            held.insert(event_type.to_owned());
        });
    }

    pub fn let_go(&self, event_type: &str) {
        self.held.send_modify(|held| {
            held.remove(event_type);
        });
    }

    /// Calls with events of this type fail.
    pub fn fail(&self, event_type: &str) {
        self.failing.lock().unwrap().insert(event_type.to_owned());
    }

    pub fn heal(&self, event_type: &str) {
        self.failing.lock().unwrap().remove(event_type);
    }

    pub fn work(&self) -> Work {
        self.work.borrow().clone()
    }

    pub fn taken(&self) -> Vec<u64> {
        self.work.borrow().taken.clone()
    }

    /// Forgets what was taken.
    pub fn forget(&self) {
        self.work.send_modify(|work| work.taken.clear());
    }

    pub async fn until(&self, reached: impl Fn(&Work) -> bool) {
        let mut work = self.work.subscribe();
        work.wait_for(|work| reached(work))
            .await
            .expect("hands have the sender");
    }

    /// Waits until so many calls have begun.
    pub async fn begun(&self, count: usize) {
        self.until(|work| work.begun.len() >= count).await;
    }

    /// Waits until these events are taken, in whatever order.
    pub async fn took(&self, sequences: &[u64]) {
        self.until(|work| sequences.iter().all(|sequence| work.taken.contains(sequence)))
            .await;
    }

    /// # Panics
    /// In the handler, when it gets events of several keys, or of one that it has already.
    pub fn handler(&self) -> HandleStream {
        let hands = self.clone();
        HandleStream::new(move |events: EventBatch| {
            let hands = hands.clone();
            async move { hands.take(&events).await }
        })
    }

    async fn take(&self, events: &EventBatch) -> Result<(), String> {
        let sequences: Vec<u64> = events.iter().map(EventRecord::sequence).collect();
        let first = events.iter().next().unwrap().event_type().to_owned();
        assert!(
            events.iter().all(|event| event.event_type() == first),
            "one key in a call"
        );
        self.work.send_modify(|work| {
            work.begun.push(sequences[0]);
            let earlier = work.under_way.insert(first.clone(), sequences[0]);
            assert_eq!(earlier, None, "two calls of {first}");
            work.most_under_way = work.most_under_way.max(work.under_way.len());
        });
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held.contains(&first)).await.unwrap();
        tokio::task::yield_now().await;
        let fails = self.failing.lock().unwrap().contains(&first);
        self.work.send_modify(|work| {
            work.under_way.remove(&first);
            if !fails {
                work.taken.extend(&sequences);
                work.ranges
                    .push((events.first_sequence(), events.last_sequence()));
            }
        });
        match fails {
            true => Err(format!("{first} fails")),
            false => Ok(()),
        }
    }
}

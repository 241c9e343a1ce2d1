//! The process that runs a stream: the test's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::{
    DurableStream, EventBatch, EventRecord, EventStream, FailurePolicy, HandleStream, Retry, Store,
    StreamStatus,
};
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{Place, lines};

const PATIENCE: Duration = Duration::from_secs(25);

/// A durable stream that runs on the log of a place, beside the commands.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) stream: EventStream,
    handled: Arc<Mutex<Vec<u64>>>,
    is_mended: Arc<AtomicBool>,
    held: Arc<Semaphore>,
}

impl Service {
    /// The handler fails on events of the types `bad` and `held`, and takes all others.
    pub(crate) async fn start(place: &Place, name: &str, policy: FailurePolicy) -> Self {
        Self::begin(place, name, policy, AtomicBool::new(false)).await
    }

    /// The handler takes all events.
    pub(crate) async fn start_mended(place: &Place, name: &str, policy: FailurePolicy) -> Self {
        Self::begin(place, name, policy, AtomicBool::new(true)).await
    }

    async fn begin(place: &Place, name: &str, policy: FailurePolicy, is_mended: AtomicBool) -> Self {
        let store = Store::open(place.db()).unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let (is_mended, held) = (Arc::new(is_mended), Arc::new(Semaphore::new(0)));
        let (seen, works, gate) = (Arc::clone(&handled), Arc::clone(&is_mended), Arc::clone(&held));
        let handle = HandleStream::new(move |batch: EventBatch| {
            let has = |wanted: &str| batch.iter().any(|event| event.event_type() == wanted);
            let is_bad = (has("bad") || has("held")) && !works.load(Ordering::SeqCst);
            if !is_bad {
                let sequences = batch.iter().map(EventRecord::sequence);
                seen.lock().unwrap().extend(sequences);
            }
            let gate = has("held").then(|| Arc::clone(&gate));
            async move {
                if is_bad {
                    return Err("the bank is closed");
                }
                if let Some(gate) = gate {
                    gate.acquire().await.expect("the gate stays").forget();
                }
                Ok(())
            }
        });
        let durable = DurableStream::new(name).on_failure(policy);
        let handle = handle.retry(Retry::never());
        let stream = store.stream_all_durable(&durable, handle).await.unwrap();
        Self {
            store,
            stream,
            handled,
            is_mended,
            held,
        }
    }

    /// From now on the handler takes all events; those of the type `held` when they are released.
    pub(crate) fn mend(&self) {
        self.is_mended.store(true, Ordering::SeqCst);
    }

    /// Lets one call with an event of the type `held` come to its end.
    pub(crate) fn release(&self) {
        self.held.add_permits(1);
    }

    /// The sequences that the handler took, in its order.
    pub(crate) fn handled(&self) -> Vec<u64> {
        self.handled.lock().unwrap().clone()
    }

    /// Waits until the running stream says so of itself.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&StreamStatus) -> bool) {
        let mut watch = self.stream.watch();
        let waiting = async {
            while !is_so(&watch.current()) {
                watch.changed().await.expect("the stream runs");
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("waited in vain: {what}; {:?}", self.stream.status()));
    }

    /// Waits until everything up to this event, which another process may have appended, is settled and stored.
    pub(crate) async fn settle(&self, through: u64) {
        let settled = timeout(PATIENCE, self.stream.wait_for(through)).await;
        settled.expect("the stream settles").unwrap();
    }

    pub(crate) async fn stop(self) {
        self.stream.unsubscribe();
        self.stream.stopped().await;
        self.store.close().await.unwrap();
    }
}

/// A log with batches of these sizes, which a durable stream has handled that nobody runs any more.
pub(crate) fn with_stream(name: &str, sizes: &[usize]) -> Place {
    let place = Place::new();
    place.append_batches(sizes);
    // A runtime of its own, on a thread of its own: some tests have one already.
    std::thread::scope(|scope| {
        let run = || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let service = Service::start(&place, name, FailurePolicy::stop()).await;
                service.settle(sizes.iter().sum::<usize>() as u64).await;
                service.stop().await;
            });
        };
        scope.spawn(run).join().unwrap();
    });
    place
}

/// What the command line says of a stream.
pub(crate) fn standing(place: &Place, name: &str) -> Value {
    lines(&place.ok(&["stream", name, "--json"])).remove(0)
}

pub(crate) fn cursor_of(place: &Place, name: &str) -> u64 {
    standing(place, name)["cursor"].as_u64().unwrap()
}

/// Appends one event of a type.
pub(crate) fn append(place: &Place, event_type: &str, number: u64) {
    let event = json!({"type": event_type, "payload": {"number": number}, "tags": ["account:7"]});
    let outcome = place.feed(&["append"], &event.to_string());
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

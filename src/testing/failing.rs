//! Handlers that fail where a test tells them to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::watch;

use crate::error::BoxError;
use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;
use crate::stream::failure::Failure;
use crate::stream::handler::HandleStream;
use crate::sync::Mutex;
use crate::testing::patience::{PATIENCE, within};

/// How a handler call fails: with an error, a panic, or by never coming back.
///
/// As often as it is called with the event, unless a number of [`times`](Self::times) is given; before the handler is called, unless
/// [`after_handling`](Self::after_handling) is said.
#[derive(Clone, Debug)]
#[must_use = "a mishap happens in the handlers of a `Failing`"]
pub struct Mishap {
    kind: Kind,
    times: Option<u32>,
    moment: Moment,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Error,
    Panic,
    Hang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeHandling,
    AfterHandling,
}

impl Mishap {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            times: None,
            moment: Moment::BeforeHandling,
        }
    }

    /// The call returns an error.
    pub fn error() -> Self {
        Self::new(Kind::Error)
    }

    /// The call panics.
    pub fn panic() -> Self {
        Self::new(Kind::Panic)
    }

    /// The call does not return before it is dropped, by its [`timeout`](HandleStream::timeout) or when the store closes, or
    /// [`heal`](Failing::heal) lets it go on.
    pub fn hang() -> Self {
        Self::new(Kind::Hang)
    }

    /// It happens so many times, and then no more.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// It happens when the handler has done its work: the effects are there, and come once more with the retry. What a handler
    /// has to stand, because it is called at least once.
    pub fn after_handling(mut self) -> Self {
        self.moment = Moment::AfterHandling;
        self
    }
}

/// A mishap that is about to happen.
struct Due {
    sequence: u64,
    mishap: Mishap,
    /// How often was healed before: once more, and a call that hangs goes on.
    cures: u32,
}

impl Due {
    async fn happen(self, failing: &Failing) -> Result<(), BoxError> {
        failing.account.send_modify(|account| account.mishaps += 1);
        let Self {
            sequence,
            mishap,
            cures,
        } = self;
        match mishap.kind {
            Kind::Error => Err(format!("told to fail at {sequence}").into()),
            Kind::Panic => panic!("told to panic at {sequence}"),
            Kind::Hang => {
                let mut account = failing.account.subscribe();
                let healed = account.wait_for(|account| account.cures > cures).await;
                healed.map(|_| ()).map_err(Into::into)
            }
        }
    }
}

/// Lets handlers fail at given sequences. Clones are one plan.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::testing::{Failing, Mishap, Recorder};
/// use millstream::{DurableStream, FailurePolicy, NewEvent, Retry, Store};
///
/// let store = Store::in_memory()?;
/// let recorder = Recorder::new();
/// let failing = Failing::new().at(2, Mishap::panic());
/// let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
/// let handle = failing.around(recorder.handler()).retry(Retry::never());
/// let _stream = store.stream_all_durable(&ledger, handle).await?;
/// for number in 1..=3 {
///     store.append([NewEvent::new("counted", number)]).await?;
/// }
/// store.settled().await?;
/// assert_eq!(recorder.sequences(), [1, 3], "the second is a dead letter");
///
/// failing.heal();
/// assert_eq!(store.dead_letters("ledger").retry_all().await?.handled, 1);
/// assert_eq!(recorder.sequences(), [1, 3, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Failing {
    plan: Arc<Mutex<BTreeMap<u64, Mishap>>>,
    account: watch::Sender<Account>,
}

impl Default for Failing {
    fn default() -> Self {
        Self {
            plan: Arc::new(Mutex::new(BTreeMap::new())),
            account: watch::Sender::default(),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Default)]
struct Account {
    mishaps: u32,
    cures: u32,
}

impl Failing {
    /// A plan without mishaps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls with the event of this sequence fail so. Another mishap at the sequence takes the place of the first. May be added while
    /// handlers are at work.
    pub fn at(self, sequence: u64, mishap: Mishap) -> Self {
        self.plan.lock().insert(sequence, mishap);
        self
    }

    /// The handler, failing as planned. It keeps what was said of it: retries, timeout, groups. Of several planned sequences that a
    /// call is given, the first happens.
    pub fn around(&self, handler: HandleStream) -> HandleStream {
        let failing = self.clone();
        handler.around(move |batches, call| {
            let Some(due) = failing.next_mishap(batches) else {
                return call();
            };
            let failing = failing.clone();
            match due.mishap.moment {
                Moment::BeforeHandling => async move {
                    due.happen(&failing).await.map_err(|error| Failure::of(&*error))?;
                    call().await
                }
                .boxed(),
                Moment::AfterHandling => async move {
                    let reply = call().await?;
                    due.happen(&failing).await.map_err(|error| Failure::of(&*error))?;
                    Ok(reply)
                }
                .boxed(),
            }
        })
    }

    /// Nothing fails any more, and calls that hang go on.
    pub fn heal(&self) {
        self.plan.lock().clear();
        self.account.send_modify(|account| account.cures += 1);
    }

    /// How many mishaps happened.
    pub fn mishaps(&self) -> u32 {
        self.account.borrow().mishaps
    }

    /// Waits until so many mishaps happened; of calls that hang, that they hang.
    ///
    /// # Panics
    /// When they have not after 30 s.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn until_mishaps(&self, count: u32) {
        let mut account = self.account.subscribe();
        let waiting = account.wait_for(|account| account.mishaps >= count);
        let is_reached = within(PATIENCE, waiting).await.is_some();
        let mishaps = self.mishaps();
        assert!(
            is_reached,
            "waited {PATIENCE:?} in vain for {count} mishaps; there were {mishaps}"
        );
    }

    /// The mishap that a call with these batches has, counted off.
    fn next_mishap(&self, batches: &[EventBatch]) -> Option<Due> {
        let mut plan = self.plan.lock();
        // Under the lock of the plan, which healing takes first: what is found here is healed later.
        let cures = self.account.borrow().cures;
        let mut sequences = batches.iter().flatten().map(EventRecord::sequence);
        sequences.find_map(|sequence| {
            let mishap = plan.get_mut(&sequence)?;
            match &mut mishap.times {
                Some(0) => return None,
                Some(times) => *times -= 1,
                None => {}
            }
            Some(Due {
                sequence,
                mishap: mishap.clone(),
                cures,
            })
        })
    }
}

impl fmt::Debug for Failing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.plan.lock().clone();
        formatter
            .debug_struct("Failing")
            .field("plan", &plan)
            .field("mishaps", &self.mishaps())
            .finish()
    }
}

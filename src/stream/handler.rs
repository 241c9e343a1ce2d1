//! The user's closure.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clock::TIME_MAX;
use crate::error::{BoxError, FailureCategory};
use crate::event::batch::EventBatch;
use crate::stream::failure::Failure;
use crate::stream::policy::Retry;
use crate::stream::react::Reply;

type Called = BoxFuture<'static, Result<Reply, Failure>>;
type Call = dyn Fn(EventBatch) -> Called + Send + Sync;
type GroupCall = dyn Fn(Vec<EventBatch>) -> Called + Send + Sync;

/// The async closure that a stream calls with every batch it delivers, one call at a time; or several at a time, of different keys,
/// with [`partition_by`](crate::DurableStream::partition_by).
///
/// `Ok` says that the batch is handled: the cursor of a durable stream passes it. An error, a panic, or a call that takes longer
/// than its [`timeout`](HandleStream::timeout), is retried as [`retry`](HandleStream::retry) says; then the stream stops, and its
/// cursor stays, or a durable stream does what its [failure policy](crate::DurableStream::on_failure) says (D5).
///
/// A durable stream calls the handler **at least once** for each batch: after a crash, again for what was handled since
/// the cursor was stored last. Effects that must not happen twice use [`EventBatch::last_sequence`] as their key.
///
/// # Cancel safety
/// The handler's future is dropped at its next await when the store is closed and the drain limit is over, or when its timeout
/// is. The batch then counts as not handled.
///
/// ```
/// use millstream::{EventBatch, HandleStream};
///
/// let handle = HandleStream::new(|batch: EventBatch| async move {
///     for event in &batch {
///         println!("{} {}", event.sequence(), event.event_type());
///     }
///     Ok::<_, std::io::Error>(())
/// });
/// # let _ = handle;
/// ```
#[derive(Clone)]
pub struct HandleStream {
    call: Arc<Call>,
    /// Nothing: as by default. Most handlers say nothing, and there may be very many.
    said: Option<Box<Said>>,
}

/// What is said of a handler.
#[derive(Clone, Default)]
struct Said {
    retry: Retry,
    timeout: Option<Duration>,
    group: Option<Grouping>,
}

/// How batches are grouped, and who takes a group.
#[derive(Clone)]
pub(crate) struct Grouping {
    pub(crate) batches_max: u32,
    pub(crate) within: Duration,
    call: Arc<GroupCall>,
}

/// More batches in a group than this are a mistake: a page has no more.
const GROUP_BATCHES_MAX: u32 = 1_024;

/// A handler that is kept alive by its stream alone.
pub(crate) struct WeakHandle {
    call: Weak<Call>,
    timeout: Option<Duration>,
}

impl WeakHandle {
    /// The handler, as long as its stream has it.
    pub(crate) fn upgrade(&self) -> Option<HandleStream> {
        Some(HandleStream {
            call: self.call.upgrade()?,
            said: self.timeout.map(|timeout| {
                Box::new(Said {
                    timeout: Some(timeout),
                    ..Said::default()
                })
            }),
        })
    }
}

impl HandleStream {
    /// Wraps an async closure. State goes into it by cloning a handle of the state, such as an `Arc`, in the closure.
    pub fn new<F, Fut, E>(handler: F) -> Self
    where
        F: Fn(EventBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self {
            call: Arc::new(move |batch| {
                let call = handler(batch);
                call.map(|done| nothing_to_append(done.map_err(Into::into)))
                    .boxed()
            }),
            said: None,
        }
    }

    /// Wraps an async closure that takes several batches in one call, for handlers that write in bulk: in the order of the log,
    /// 1 to `batches_max` of them, at most 1,024.
    ///
    /// Of what is there already a call gets as much as fits. With `within`, at most a day, it waits for more, for so long from
    /// when its first batch was in hand; with [`Duration::ZERO`] it waits for nothing. It ends its wait when somebody waits for the
    /// stream, as [`caught_up`](crate::EventStream::caught_up), `settled` and `close` do. A group is also no larger than a page of the
    /// stream in bytes, and than the [checkpoint](crate::DurableStream::checkpoint) allows to be unstored: with
    /// [`Checkpoint::Strict`](crate::Checkpoint::Strict) each batch has a call of its own.
    ///
    /// The position passes a group when its call returned `Ok`: all of its batches or none. A group that fails is
    /// [retried](Self::retry) as it was. Before the failure policy has its say its batches are called one by one, each with retries of
    /// its own, so that only the batch at fault is set aside, or named when the stream stops. So are those that a run before
    /// may have died of, those of which events [queue](crate::FailurePolicy::park_key), and dead letters that are retried: the
    /// closure then gets a `Vec` of one. A [timeout](Self::timeout) is for the call, whatever it has.
    ///
    /// A stream with [`partition_by`](crate::DurableStream::partition_by) refuses such a handler.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use millstream::{DurableStream, EventBatch, HandleStream, NewEvent, Store};
    ///
    /// let store = Store::in_memory()?;
    /// for total in 0..250 {
    ///     store.append([NewEvent::new("paid", total)]).await?;
    /// }
    /// let handle = HandleStream::group(100, Duration::ZERO, |batches: Vec<EventBatch>| async move {
    ///     let rows: usize = batches.iter().map(EventBatch::len).sum();
    ///     println!("one INSERT of {rows} rows");
    ///     Ok::<_, std::io::Error>(())
    /// });
    /// let stream = store.stream_all_durable(&DurableStream::new("ledger"), handle).await?;
    /// stream.caught_up().await?;
    /// assert_eq!(stream.status().handled_batches, 250);
    /// # Ok(()) }
    /// ```
    pub fn group<F, Fut, E>(batches_max: u32, within: Duration, handler: F) -> Self
    where
        F: Fn(Vec<EventBatch>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let call: Arc<GroupCall> = Arc::new(move |batches| {
            let call = handler(batches);
            call.map(|done| nothing_to_append(done.map_err(Into::into)))
                .boxed()
        });
        let grouping = Grouping {
            batches_max: batches_max.clamp(1, GROUP_BATCHES_MAX),
            within: within.min(TIME_MAX),
            call: Arc::clone(&call),
        };
        Self {
            call: Arc::new(move |batch| call(vec![batch])),
            said: Some(Box::new(Said {
                group: Some(grouping),
                ..Said::default()
            })),
        }
    }

    /// Wraps the closure of a reactor, which may answer.
    pub(crate) fn answering<F, Fut>(handler: F) -> Self
    where
        F: Fn(EventBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
    {
        Self {
            call: Arc::new(move |batch| handler(batch).boxed()),
            said: None,
        }
    }

    /// The same handler with something around each call, which is given the batches, and what begins the call.
    #[cfg(feature = "testing")]
    pub(crate) fn around(
        mut self,
        around: impl Fn(&[EventBatch], Box<dyn FnOnce() -> Called + Send>) -> Called + Send + Sync + 'static,
    ) -> Self {
        let around = Arc::new(around);
        let (inner, of_one) = (self.call, Arc::clone(&around));
        self.call = Arc::new(move |batch| {
            let (inner, given) = (Arc::clone(&inner), [batch.clone()]);
            of_one(&given, Box::new(move || inner(batch)))
        });
        if let Some(group) = self.said.as_mut().and_then(|said| said.group.as_mut()) {
            let inner = Arc::clone(&group.call);
            group.call = Arc::new(move |batches| {
                let (inner, given) = (Arc::clone(&inner), batches.clone());
                around(&given, Box::new(move || inner(batches)))
            });
        }
        self
    }

    fn say(&mut self) -> &mut Said {
        self.said.get_or_insert_default()
    }

    /// How batches are grouped, if they are.
    pub(crate) fn grouping(&self) -> Option<&Grouping> {
        self.said.as_ref()?.group.as_ref()
    }

    /// How often, how long and with which pauses a call that failed is repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.say().retry = retry;
        self
    }

    pub(crate) fn retry_policy(&self) -> Retry {
        self.said.as_ref().map_or_else(Retry::default, |said| said.retry)
    }

    fn limit(&self) -> Option<Duration> {
        self.said.as_ref()?.timeout
    }

    /// How long one call may take. A call that is late is dropped at the await where it stands, and has failed with the category
    /// [`Timeout`](FailureCategory::Timeout). From 1 ms to a day. Default: for ever.
    ///
    /// A handler that blocks its thread reaches no await, and cannot be dropped: use `spawn_blocking` for such work, which goes
    /// on in its own thread when the call is dropped. The time is measured by the runtime's time driver (`enable_time`).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.say().timeout = Some(timeout.clamp(Duration::from_millis(1), TIME_MAX));
        self
    }

    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle {
            call: Arc::downgrade(&self.call),
            timeout: self.limit(),
        }
    }

    /// Calls the closure. A panic in it, in its future, or when that future is dropped, becomes a failure. It is not called with
    /// an event that cannot be decoded.
    pub(crate) async fn call(&self, batch: EventBatch) -> Result<Reply, Failure> {
        if batch.fault().is_some() {
            return Box::pin(self.call_before_fault(batch)).await;
        }
        match self.limit() {
            None => settle(
                AssertUnwindSafe(async { (self.call)(batch).await })
                    .catch_unwind()
                    .await,
            ),
            Some(limit) => Box::pin(call_within(|| (self.call)(batch), limit)).await,
        }
    }

    /// Calls the closure with what lies before the first event that cannot be decoded, and fails on that one.
    async fn call_before_fault(&self, batch: EventBatch) -> Result<Reply, Failure> {
        let Some(fault) = batch.fault() else {
            return Ok(None);
        };
        let failure = Failure::undecodable(fault);
        let reply = match batch.before(fault.sequence()) {
            Some(before) => Box::pin(self.call(before)).await?,
            None => None,
        };
        Err(match reply {
            None => failure,
            // An answer is appended with the whole batch or not at all, so nothing of it counts as handled.
            Some(_) => Failure { at: None, ..failure },
        })
    }
}

impl Grouping {
    /// The same with several batches.
    pub(crate) async fn call(&self, handler: &HandleStream, batches: Vec<EventBatch>) -> Result<(), Failure> {
        if let Some(fault) = batches.iter().find_map(EventBatch::fault) {
            return Err(Failure::undecodable(fault));
        }
        let reply = match handler.limit() {
            None => settle(
                AssertUnwindSafe(async { (self.call)(batches).await })
                    .catch_unwind()
                    .await,
            ),
            Some(limit) => call_within(|| (self.call)(batches), limit).await,
        };
        // Only a reactor answers, and none takes groups.
        reply.map(drop)
    }
}

/// Calls a closure, and drops what it began when that is late.
async fn call_within(begin: impl FnOnce() -> Called, limit: Duration) -> Result<Reply, Failure> {
    let mut call = match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(call) => call,
        Err(panic) => return settle(Err(panic)),
    };
    let outcome = {
        let mut guarded = pin!(AssertUnwindSafe(&mut call).catch_unwind());
        tokio::time::timeout(limit, &mut guarded).await
    };
    // What the future holds is dropped here, whether it has come to its end or not, and that may panic.
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(call)));
    match (outcome, dropped) {
        (Ok(Ok(Ok(_))), Err(panic)) => settle(Err(panic)),
        (Ok(outcome), _) => settle(outcome),
        (Err(_), dropped) => {
            let mut text = format!("the call took longer than {limit:?} and was dropped");
            if let Err(panic) = dropped {
                text = format!("{text}, where it panicked: {}", panic_text(&*panic));
            }
            Err(Failure::new(FailureCategory::Timeout, text))
        }
    }
}

/// What the call of a handler that appends nothing came to.
fn nothing_to_append(done: Result<(), BoxError>) -> Result<Reply, Failure> {
    done.map(|()| None).map_err(|error| Failure::of(&*error))
}

/// What a call came to.
fn settle(outcome: Result<Result<Reply, Failure>, Box<dyn Any + Send>>) -> Result<Reply, Failure> {
    match outcome {
        Ok(done) => done,
        Err(panic) => {
            let text = format!("the handler panicked: {}", panic_text(&*panic));
            Err(Failure::new(FailureCategory::Panic, text))
        }
    }
}

impl fmt::Debug for HandleStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HandleStream")
            .field("retry", &self.retry_policy())
            .field("timeout", &self.limit())
            .finish_non_exhaustive()
    }
}

/// What somebody panicked with.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown kind")
}

//! The store: what a program holds of its log and its streams.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod beside;
#[cfg(feature = "sqlite")]
mod copy;
pub(crate) mod fold;
mod once;
mod operations;
mod react;
#[cfg(feature = "postgres")]
mod server;

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use tokio::runtime::Handle;

use crate::builder::StoreBuilder;
use crate::error::{AppendError, CloseError, OpenError, PruneError, ReadError, StreamError, WaitError};
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::fault::Faults;
use crate::log::Extent;
use crate::log::crew::Ending;
use crate::log::handle::LogHandle;
use crate::log::page::{Page, PageBounds, Range};
use crate::log::prune::{Prune, Pruned};
use crate::log::request::{Appended, Condition, ExpectedContext};
use crate::stream::handle::EventStream;
use crate::stream::handler::HandleStream;
use crate::stream::hub::Hub;
use crate::stream::letters::DeadLetters;
use crate::stream::options::DurableStream;
use crate::stream::prune;
use crate::stream::reader::{End, EventReader};
use crate::stream::status::StreamStatus;

/// An event log with its streams.
///
/// Cloning gives another handle of the same store. When the last handle is dropped the store closes: what is queued is
/// committed, calls under way are not waited for. [`close`](Store::close) waits for them.
///
/// A handler that owns a clone of the store keeps it open; end such a stream by dropping its handle or by
/// [`close`](Store::close).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.db");
/// use millstream::{DurableStream, EventQuery, HandleStream, NewEvent, Store};
/// use serde_json::json;
///
/// let store = Store::open(&path)?;
/// let orders = EventQuery::types(["order-placed"]);
/// let stream = store
///     .stream_to_durable(&DurableStream::new("ledger"), &orders, HandleStream::new(|batch| async move {
///         println!("{} orders", batch.len());
///         Ok::<_, std::io::Error>(())
///     }))
///     .await?;
///
/// store.append([NewEvent::new("order-placed", json!({"order": 7})).tag("order:7")]).await?;
/// stream.caught_up().await?;
/// store.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Arc<Hub>,
    committer: Ending,
    drain_limit: Duration,
}

/// What a query found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueryResult {
    /// The selected events, in the order of the log.
    pub events: Vec<EventRecord>,
    /// The sequence of the last of them.
    pub last_returned_sequence: Option<u64>,
    /// The sequence of the newest event that the query selects; 0 when it selects nothing. This is what
    /// [`append_if`](Store::append_if) compares.
    pub context_version: u64,
    /// The last committed sequence when the query was made: nothing up to it was overlooked.
    pub head: u64,
    /// Everything up to this sequence was pruned, and is not among the events whatever the query selects of it; 0: nothing.
    pub pruned_through: u64,
}

/// How much of the log a query reads at once.
const QUERY_BOUNDS: PageBounds = PageBounds {
    batches_max: 4096,
    bytes_max: 4 << 20,
};

impl Store {
    pub(crate) fn new(hub: Arc<Hub>, committer: Ending, drain_limit: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                hub,
                committer,
                drain_limit,
            }),
        }
    }

    /// Opens the log in this SQLite file with default options, or makes it. Blocks until that is done.
    ///
    /// # Errors
    /// As [`StoreBuilder::open`].
    #[cfg(feature = "sqlite")]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(path)
    }

    /// Opens an empty log in memory with default options. It ends with the store.
    ///
    /// # Errors
    /// As [`StoreBuilder::in_memory`].
    pub fn in_memory() -> Result<Self, OpenError> {
        Self::builder().in_memory()
    }

    /// The options of a store.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    /// Appends events as one batch: one consecutive range of sequences, all or nothing (L1).
    ///
    /// Returns after the batch is durable, as the store's durability says, and published to the streams (L2). Waits while
    /// the queue is full.
    ///
    /// # Errors
    /// Bad input is refused before it is queued (L5). A storage error fails the append, and nothing of it is in the log.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the future appends nothing; dropped later, the batch is committed and delivered,
    /// and only the answer is lost.
    pub async fn append(&self, events: impl IntoIterator<Item = NewEvent>) -> Result<Appended, AppendError> {
        self.inner.hub.source.log.append(events, None).await
    }

    /// Appends events if the context that a query selects is still the one that was looked at (L3).
    ///
    /// The check is made inside the transaction: of two appends that race on one context exactly one wins. It costs what
    /// was appended since the expected version, not the whole history.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{AppendError, EventQuery, NewEvent, Store};
    /// # let store = Store::in_memory()?;
    /// let account = EventQuery::tags(["account:3"]);
    /// let context = store.query(&account).await?;
    /// // ... decide, from context.events, what happens ...
    /// let withdrawn = NewEvent::new("withdrawn", 20).tag("account:3");
    /// match store.append_if([withdrawn], &account, context.context_version).await {
    ///     Ok(appended) => println!("done at {}", appended.last_sequence),
    ///     Err(AppendError::Conflict { .. }) => println!("somebody was faster: look and decide again"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when the context moved; then nothing is appended. Otherwise as [`append`](Store::append).
    ///
    /// # Cancel safety
    /// As [`append`](Store::append).
    pub async fn append_if(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
        query: &EventQuery,
        expected: impl Into<ExpectedContext>,
    ) -> Result<Appended, AppendError> {
        let condition = Condition {
            query: query.clone(),
            expected: expected.into(),
        };
        self.inner.hub.source.log.append(events, Some(condition)).await
    }

    /// [`append`](Store::append) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`append`](Store::append).
    pub fn append_blocking(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Appended, AppendError> {
        block_on(self.append(events))
    }

    /// [`append_if`](Store::append_if) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`append_if`](Store::append_if).
    pub fn append_if_blocking(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
        query: &EventQuery,
        expected: impl Into<ExpectedContext>,
    ) -> Result<Appended, AppendError> {
        block_on(self.append_if(events, query, expected))
    }

    /// Reads all events that the query selects into memory, up to the head as it is now.
    ///
    /// Meant for the context of a decision. What may be large is read with [`read`](Store::read), page by page.
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn query(&self, query: &EventQuery) -> Result<QueryResult, ReadError> {
        self.check_open()?;
        let log = &self.inner.hub.source.log;
        let query = Arc::new(query.clone());
        let (extent, first) = log.first_page(&query, QUERY_BOUNDS).await?;
        let mut found = Found::in_extent(extent);
        found.take(first)?;
        while let Some(range) = found.left() {
            found.take(log.page(&query, range, QUERY_BOUNDS).await)?;
        }
        Ok(found.result)
    }

    /// [`query`](Store::query) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`query`](Store::query).
    pub fn query_blocking(&self, query: &EventQuery) -> Result<QueryResult, ReadError> {
        self.check_open()?;
        let reader = &self.inner.hub.source.log.reader;
        let mut found = Found::in_extent(reader.extent()?);
        while let Some(range) = found.left() {
            found.take(reader.page(query, range, QUERY_BOUNDS))?;
        }
        Ok(found.result)
    }

    /// Removes the oldest batches, in small steps between appends: retention.
    ///
    /// What is removed are whole batches from the beginning of the log on, up to [a sequence](Prune::before) or
    /// [a time](Prune::older_than). A step removes up to 256 events, or one batch that is larger, in the transaction of an
    /// append group; appends and streams go on meanwhile. Sequences are not given again, not even when nothing is left.
    ///
    /// A prune does not go past the cursor of the durable stream that is furthest behind, whether that stream runs or not,
    /// nor past the position of a running stream of this store that has no cursor. It removes what it may, and
    /// [says who held it](Pruned::held_by). [`past_cursors`](Prune::past_cursors) removes all the same. Readers hold nothing,
    /// and streams without a cursor in other stores on the same file are not known here.
    ///
    /// Whoever needs what is gone is told: a durable stream is refused with [`StreamError::Pruned`], a reader and a running
    /// stream get [`ReadError::Pruned`], a query result says [how far the log is pruned](QueryResult::pruned_through). Who did
    /// not say where to start begins with what is left. Events that are still in memory may be delivered after they were
    /// removed. A context that was pruned is an empty one: [`append_if`](Store::append_if) with version 0 does not see it.
    ///
    /// The file does not shrink: its free pages are used again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::{Duration, SystemTime};
    ///
    /// use millstream::{EventQuery, NewEvent, Prune, Store};
    ///
    /// let store = Store::in_memory()?;
    /// for number in 1..=4 {
    ///     store.append([NewEvent::new("counted", number)]).await?;
    /// }
    /// let pruned = store.prune(3).await?;
    /// assert_eq!((pruned.removed_events, pruned.pruned_through), (2, 2));
    /// assert_eq!(store.query(&EventQuery::all()).await?.events[0].sequence(), 3);
    ///
    /// let a_month = Duration::from_secs(30 * 24 * 60 * 60);
    /// let pruned = store.prune(Prune::older_than(SystemTime::now() - a_month)).await?;
    /// if let Some(held_by) = pruned.held_by {
    ///     println!("{:?} still needs what comes after {}", held_by.stream, held_by.position);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store is closed, or the storage fails; the steps before are done.
    ///
    /// # Cancel safety
    /// Dropped, the future stops the prune between two steps: one may be under way. What is left is a log that was pruned
    /// less far, and another prune goes on from there.
    pub async fn prune(&self, what: impl Into<Prune>) -> Result<Pruned, PruneError> {
        let hub = &self.inner.hub;
        prune::prune(&hub.source, &hub.registry, what.into()).await
    }

    /// A `Stream` of the batches that the query selects, page by page, which ends at the head.
    pub fn read(&self, query: &EventQuery) -> EventReader {
        self.reader(query, End::AtHead)
    }

    /// A `Stream` of the batches that the query selects, which goes on with what is committed later: a subscription that
    /// is pulled. It ends when the store is closed.
    pub fn follow(&self, query: &EventQuery) -> EventReader {
        self.reader(query, End::Never)
    }

    /// The last committed sequence that the streams of this store have been told of; 0 in an empty log.
    pub fn head(&self) -> u64 {
        self.inner.hub.source.bus.head()
    }

    /// The random id that was made with the log.
    pub fn log_id(&self) -> &str {
        self.inner.hub.source.log.reader.log_id()
    }

    /// Calls the handler with every batch whose append begins after this returns (S6).
    ///
    /// The handler runs on the tokio runtime that this is called on.
    ///
    /// # Errors
    /// There is no runtime, or the store is closed.
    pub async fn stream_all(&self, handle: HandleStream) -> Result<EventStream, StreamError> {
        self.stream_to(&EventQuery::all(), handle).await
    }

    /// Calls the handler with what the query selects of every batch whose append begins after this returns (S6).
    ///
    /// The handler runs on the tokio runtime that this is called on, which needs its time driver (`enable_time`).
    ///
    /// # Errors
    /// There is no runtime, or the store is closed.
    pub async fn stream_to(
        &self,
        query: &EventQuery,
        handle: HandleStream,
    ) -> Result<EventStream, StreamError> {
        self.inner.hub.open_live(query.clone(), handle).await
    }

    /// As [`stream_to_durable`](Store::stream_to_durable), for all events.
    ///
    /// # Errors
    /// As [`stream_to_durable`](Store::stream_to_durable).
    pub async fn stream_all_durable(
        &self,
        durable: &DurableStream,
        handle: HandleStream,
    ) -> Result<EventStream, StreamError> {
        self.stream_to_durable(durable, &EventQuery::all(), handle).await
    }

    /// Calls the handler with what the query selects, from the stream's stored cursor on, and goes over to what is
    /// committed later without a seam (S3, D1).
    ///
    /// Where it begins is resolved and stored before this returns. A name that is just being unsubscribed is waited for.
    ///
    /// # Errors
    /// The name is in use; the stored cursor does not fit the log or the query, see [`OnMismatch`](crate::OnMismatch);
    /// there is no runtime; the store is closed; the storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped, no stream runs; the cursor may have been stored.
    pub async fn stream_to_durable(
        &self,
        durable: &DurableStream,
        query: &EventQuery,
        handle: HandleStream,
    ) -> Result<EventStream, StreamError> {
        self.inner.hub.open_durable(durable, query.clone(), handle).await
    }

    /// The status of every stream of this store, in the order of their registration, those that stopped with an error among
    /// them.
    pub fn streams_here(&self) -> Vec<StreamStatus> {
        let streams = self.inner.hub.registry.all();
        streams.iter().map(|core| core.status()).collect()
    }

    /// The dead letters of a durable stream, whether it runs or not: what its
    /// [failure policy](crate::DurableStream::on_failure) set aside.
    pub fn dead_letters(&self, stream: &str) -> DeadLetters {
        let hub = &self.inner.hub;
        DeadLetters::new(Arc::clone(&hub.source), Arc::clone(&hub.registry), stream)
    }

    /// Waits until every stream has settled everything that is committed, including what handlers append meanwhile. What
    /// tests wait for.
    ///
    /// # Errors
    /// A stream has stopped with an error, or was paused, before it got there; called inside a handler of one of the streams.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn settled(&self) -> Result<(), WaitError> {
        self.inner.hub.settled().await
    }

    /// Closes the store: commits what is queued, lets live streams deliver it, lets handler calls end, stores the cursors,
    /// and releases the file.
    ///
    /// Durable streams that are behind do not catch up first: they go on at the next start. All handles of this store are
    /// closed with it. Closing twice does nothing. Inside a handler it would wait for itself: spawn a task that closes.
    ///
    /// # Errors
    /// Some handlers were not done within the [drain limit](StoreBuilder::drain_limit), and were cancelled. The store is
    /// closed all the same.
    ///
    /// # Cancel safety
    /// When the future is dropped the store may be left half closed: appends are refused, streams may go on.
    pub async fn close(&self) -> Result<(), CloseError> {
        let hub = &self.inner.hub;
        hub.source.log.refuse();
        hub.source.log.drained().await;
        let outcome = hub.close(self.inner.drain_limit).await;
        hub.source.log.close();
        let committer = self.inner.committer.clone();
        // Ends after what is queued is stored. A committer that panicked has said so.
        match Handle::try_current() {
            Ok(runtime) => {
                let _ = runtime.spawn_blocking(move || committer.wait()).await;
            }
            Err(_) => committer.wait(),
        }
        hub.source.log.reader.release();
        outcome
    }

    fn reader(&self, query: &EventQuery, end: End) -> EventReader {
        EventReader::new(Arc::clone(&self.inner.hub.source), query.clone(), end)
    }

    pub(crate) fn log(&self) -> &LogHandle {
        &self.inner.hub.source.log
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn faults(&self) -> &Faults {
        &self.inner.hub.faults
    }

    pub(crate) fn check_open(&self) -> Result<(), ReadError> {
        if self.inner.hub.source.log.is_closed() {
            return Err(ReadError::Closed);
        }
        Ok(())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("log_id", &self.log_id())
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.stop_all();
        self.hub.source.log.close();
        // Ends after what is queued is committed. A committer that panicked has said so.
        self.committer.wait();
        self.hub.registry.clear();
        self.hub.source.log.reader.release();
    }
}

/// A query's result in the making.
struct Found {
    result: QueryResult,
    through: u64,
}

impl Found {
    fn in_extent(Extent { pruned_through, head }: Extent) -> Self {
        Self {
            result: QueryResult {
                events: Vec::new(),
                last_returned_sequence: None,
                context_version: 0,
                head,
                pruned_through,
            },
            through: pruned_through,
        }
    }

    /// What is still to be read.
    fn left(&self) -> Option<Range> {
        (self.through < self.result.head).then_some(Range {
            after: self.through,
            through: self.result.head,
        })
    }

    /// Takes the next page. A prune that came in between takes back what it removed: the result shows the log after it.
    fn take(&mut self, page: Result<Page, ReadError>) -> Result<(), ReadError> {
        let page = match page {
            Ok(page) => page,
            Err(ReadError::Pruned { pruned_through, .. }) => {
                self.result.pruned_through = pruned_through;
                self.result
                    .events
                    .retain(|event| event.sequence() > pruned_through);
                Page {
                    batches: Vec::new(),
                    through: pruned_through,
                }
            }
            Err(error) => return Err(error),
        };
        self.through = page.through;
        let events = &mut self.result.events;
        for batch in page.batches {
            batch.decodable()?;
            match Arc::try_unwrap(batch) {
                Ok(batch) => events.extend(batch.events),
                Err(batch) => events.extend(batch.events.iter().cloned()),
            }
        }
        self.result.last_returned_sequence = events.last().map(EventRecord::sequence);
        self.result.context_version = self.result.last_returned_sequence.unwrap_or(0);
        Ok(())
    }
}

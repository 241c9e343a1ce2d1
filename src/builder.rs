//! The options of a store, and the wiring of its parts.

#[cfg(feature = "contract")]
mod contract;
mod evolution;
#[cfg(feature = "sqlite")]
mod location;
#[cfg(feature = "postgres")]
mod server;

use std::collections::HashMap;
use std::fmt::Display;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::bus::Bus;
use crate::clock::{Clock, TIME_MAX};
use crate::error::{OpenError, StorageError};
use crate::event::evolution::{Evolution, Registrations};
use crate::event::limits::Limits;
use crate::fault::Faults;
use crate::log::committer::Committer;
use crate::log::committer::own::Owners;
use crate::log::crew::{Crew, Duty, Turn};
use crate::log::handle::LogHandle;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::log::opening::{Absent, Durability};
use crate::log::page::PageBounds;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::log::payload_path::PayloadPath;
#[cfg(feature = "postgres")]
use crate::log::postgres;
use crate::log::queue::Queue;
use crate::log::shared::SharedPages;
#[cfg(feature = "sqlite")]
use crate::log::sqlite;
#[cfg(feature = "sqlite")]
use crate::log::sqlite::index::upkeep::Sizes;
use crate::log::{LogReader, LogWriter, memory};
use crate::meter::{self, LogMeter, StreamMeter};
use crate::store::Store;
use crate::stream::feed::{Source, shelf_bytes_max};
use crate::stream::hub::Hub;
use crate::stream::registry::Registry;

#[cfg(feature = "internals")]
use crate::log::broken::{self, Sabotage};

/// The options of a [`Store`]. Each has a default that suits most programs.
///
/// ```
/// use std::time::Duration;
/// use millstream::Store;
///
/// let store = Store::builder()
///     .window_bytes(64 << 20)
///     .poll_interval(Duration::from_millis(250))
///     .in_memory()?;
/// # Ok::<(), millstream::OpenError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder opens nothing before `open` or `in_memory`"]
pub struct StoreBuilder {
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    durability: Durability,
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    absent: Absent,
    #[cfg(feature = "sqlite")]
    index_sizes: Sizes,
    #[cfg(feature = "sqlite")]
    pages_max: Option<u32>,
    #[cfg(feature = "postgres")]
    server: postgres::Options,
    /// The server that was connected to.
    #[cfg(feature = "postgres")]
    desk: Option<postgres::beside::ServerDesk>,
    /// The threads that the committer shares with those of other logs. Nothing: it has one of its own.
    crew: Option<Arc<Crew>>,
    indexed_paths: Vec<String>,
    evolution: Registrations,
    limits: Limits,
    window_bytes: usize,
    page_bytes: usize,
    page_batches: usize,
    poll_interval: Duration,
    owner_silence_max: Duration,
    queue_requests: usize,
    queue_bytes: usize,
    readers: usize,
    drain_limit: Duration,
    faults: Faults,
    clock: Clock,
    #[cfg(feature = "internals")]
    sabotage: Option<Sabotage>,
}

impl Default for StoreBuilder {
    fn default() -> Self {
        Self {
            #[cfg(any(feature = "postgres", feature = "sqlite"))]
            durability: Durability::default(),
            #[cfg(any(feature = "postgres", feature = "sqlite"))]
            absent: Absent::default(),
            #[cfg(feature = "sqlite")]
            index_sizes: Sizes::default(),
            #[cfg(feature = "sqlite")]
            pages_max: None,
            #[cfg(feature = "postgres")]
            server: postgres::Options::default(),
            #[cfg(feature = "postgres")]
            desk: None,
            crew: None,
            indexed_paths: Vec::new(),
            evolution: Registrations::default(),
            limits: Limits::default(),
            window_bytes: 16 << 20,
            page_bytes: 2 << 20,
            page_batches: 1024,
            poll_interval: Duration::from_millis(100),
            owner_silence_max: Duration::from_secs(10),
            queue_requests: 4096,
            queue_bytes: 64 << 20,
            readers: 4,
            drain_limit: Duration::from_secs(10),
            faults: Faults::default(),
            clock: Clock::default(),
            #[cfg(feature = "internals")]
            sabotage: None,
        }
    }
}

impl StoreBuilder {
    /// What a commit survives. Default: [`Durability::Full`], power cuts.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Opens a log that is there, and makes none: `open` then refuses a path where there is no file with
    /// [`OpenError::Missing`], and an empty file with [`OpenError::ForeignFile`]; `connect` refuses a server without the log. For whoever only reads, so that a mistyped
    /// path is an error and not an empty log.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// use millstream::{OpenError, Store};
    ///
    /// let path = folder.path().join("shpo.db");
    /// let refused = Store::builder().must_exist().open(&path);
    /// assert!(matches!(refused, Err(OpenError::Missing { .. })));
    /// assert!(!path.exists());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn must_exist(mut self) -> Self {
        self.absent = Absent::Refused;
        self
    }

    /// Indexes a path into the payload, written as a JSON pointer through the members of objects: `/order`, or `/order/id`.
    /// May be given up to 16 times.
    ///
    /// Queries with a payload predicate that has a scalar at the path, such as `{"order": 7}`, then find their events
    /// without reading the others: in [`query`](Store::query), [`read`](Store::read), [`append_if`](Store::append_if) and
    /// the replay of a durable stream. Without it a predicate is asked about every event that the types and tags of its
    /// filter select. Live streams need no index.
    ///
    /// The path is stored in the file and stays indexed, also for those who open the file without it. A path that is new
    /// to a file with events is indexed in the background, which reads the log once; until then queries find the same
    /// events, but read more. A log in memory has no index and ignores it.
    /// On a PostgreSQL server the path is indexed while the log is opened, which waits for it, and others go on appending meanwhile; a
    /// user who may not make indexes there finds the same events without one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// use millstream::{EventFilter, NewEvent, Store};
    /// use serde_json::json;
    ///
    /// let store = Store::builder().index_payload("/order").open(&path)?;
    /// store.append([NewEvent::new("order-placed", json!({"order": 7, "total": 1250}))]).await?;
    /// let order_7 = EventFilter::types(["order-placed"]).payload(json!({"order": 7}));
    /// assert_eq!(store.query(&order_7.into()).await?.events.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn index_payload(mut self, pointer: impl Into<String>) -> Self {
        self.indexed_paths.push(pointer.into());
        self
    }

    /// How large events and batches may be.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The byte budget of the newest batches in memory, from which streams that keep up are served. It is shared by all
    /// streams. Payloads count with room for their parsed form. Default 16 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// How much a stream takes from the window or the log at once, in bytes; a batch is never cut in two. Default 2 MiB;
    /// less, when the pages of all streams at work would exceed the window's budget.
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = bytes;
        self
    }

    /// How much a stream takes from the window or the log at once, in batches. Default 1,024.
    pub fn page_batches(mut self, batches: usize) -> Self {
        self.page_batches = batches;
        self
    }

    /// How often the store looks for commits of other processes and for lost wake-ups (D8). One look serves all streams.
    /// Default 100 ms.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// For how long the owner of a durable stream may give no sign of life, although its process is there, before who
    /// [stands by](crate::Ownership::Standby) takes over. From 100 ms to a day. Default 10 s.
    ///
    /// A store that owns streams gives eight signs within its own limit, so choose the same for all stores of a log. An owner that was
    /// only slow writes nothing any more once it was taken over; what it had handled beyond its cursor is handled twice (D3). An
    /// owner whose process has died is not waited for: it is taken over within a quarter of a second; on a server, by a store
    /// that has lost its own connection to it, not before five seconds after that was made anew.
    pub fn owner_silence_max(mut self, time: Duration) -> Self {
        self.owner_silence_max = time;
        self
    }

    /// How many appends may be queued or in commit; further ones wait. Default 4,096.
    pub fn queue_requests(mut self, requests: usize) -> Self {
        self.queue_requests = requests;
        self
    }

    /// How many bytes may be queued or in commit; further appends wait. Default 64 MiB, and never less than the largest
    /// batch that the limits allow.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// How many pages are read from the log at the same time, each on a connection of its own. Default 4.
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// How long [`close`](Store::close) waits for handlers. Default 10 s. A stream whose handler is not at work is given 5 s more
    /// to store its cursor.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Has the committer share its threads with those of other logs.
    #[cfg(feature = "sqlite")]
    pub(crate) fn crew(mut self, crew: Arc<Crew>) -> Self {
        self.crew = Some(crew);
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(any(feature = "internals", feature = "testing"))]
    pub(crate) fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    #[cfg(all(feature = "internals", feature = "sqlite"))]
    pub(crate) fn index_sizes(mut self, sizes: Sizes) -> Self {
        self.index_sizes = sizes;
        self
    }

    #[cfg(all(feature = "internals", feature = "sqlite"))]
    pub(crate) fn pages_max(mut self, pages: u32) -> Self {
        self.pages_max = Some(pages);
        self
    }

    #[cfg(feature = "internals")]
    pub(crate) fn sabotage(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// Opens the log in this SQLite file, or makes it. Blocks until that is done.
    ///
    /// # Errors
    /// An option makes no sense; upcasters do not fit together; the file is something else, or of a newer format; the storage fails.
    #[cfg(feature = "sqlite")]
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store, OpenError> {
        self.validate()?;
        let evolution = self.evolution.check()?;
        let options = sqlite::Options {
            evolution: evolution.clone(),
            durability: self.durability,
            absent: self.absent,
            idle_readers_max: self.readers,
            paths: self.paths()?,
            sizes: self.index_sizes,
            pages_max: self.pages_max,
        };
        let (writer, reader) = sqlite::open(path.as_ref(), &options)?;
        self.wire(writer, reader, evolution)
    }

    /// Opens an empty log in memory, which ends with the store.
    ///
    /// # Errors
    /// An option makes no sense, or upcasters do not fit together.
    pub fn in_memory(self) -> Result<Store, OpenError> {
        self.validate()?;
        let evolution = self.evolution.check()?;
        let (writer, reader) = memory::open();
        self.wire(writer, reader, evolution)
    }

    /// The indexed paths, read.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn paths(&self) -> Result<Vec<PayloadPath>, OpenError> {
        let read = |pointer: &String| {
            PayloadPath::parse(pointer).map_err(|problem| invalid("index_payload", pointer, problem))
        };
        self.indexed_paths.iter().map(read).collect()
    }

    fn validate(&self) -> Result<(), OpenError> {
        let counts = [
            ("page_bytes", self.page_bytes),
            ("page_batches", self.page_batches),
            ("queue_requests", self.queue_requests),
            ("queue_bytes", self.queue_bytes),
            ("readers", self.readers),
        ];
        for (option, value) in counts.into_iter().chain(self.limits.options()) {
            if value == 0 {
                return Err(invalid(option, value, "too small; at least 1 is needed"));
            }
        }
        let largest = [
            ("queue_requests", self.queue_requests),
            ("queue_bytes", self.queue_bytes),
            ("readers", self.readers),
            ("batch_bytes_max", self.limits.batch_bytes_max),
        ];
        for (option, value) in largest {
            if u32::try_from(value).is_err() {
                return Err(invalid(option, value, "too large; less than 4 Gi is possible"));
            }
        }
        if self.poll_interval < Duration::from_millis(1) {
            let value = format!("{:?}", self.poll_interval);
            return Err(invalid(
                "poll_interval",
                value,
                "too short; at least 1 ms is needed",
            ));
        }
        if self.owner_silence_max < Duration::from_millis(100) {
            let value = format!("{:?}", self.owner_silence_max);
            return Err(invalid(
                "owner_silence_max",
                value,
                "too short; at least 100 ms are needed",
            ));
        }
        let times = [
            ("owner_silence_max", self.owner_silence_max),
            ("poll_interval", self.poll_interval),
            ("drain_limit", self.drain_limit),
        ];
        for (option, time) in times {
            if time > TIME_MAX {
                return Err(invalid(
                    option,
                    format!("{time:?}"),
                    "too long; at most a day is possible",
                ));
            }
        }
        Ok(())
    }

    fn wire<W: LogWriter + 'static, R: LogReader + 'static>(
        self,
        writer: W,
        reader: R,
        evolution: Option<Arc<Evolution>>,
    ) -> Result<Store, OpenError> {
        #[cfg(feature = "internals")]
        if let Some(sabotage) = self.sabotage {
            let (writer, reader) = broken::wrap(writer, reader, sabotage);
            return self.assemble(writer, reader, evolution);
        }
        self.assemble(writer, reader, evolution)
    }

    /// Puts the parts together and starts the committer. What is committed goes up to the bus through one closure.
    fn assemble<W: LogWriter + 'static>(
        self,
        mut writer: W,
        reader: impl LogReader + 'static,
        evolution: Option<Arc<Evolution>>,
    ) -> Result<Store, OpenError> {
        meter::describe();
        let head = writer.tail()?.head;
        let log_id = reader.log_id().to_owned();
        let crew = self.crew.unwrap_or_else(|| Arc::new(Crew::new(1)));
        let place = crew.place();
        let queue = Arc::new(Queue::new(place.clone()));
        writer.call_on_news(Arc::new({
            let queue = Arc::clone(&queue);
            move || queue.announce_news()
        }));
        let tempo = Arc::clone(crew.tempo());
        let room_bytes = self.queue_bytes.max(self.limits.batch_bytes_max);
        let log = Arc::new(LogHandle {
            reader: Arc::new(reader),
            queue: Arc::clone(&queue),
            limits: self.limits,
            evolution,
            tempo: Arc::clone(&tempo),
            room_requests_max: self.queue_requests,
            room_requests: Arc::new(Semaphore::new(self.queue_requests)),
            room_bytes: Arc::new(Semaphore::new(room_bytes)),
            read_slots: Arc::new(Semaphore::new(self.readers)),
            shared: Arc::new(SharedPages::new(
                shelf_bytes_max(self.window_bytes),
                self.faults.clone(),
            )),
            clock: self.clock.clone(),
            #[cfg(feature = "postgres")]
            desk: self.desk,
        });
        let page = PageBounds {
            batches_max: self.page_batches,
            bytes_max: self.page_bytes,
        };
        let bus = Arc::new(Bus::new(head, self.window_bytes));
        let hub = Arc::new(Hub {
            source: Arc::new(Source::new(log, bus, page, self.window_bytes)),
            registry: Arc::new(Registry::new()),
            faults: self.faults.clone(),
            unnamed: Arc::new(StreamMeter::new(None)),
            threads: Arc::default(),
            poll_interval: self.poll_interval,
        });
        let committer = Committer {
            writer,
            queue,
            tempo,
            publish: Box::new(hub.publisher()),
            tell: Box::new(hub.herald()),
            meter: LogMeter::new(),
            words: Vec::new(),
            epoch_heard: None,
            head,
            log_id,
            poll_interval: self.poll_interval,
            faults: self.faults,
            clock: self.clock,
            data_version: None,
            in_hand: Vec::new(),
            cursor_retries: HashMap::new(),
            upkeep_rests_until: None,
            letters: Vec::new(),
            reactions: Default::default(),
            #[cfg(feature = "sqlite")]
            beside: Vec::new(),
            owners: Owners::new(self.poll_interval, self.owner_silence_max),
            expected: 0,
            look_at: Instant::now() + self.poll_interval,
            idle_from: None,
        };
        let stops_streams = StopOnExit(Arc::clone(&hub));
        let duty = CommitterDuty {
            committer,
            _stops_streams: stops_streams,
        };
        let ending = crew
            .begin(&place, Box::new(duty))
            .map_err(|error| StorageError::new("start the committer", error))?;
        Ok(Store::new(hub, ending, self.drain_limit))
    }
}

/// The committer, and then the end of all streams.
struct CommitterDuty<W> {
    committer: Committer<W>,
    _stops_streams: StopOnExit,
}

impl<W: LogWriter> Duty for CommitterDuty<W> {
    fn turn(&mut self) -> Turn {
        self.committer.turn()
    }
}

/// Ends all streams when the committer ends, which it does without being told to only by a panic: without it they would
/// look alive and never be given anything again.
struct StopOnExit(Arc<Hub>);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        self.0.stop_all();
    }
}

fn invalid(option: &'static str, value: impl Display, problem: &'static str) -> OpenError {
    OpenError::InvalidOption {
        option,
        value: value.to_string(),
        problem,
    }
}

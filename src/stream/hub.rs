//! All that streams of one store share, and how they are registered.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::error::{CloseError, Instance, ReadError, StopCause, StreamError, WaitError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::fault::{FaultPoint, Faults};
use crate::log::cursor::{CursorCell, Opened, Start};
use crate::log::handle::owner::LetsGo;
use crate::log::letter::LetterCounts;
use crate::log::steer::Heard;
use crate::meter::StreamMeter;
use crate::stream::aside::Care;
use crate::stream::checkpoint::{Checkpointer, SWEEP_EVENTS};
use crate::stream::core::{DurableParts, NewCore, StreamCore};
use crate::stream::crowd;
use crate::stream::feed::{Feed, Source};
use crate::stream::handle::EventStream;
use crate::stream::handler::HandleStream;
use crate::stream::options::{DurableOptions, DurableStream};
use crate::stream::pump::{Durable, Pump};
use crate::stream::registry::{Claim, NameClaim, Registry};
use crate::stream::retry_request;
#[cfg(feature = "metrics")]
use crate::stream::sampler::Sampler;
use crate::stream::standby::{self, Candidacy};
use crate::stream::steering::Hearing;

pub(crate) struct Hub {
    pub(crate) source: Arc<Source>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) faults: Faults,
    /// The instruments of all streams without a name.
    pub(crate) unnamed: Arc<StreamMeter>,
    /// A runtime that has threads of its own, if some stream runs on one: it wakes streams when they are many.
    pub(crate) threads: Arc<OnceLock<Handle>>,
    /// How often the log is looked at for what other processes do.
    pub(crate) poll_interval: Duration,
}

/// What came of a registration.
struct Registered {
    cell: CursorCell,
    care: Care,
    hearing: Hearing,
    /// Who runs the stream, when that is somebody else.
    owner: Option<Instance>,
    letters: LetterCounts,
    head: u64,
}

/// How many streams are looked at when cursors are swept along.
const SWEEP_STREAMS_MAX: usize = 256;

/// How long a handler call that ends as it should may take beyond the limit, when others have used that up.
const STOP_WITHIN: Duration = Duration::from_millis(200);
/// How long a stream without a handler call may take to store its cursor and end. It takes a moment, unless the disk or the
/// processor is very busy; nobody is to be blamed for that.
const REST_WITHIN: Duration = Duration::from_secs(5);
/// How long a cancelled handler call may take to reach its next await.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

impl Hub {
    /// Registers a live stream: it begins with what is committed after this call (S6).
    pub(crate) async fn open_live(
        &self,
        query: EventQuery,
        handler: HandleStream,
    ) -> Result<EventStream, StreamError> {
        self.runtime()?;
        let head = self.source.log.head().await.map_err(not_read)?;
        // What another process committed may be in the log already, and not yet on the bus.
        let position = head.max(self.source.bus.head());
        self.start(query, handler, position, None)
    }

    /// Registers a durable stream: its name is claimed, and where it starts is resolved and stored, before this returns
    /// (D1, D6).
    pub(crate) async fn open_durable(
        &self,
        durable: &DurableStream,
        query: EventQuery,
        handler: HandleStream,
    ) -> Result<EventStream, StreamError> {
        let options = durable.validate()?;
        if options.partition.is_some() && handler.grouping().is_some() {
            return Err(StreamError::InvalidOption {
                name: options.name.to_string(),
                problem: "its handler takes groups of batches and partition_by calls it with the events of one key; choose one of them".to_owned(),
            });
        }
        self.runtime()?;
        let claim = self.claim(&options.name).await?;
        // What is rare is boxed: thousands of streams may be registered at once, and each of these futures is in memory then.
        if matches!(options.start, Start::AfterStream(_)) {
            Box::pin(self.let_older_end(&options)).await?;
        }
        let unless_kept = LetsGo::of(&options.name, &self.source.log);
        let asked = standby::claim(&options, query.canonical_text());
        let opened = match self.source.log.open_cursor(asked).await {
            Ok(opened) => opened,
            Err(error) => return Err(Box::pin(self.with_nearest(error)).await),
        };
        let keys = match &opened {
            Opened::Owned(opened) if opened.letters.keys > 0 => {
                let keys = standby::parked_keys(&self.source.log, &options.policies, &options.name, opened);
                Box::pin(keys).await.map_err(not_read)?
            }
            _ => HashSet::new(),
        };
        let stream = self.start_durable(options, query, handler, claim, opened, keys)?;
        unless_kept.keep();
        Ok(stream)
    }

    /// Starts a durable stream whose cursor was opened.
    fn start_durable(
        &self,
        options: DurableOptions,
        query: EventQuery,
        handler: HandleStream,
        claim: NameClaim,
        opened: Opened,
        keys: HashSet<Box<str>>,
    ) -> Result<EventStream, StreamError> {
        let candidacy = Candidacy::new(&options, query.canonical_text());
        let registered = match &opened {
            Opened::Owned(opened) => Registered {
                cell: CursorCell::new(Arc::clone(&options.name), opened.row.epoch, opened.row.position),
                care: candidacy.care(keys, opened),
                hearing: Hearing::of(&opened.row),
                owner: None,
                letters: opened.letters,
                head: opened.head,
            },
            Opened::Gone => unreachable!("a registration makes the stream that is not there"),
            Opened::StandsBy(stands_by) => Registered {
                cell: standby::dead_cell(&options.name, stands_by.row.position),
                care: candidacy.careless(),
                hearing: Hearing::standing_by(&stands_by.row),
                owner: Some(stands_by.owner.clone()),
                letters: stands_by.letters,
                head: stands_by.head,
            },
        };
        let position = registered.cell.stored_position();
        let queue = Arc::clone(&self.source.log.queue);
        let durable = Durable {
            checkpointer: Checkpointer::new(Arc::new(registered.cell), queue, options.checkpoint),
            claim,
            care: Box::new(registered.care),
            partition: options.partition,
            letters: registered.letters,
            hearing: registered.hearing,
            candidacy: candidacy.waits().then(|| Box::new(candidacy)),
            owner: registered.owner,
            head: registered.head,
        };
        let stream = self.start(query, handler, position, Some(durable))?;
        // Somebody may have asked while nobody ran it.
        if let Opened::Owned(opened) = &opened
            && let Some(core) = self.registry.running(&options.name)
        {
            retry_request::hear(&core, &opened.row);
        }
        Ok(stream)
    }

    /// Waits until every stream has reached the head, and no stream has appended anything meanwhile.
    pub(crate) async fn settled(&self) -> Result<(), WaitError> {
        loop {
            let head = self.source.bus.head();
            for core in self.registry.all() {
                unless_ended(core.wait_for(head).await)?;
            }
            if self.source.bus.head() == head {
                return Ok(());
            }
        }
    }

    /// Waits until every stream of this store has settled everything up to a sequence, and stored it when it is durable.
    pub(crate) async fn wait_for(&self, sequence: u64) -> Result<(), WaitError> {
        for core in self.registry.all() {
            unless_ended(core.wait_stored(sequence).await)?;
        }
        Ok(())
    }

    /// What happens after words from outside were committed: whom they are meant for hears them.
    pub(crate) fn herald(self: &Arc<Self>) -> impl FnMut(Heard) + Send + use<> {
        let registry = Arc::clone(&self.registry);
        move |heard| match heard {
            Heard::Words(words) => words.into_iter().for_each(|word| registry.tell(word)),
            Heard::All(roll_call) => registry.tell_all(&roll_call),
            Heard::Vacant(names) => {
                let vacant = names.iter().filter_map(|name| registry.named(name));
                vacant.for_each(|core| core.is_vacant());
            }
            Heard::Gifts(gifts) => {
                for (name, heir) in gifts {
                    if let Some(core) = registry.running(&name) {
                        core.yields(heir);
                    }
                }
            }
            Heard::Owners(owners) => {
                for (name, owner) in owners {
                    if let Some(core) = registry.named(&name) {
                        core.is_owned_by(&owner);
                    }
                }
            }
        }
    }

    /// What happens after each commit: the batches go onto the bus, and whom they concern is woken. An empty slice says
    /// that the poll interval is over.
    pub(crate) fn publisher(self: &Arc<Self>) -> impl FnMut(&[Arc<CommittedBatch>]) + Send + use<> {
        let (source, registry) = (Arc::clone(&self.source), Arc::clone(&self.registry));
        let faults = self.faults.clone();
        let threads = Arc::clone(&self.threads);
        #[cfg(feature = "metrics")]
        let mut sampler = Sampler::new(&source, &registry);
        let mut swept = 0;
        let mut unswept_events = 0;
        move |batches| {
            if batches.is_empty() {
                // Not left to anybody: a wake-up may have been lost because of whom it was left to (D8).
                crowd::wake(source.bus.overdue(), None);
                #[cfg(feature = "metrics")]
                sampler.sample();
            } else {
                let wakers = source.bus.publish(batches);
                if faults.hit(FaultPoint::Wake) {
                    return;
                }
                crowd::wake(wakers, threads.get());
            }
            unswept_events += batches.iter().map(|batch| batch.events.len() as u64).sum::<u64>();
            if unswept_events >= SWEEP_EVENTS {
                unswept_events = 0;
                for core in registry.next_in_turn(&mut swept, SWEEP_STREAMS_MAX) {
                    core.sweep();
                }
            }
        }
    }

    /// Ends all streams. Live streams deliver what is committed first, and calls under way come to their end, all within
    /// the limit; after it they are cancelled.
    pub(crate) async fn close(&self, limit: Duration) -> Result<(), CloseError> {
        let deadline = Instant::now() + limit;
        let streams = self.registry.all();
        let head = self.source.bus.head();
        let is_durable = |core: &&Arc<StreamCore>| core.cursor().is_some();
        for core in streams.iter().filter(is_durable) {
            core.stop(StopCause::Closed);
        }
        for core in streams.iter().filter(|core| !is_durable(core)) {
            // A stream that stopped has nothing to deliver; one that is late is named below.
            let _ = tokio::time::timeout_at(deadline, core.wait_for(head)).await;
        }
        self.stop_all();
        // Streams at rest need a moment to end, even when others have used up the limit.
        let deadline = deadline.max(Instant::now() + STOP_WITHIN);
        let mut late = Vec::new();
        let mut resting = Vec::new();
        for core in &streams {
            if tokio::time::timeout_at(deadline, core.stopped()).await.is_ok() {
                continue;
            }
            if core.is_called() {
                late.push(core.name_for_people());
                core.abort.notify_one();
            } else {
                resting.push(core);
            }
        }
        let rested_by = Instant::now() + REST_WITHIN;
        for core in resting {
            if tokio::time::timeout_at(rested_by, core.stopped()).await.is_err() {
                late.push(core.name_for_people());
                core.abort.notify_one();
            }
        }
        // A call ends where it awaits; one that never does cannot be ended, and is not waited for.
        let cancelled_by = Instant::now() + CANCEL_WITHIN;
        for core in &streams {
            let _ = tokio::time::timeout_at(cancelled_by, core.stopped()).await;
        }
        if late.is_empty() {
            Ok(())
        } else {
            Err(CloseError::DrainLimit { limit, streams: late })
        }
    }

    /// Ends all streams without waiting for them, and lets readers know that nothing will come any more.
    pub(crate) fn stop_all(&self) {
        for core in self.registry.all() {
            core.stop(StopCause::Closed);
        }
        for waker in self.source.bus.close() {
            waker.wake();
        }
    }

    /// The runtime that a stream registered here and now runs on.
    fn runtime(&self) -> Result<Handle, StreamError> {
        if self.source.log.is_closed() {
            return Err(StreamError::Closed);
        }
        Handle::try_current().map_err(|_| StreamError::NoRuntime)
    }

    async fn claim(&self, name: &Arc<str>) -> Result<NameClaim, StreamError> {
        loop {
            match self.registry.claim(name) {
                Claim::Granted(claim) => return Ok(claim),
                Claim::Ending(owner) => {
                    owner.stopped().await;
                }
                Claim::Refused => {
                    return Err(StreamError::NameActive {
                        name: name.to_string(),
                    });
                }
            }
        }
    }

    fn start(
        &self,
        query: EventQuery,
        handler: HandleStream,
        position: u64,
        mut durable: Option<Durable>,
    ) -> Result<EventStream, StreamError> {
        let runtime = self.runtime()?;
        if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
            self.threads.get_or_init(|| runtime.clone());
        }
        let query = self.registry.share(query);
        let feed = Feed::new(Arc::clone(&self.source), Arc::clone(&query), position);
        let cell = durable
            .as_ref()
            .map(|durable| Arc::clone(durable.checkpointer.cell()));
        let meter = match &cell {
            Some(cell) => Arc::new(StreamMeter::new(Some(&cell.name))),
            None => Arc::clone(&self.unnamed),
        };
        let parts = NewCore {
            id: self.registry.next_id(),
            name: cell.as_ref().map(|cell| Arc::clone(&cell.name)),
            query,
            position,
            history_through: durable.as_ref().map_or(position, |durable| durable.head),
            source: Arc::clone(&self.source),
            registry: Arc::clone(&self.registry),
            durable: durable.as_mut().map(|durable| DurableParts {
                cell: Arc::clone(durable.checkpointer.cell()),
                hearing: durable.hearing.clone(),
                handler: handler.downgrade(),
                candidacy: durable.candidacy.take(),
                owner: durable.owner.clone(),
            }),
            faults: self.faults.clone(),
            meter,
            runtime,
        };
        let core = Arc::new(StreamCore::new(parts, &feed));
        if let Some(durable) = &durable {
            core.note_letters(durable.letters);
        }
        let waker = Arc::clone(&core).into();
        let pump = Pump::new(position, feed, handler, durable, waker);
        let missed = self.registry.add(&core);
        tracing::debug!(stream = core.name.as_deref(), position, "a stream begins");
        core.begin(Box::new(pump));
        if let Some(word) = missed {
            core.hear(word);
        }
        if self.source.log.is_closed() {
            // The store was closed meanwhile, and may not have seen this stream.
            core.stop(StopCause::Closed);
        }
        Ok(EventStream::new(core))
    }
}

pub(super) fn not_read(error: ReadError) -> StreamError {
    match error {
        ReadError::Storage(error) => StreamError::Storage(error),
        _ => StreamError::Closed,
    }
}

/// A stream that was ended on purpose keeps nobody waiting.
fn unless_ended(waited: Result<(), WaitError>) -> Result<(), WaitError> {
    match waited {
        Err(WaitError::Stopped {
            cause:
                StopCause::Unsubscribed
                | StopCause::Deleted
                | StopCause::Renamed { .. }
                | StopCause::TakenOver { .. },
            ..
        }) => Ok(()),
        // Somebody else has it settled.
        Err(WaitError::StandsBy { .. }) => Ok(()),
        waited => waited,
    }
}

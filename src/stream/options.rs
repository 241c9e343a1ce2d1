//! What a durable stream can be told.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::TIME_MAX;
use crate::error::{FailureCategory, StreamError};
use crate::event::record::EventRecord;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::owner::Ownership;
use crate::stream::failure::{FailurePolicies, FailurePolicy};
use crate::stream::keyed::partition::{LOOKAHEAD_BATCHES, Partition};

/// A stream whose position is stored in the log under a name, so that it goes on after a restart where it stopped.
///
/// ```
/// use std::time::Duration;
/// use millstream::{Checkpoint, DurableStream, Start};
///
/// let ledger = DurableStream::new("ledger")
///     .start(Start::Beginning)
///     .checkpoint(Checkpoint::Every { batches: 100, within: Duration::from_secs(1) });
/// # let _ = ledger;
/// ```
#[derive(Clone, Debug)]
pub struct DurableStream {
    name: String,
    start: Start,
    checkpoint: Checkpoint,
    on_mismatch: OnMismatch,
    policies: FailurePolicies,
    starts_max: u32,
    partition: Option<Partition>,
    lookahead_batches: Option<u32>,
    begins_at: Option<u64>,
    ownership: Ownership,
}

/// How often the process may end while the handler has a batch.
const STARTS_MAX: u32 = 5;

/// When the position of a durable stream is stored, and so how much a crash can repeat (D3).
///
/// Storing a cursor never makes the disk sync: when it is nearly due it rides along with an append,
/// and otherwise it is written by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checkpoint {
    /// At the latest 100 ms after a batch was handled; a crash repeats at most the 1,024 newest batches.
    #[default]
    Coalesced,
    /// At the latest so long after a batch was handled; a crash repeats at most so many batches.
    Every {
        /// How many handled batches may be unstored. At least 1.
        batches: u32,
        /// How long a handled batch may be unstored. At most a day.
        within: Duration,
    },
    /// The next batch waits until the cursor is stored; a crash repeats at most one batch.
    Strict,
}

/// Bytes of a durable stream's name.
const NAME_BYTES_MAX: usize = 255;

impl DurableStream {
    /// A durable stream of this name: 1 to 255 bytes without control characters, unique in the log.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            start: Start::default(),
            checkpoint: Checkpoint::default(),
            on_mismatch: OnMismatch::default(),
            policies: FailurePolicies::default(),
            starts_max: STARTS_MAX,
            partition: None,
            lookahead_batches: None,
            begins_at: None,
            ownership: Ownership::default(),
        }
    }

    /// Where the stream goes on, whatever cursor is stored: who handles its batches stores how far they are.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn begins_at(mut self, position: u64) -> Self {
        self.begins_at = Some(position);
        self
    }

    /// Where the stream starts when it has no cursor yet. Default: with the first event of the log.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// When the cursor is stored. Default: [`Checkpoint::Coalesced`].
    #[must_use]
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = checkpoint;
        self
    }

    /// What happens when the stored cursor does not fit. Default: [`OnMismatch::Refuse`].
    #[must_use]
    pub fn on_mismatch(mut self, on_mismatch: OnMismatch) -> Self {
        self.on_mismatch = on_mismatch;
        self
    }

    /// What becomes of the registration when another store runs the stream. Default: [`Ownership::Fail`].
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    /// What happens with a batch when the [retries](crate::HandleStream::retry) of its handler are used up. Default:
    /// [`FailurePolicy::stop`].
    ///
    /// It is for every category but [`Undecodable`](FailureCategory::Undecodable): an event that cannot be decoded stops the
    /// stream, unless [`on`](Self::on) says otherwise.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.policies.set_general(policy);
        self
    }

    /// The same for one category of failures.
    #[must_use]
    pub fn on(mut self, category: FailureCategory, policy: FailurePolicy) -> Self {
        self.policies.set(category, policy);
        self
    }

    /// How often a batch is given to the handler after a run that was cut off, when each time the process ends before the handler
    /// returns. Then the failure policy has its say, with the category [`Crash`](FailureCategory::Crash), and the handler is not
    /// called. At least 1. Default 5.
    ///
    /// After a run that was cut off, by a kill or an abort, the batches that its handler may have had are watched: each is noted
    /// in the log before the handler gets it. That is a small transaction for each, up to as many as the
    /// [checkpoint](Self::checkpoint) allows to be unstored, and nothing after that, or after a run that ended in order. The
    /// first time that a batch ends the process is not counted, because nobody watched. Every stream whose handler was at work
    /// when the process ended counts that as a start of the batch it had: give slow handlers more.
    #[must_use]
    pub fn starts_max(mut self, starts: u32) -> Self {
        self.starts_max = starts.max(1);
        self
    }

    /// Handles several keys at once: up to so many calls of the handler are under way, 1 to 1,024, and never two of one key.
    ///
    /// The events of a key are handled in the order of the log, those of different keys in any order. A call gets the events of
    /// one key of one committed batch, as an [`EventBatch`](crate::EventBatch) whose range is theirs: its `last_sequence` is a key
    /// that makes an effect idempotent, as that of a whole batch is. Events for which the closure gives no key are in order
    /// among themselves, as if they had a key of their own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{DurableStream, EventBatch, EventRecord, FailurePolicy, HandleStream, NewEvent, Store};
    ///
    /// let store = Store::in_memory()?;
    /// fn order(event: &EventRecord) -> Option<String> {
    ///     event.tags().find(|tag| tag.starts_with("order:")).map(str::to_owned)
    /// }
    /// let shipping = DurableStream::new("shipping")
    ///     .partition_by(16, order)
    ///     .on_failure(FailurePolicy::park_key(order));
    /// let handle = HandleStream::new(|events: EventBatch| async move {
    ///     // One order at a time: what comes first of it is settled before what comes next.
    ///     for event in &events {
    ///         println!("{:?} {}", event.tags().next(), event.event_type());
    ///     }
    ///     Ok::<_, std::io::Error>(())
    /// });
    /// let stream = store.stream_all_durable(&shipping, handle).await?;
    /// store.append([
    ///     NewEvent::new("order-placed", 7).tag("order:7"),
    ///     NewEvent::new("order-placed", 8).tag("order:8"),
    ///     NewEvent::new("order-paid", 7).tag("order:7"),
    /// ]).await?;
    /// stream.caught_up().await?;
    /// assert_eq!(stream.status().handled_batches, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// **One cursor.** The position is the last sequence up to which everything is settled, so a slow or failing key holds it, and
    /// holds nobody else until as many batches as [`lookahead`](Self::lookahead) says lie behind it. A crash repeats what was
    /// handled behind the stored cursor: at most what the [`checkpoint`](Self::checkpoint) allows to be unstored and the
    /// lookahead together. An end in order repeats at most the lookahead, and nothing when nothing failed and no call was kept from
    /// beginning. How many workers there are may change from run to run, and says nothing of what is delivered.
    ///
    /// **Failures.** A call that fails is tried again after its own pauses, and the other keys go on; while it pauses, another
    /// call has its place. What a [failure policy](Self::on_failure) sets aside is stored when the position comes to it, in the
    /// transaction that moves the cursor over it. With [`FailurePolicy::park_key`] use one closure for both: the order of what
    /// is parked holds among events that share a key here. With [`FailurePolicy::stop`] the calls under way end first. After a
    /// run that was cut off, the stretch that it may have had in hand is handled one call at a time, so that the one which
    /// ends the process is [found](Self::starts_max).
    ///
    /// **The closure** is called once for each event that is delivered, in the loop of the stream, so it should be cheap. It must
    /// give the same key for the same event whenever it is asked. A panic in it stops the stream. Each call is a task of its own
    /// on the runtime of the stream, so calls compute at the same time when the runtime has several threads.
    ///
    /// [`Checkpoint::Strict`] is refused: with it a crash repeats one batch at the most, which several calls at once cannot keep.
    #[must_use]
    pub fn partition_by(
        mut self,
        workers: u32,
        key: impl Fn(&EventRecord) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.partition = Some(Partition {
            workers,
            key: Arc::new(key),
            lookahead_batches: LOOKAHEAD_BATCHES,
        });
        self
    }

    /// How many batches a stream with [`partition_by`](Self::partition_by) may have in hand, from the oldest one on that is not
    /// settled; 1 to 65,536. Default 1,024.
    ///
    /// It is how far other keys can get ahead of one that is slow or fails, and with the checkpoint it bounds what a crash repeats.
    /// What is in hand may weigh as much as two pages of the stream, which the store's budget for pages bounds too: large
    /// batches, or many streams at work, end the lookahead earlier.
    #[must_use]
    pub fn lookahead(mut self, batches: u32) -> Self {
        self.lookahead_batches = Some(batches);
        self
    }

    /// What is wrong with parallelism by key, or how it is to be.
    fn validate_partition(&self) -> Result<Option<Partition>, String> {
        let Some(mut partition) = self.partition.clone() else {
            return match self.lookahead_batches {
                Some(_) => {
                    Err("it has a lookahead and handles one batch at a time; add partition_by".to_owned())
                }
                None => Ok(None),
            };
        };
        if let Some(batches) = self.lookahead_batches {
            partition.lookahead_batches = batches;
        }
        if self.checkpoint == Checkpoint::Strict {
            return Err(
                "Checkpoint::Strict lets a crash repeat one batch and partition_by has several in hand; choose Checkpoint::Every, or leave out partition_by"
                    .to_owned(),
            );
        }
        match partition.problem() {
            Some(problem) => Err(problem),
            None => Ok(Some(partition)),
        }
    }

    /// Whether a reactor can be one of these: its reaction has to be settled by the cursor that moves with it.
    pub(crate) fn check_for_reactor(&self) -> Result<(), StreamError> {
        if self.partition.is_none() {
            return Ok(());
        }
        Err(StreamError::InvalidOption {
            name: self.name.clone(),
            problem: "it is a reactor, whose cursor moves with its events, and partition_by lets the cursor lag behind what was answered; leave out partition_by, or use several reactors with queries of their own".to_owned(),
        })
    }

    /// Checks everything at once, and gives the parts.
    pub(crate) fn validate(&self) -> Result<DurableOptions, StreamError> {
        let partition = self.validate_partition();
        let problem = if let Err(problem) = check_name(&self.name) {
            format!("the name {problem}")
        } else if matches!(&self.start, Start::AfterStream(older) if *older == self.name) {
            "it is to start after itself; name the older stream".to_owned()
        } else if self.checkpoint.is_too_long() {
            "the checkpoint is longer than a day".to_owned()
        } else if self.policies.have_several_keys() {
            "its failure policies have several closures for keys; clone one policy instead".to_owned()
        } else if let Err(problem) = partition {
            problem
        } else if let (Some(limits), Ok(partition)) = (self.checkpoint.limits(), partition) {
            return Ok(DurableOptions {
                name: self.name.as_str().into(),
                start: self.start.clone(),
                checkpoint: limits,
                on_mismatch: self.on_mismatch,
                policies: self.policies.clone(),
                starts_max: self.starts_max,
                partition,
                begins_at: self.begins_at,
                ownership: self.ownership,
            });
        } else {
            "the checkpoint has 0 batches, at least 1 is needed".to_owned()
        };
        Err(StreamError::InvalidOption {
            name: self.name.clone(),
            problem,
        })
    }
}

/// Whether a text may be the name of a stream; otherwise, what is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        Err("is empty".to_owned())
    } else if name.len() > NAME_BYTES_MAX {
        let bytes = name.len();
        Err(format!("has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed"))
    } else if name.chars().any(char::is_control) {
        Err("contains a control character".to_owned())
    } else {
        Ok(())
    }
}

/// The options of a durable stream, checked.
pub(crate) struct DurableOptions {
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) start: Start,
    pub(crate) checkpoint: CheckpointLimits,
    pub(crate) on_mismatch: OnMismatch,
    pub(crate) policies: FailurePolicies,
    pub(crate) starts_max: u32,
    pub(crate) partition: Option<Partition>,
    pub(crate) begins_at: Option<u64>,
    pub(crate) ownership: Ownership,
}

impl DurableOptions {
    /// How many batches behind the stored cursor a run may have given to the handler.
    pub(crate) fn watched_batches(&self) -> u32 {
        let ahead = self
            .partition
            .as_ref()
            .map_or(0, |partition| partition.lookahead_batches);
        self.checkpoint.batches_max.get().saturating_add(ahead)
    }
}

/// How far the stored cursor may be behind the position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointLimits {
    pub(crate) batches_max: NonZeroU32,
    pub(crate) within: Duration,
}

impl Checkpoint {
    fn is_too_long(self) -> bool {
        matches!(self, Self::Every { within, .. } if within > TIME_MAX)
    }

    fn limits(self) -> Option<CheckpointLimits> {
        let (batches, within) = match self {
            Self::Coalesced => (1024, Duration::from_millis(100)),
            Self::Every { batches, within } => (batches, within),
            Self::Strict => (1, Duration::ZERO),
        };
        Some(CheckpointLimits {
            batches_max: NonZeroU32::new(batches)?,
            within,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_checkpoints_that_make_no_sense_are_refused() {
        let zero = Checkpoint::Every {
            batches: 0,
            within: Duration::ZERO,
        };
        let endless = Checkpoint::Every {
            batches: 1,
            within: Duration::MAX,
        };
        let two_keys = DurableStream::new("a")
            .on_failure(FailurePolicy::park_key(|_| None))
            .on(FailureCategory::Panic, FailurePolicy::park_key(|_| None));
        let by_type = |workers| {
            DurableStream::new("a").partition_by(workers, |event| Some(event.event_type().to_owned()))
        };
        for (stream, expected) in [
            (by_type(0), "partition_by has 0 workers, from 1 to 1024"),
            (by_type(1_025), "partition_by has 1025 workers"),
            (by_type(1).lookahead(0), "lookahead has 0 batches"),
            (by_type(1).lookahead(65_537), "lookahead has 65537 batches"),
            (DurableStream::new("a").lookahead(7), "add partition_by"),
            (
                by_type(1).checkpoint(Checkpoint::Strict),
                "choose Checkpoint::Every",
            ),
            (DurableStream::new(""), "empty"),
            (DurableStream::new("x".repeat(256)), "256 bytes"),
            (DurableStream::new("a\nb"), "control character"),
            (DurableStream::new("a").checkpoint(zero), "0 batches"),
            (DurableStream::new("a").checkpoint(endless), "longer than a day"),
            (two_keys, "several closures"),
            (
                DurableStream::new("a").start(Start::AfterStream("a".into())),
                "after itself",
            ),
        ] {
            let error = stream.validate().err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(DurableStream::new("a").validate().is_ok());
        let options = by_type(1_024).lookahead(7).validate().unwrap();
        assert_eq!(options.watched_batches(), 1_024 + 7);
    }
}

//! What a durable stream can be told.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::TIME_MAX;
use crate::error::{FailureCategory, StreamError};
use crate::log::cursor::{OnMismatch, Start};
use crate::stream::failure::{FailurePolicies, FailurePolicy};

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
        }
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

    /// Checks everything at once, and gives the parts.
    pub(crate) fn validate(&self) -> Result<DurableOptions, StreamError> {
        let problem = if let Err(problem) = check_name(&self.name) {
            format!("the name {problem}")
        } else if self.checkpoint.is_too_long() {
            "the checkpoint is longer than a day".to_owned()
        } else if self.policies.have_several_keys() {
            "its failure policies have several closures for keys; clone one policy instead".to_owned()
        } else if let Some(limits) = self.checkpoint.limits() {
            return Ok(DurableOptions {
                name: self.name.as_str().into(),
                start: self.start,
                checkpoint: limits,
                on_mismatch: self.on_mismatch,
                policies: self.policies.clone(),
                starts_max: self.starts_max,
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
        for (stream, expected) in [
            (DurableStream::new(""), "empty"),
            (DurableStream::new("x".repeat(256)), "256 bytes"),
            (DurableStream::new("a\nb"), "control character"),
            (DurableStream::new("a").checkpoint(zero), "0 batches"),
            (DurableStream::new("a").checkpoint(endless), "longer than a day"),
            (two_keys, "several closures"),
        ] {
            let error = stream.validate().err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(DurableStream::new("a").validate().is_ok());
    }
}

//! What becomes of events whose handling failed for good: what the user says, and how a failure is recognised.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

#[cfg(feature = "sqlite")]
use crate::error::InLogError;
#[cfg(feature = "postgres")]
use crate::error::ServerModelError;
use crate::error::{BoxError, DecodeError, FailureCategory, UndecodableEvent, causes};
use crate::event::record::EventRecord;
use crate::log::letter::LetterLimits;

type Key = dyn Fn(&EventRecord) -> Option<String> + Send + Sync;

/// What a durable stream does with a batch whose retries are used up.
///
/// Whatever is set aside becomes a [dead letter](crate::DeadLetter) in the same transaction that moves the cursor over it. When
/// it cannot be stored the cursor stays, the stream tries again, and stops after five tries (D5). When more than ten of the last
/// twenty batches would have been set aside the stream stops instead: that is an outage, and not twenty bad events.
///
/// A stream that sets events aside may deliver a batch in parts: those events that are set aside are left out, and what lies
/// before and behind them comes in calls of its own, each with a `last_sequence` of its own. A letter that is retried comes after
/// events with higher sequences. So a handler that sets events aside must not recognise repetitions by the highest sequence it
/// has seen; the sequence of each event is a key that holds.
///
/// ```
/// use millstream::{DurableStream, FailureCategory, FailurePolicy};
///
/// let by_order = FailurePolicy::park_key(|event| {
///     event.tags().find(|tag| tag.starts_with("order:")).map(str::to_owned)
/// });
/// let ledger = DurableStream::new("ledger")
///     .on_failure(by_order.keys_max(100))
///     .on(FailureCategory::Timeout, FailurePolicy::stop());
/// # let _ = ledger;
/// ```
#[derive(Clone)]
#[must_use = "it says what a stream does; give it to `DurableStream::on_failure`"]
pub struct FailurePolicy {
    pub(crate) action: Action,
    pub(crate) limits: LetterLimits,
}

#[derive(Clone)]
pub(crate) enum Action {
    Stop,
    Park,
    ParkKey(Arc<Key>),
    Skip,
}

impl FailurePolicy {
    /// The stream stops, its cursor stays before the batch, and its status says why. The default.
    pub const fn stop() -> Self {
        Self::new(Action::Stop)
    }

    /// The batch is parked as a dead letter, and the stream goes on behind it. What belongs together may be handled out of order.
    ///
    /// A handler that says with [`HandlerError::at`] which event failed loses that event alone: those before it count as
    /// handled, and the rest of the batch is delivered again without it.
    pub fn park() -> Self {
        Self::new(Action::Park)
    }

    /// The batch is parked, and later events of the same keys queue behind it in order instead of being handled, across
    /// restarts, until its letters are retried or discarded. Events of other keys, and those without a key, go on.
    ///
    /// The closure gives the key of an event. It is called for every event as long as a key is parked, so it should be cheap; it
    /// must give the same key for the same event whenever it is asked. Of a key 255 bytes count. A batch of several keys parks
    /// them all, with a letter for each run of events that share a key, unless the handler says with [`HandlerError::at`] which
    /// event failed. All policies of a stream use one closure: clone the policy to use it again.
    pub fn park_key(key: impl Fn(&EventRecord) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::new(Action::ParkKey(Arc::new(key)))
    }

    /// The batch is left behind, and a dead letter records that. Of a batch whose handler says with [`HandlerError::at`] which
    /// event failed, that event alone.
    pub fn skip() -> Self {
        Self::new(Action::Skip)
    }

    const fn new(action: Action) -> Self {
        let limits = LetterLimits {
            letters_max: 10_000,
            keys_max: 1_000,
        };
        Self { action, limits }
    }

    /// How many dead letters the stream may have when one is added under this policy, parked, queued and skipped together; over
    /// that it stops. At least 1. Default 10,000.
    pub fn letters_max(mut self, letters: u64) -> Self {
        self.limits.letters_max = letters.max(1);
        self
    }

    /// How many keys may be parked when one is added under this policy; over that the stream stops. At least 1. Default 1,000.
    pub fn keys_max(mut self, keys: u64) -> Self {
        self.limits.keys_max = keys.max(1);
        self
    }
}

impl fmt::Debug for FailurePolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Stop => "Stop",
            Action::Park => "Park",
            Action::ParkKey(_) => "ParkKey",
            Action::Skip => "Skip",
        };
        formatter
            .debug_struct(action)
            .field("letters_max", &self.limits.letters_max)
            .field("keys_max", &self.limits.keys_max)
            .finish()
    }
}

/// What cannot be decoded today may be read by tomorrow's program: nobody is to lose it unasked.
static UNDECODABLE: FailurePolicy = FailurePolicy::stop();

/// The policies of a durable stream.
#[derive(Clone, Debug)]
pub(crate) struct FailurePolicies {
    general: FailurePolicy,
    /// Those that were given for one category.
    special: Vec<(FailureCategory, FailurePolicy)>,
}

impl Default for FailurePolicies {
    fn default() -> Self {
        Self {
            general: FailurePolicy::stop(),
            special: Vec::new(),
        }
    }
}

impl FailurePolicies {
    pub(crate) fn set_general(&mut self, policy: FailurePolicy) {
        self.general = policy;
    }

    pub(crate) fn set(&mut self, category: FailureCategory, policy: FailurePolicy) {
        self.special.retain(|(known, _)| *known != category);
        self.special.push((category, policy));
    }

    pub(crate) fn of(&self, category: FailureCategory) -> &FailurePolicy {
        match self.special.iter().find(|(known, _)| *known == category) {
            Some((_, policy)) => policy,
            None if category == FailureCategory::Undecodable => &UNDECODABLE,
            None => &self.general,
        }
    }

    fn all(&self) -> impl Iterator<Item = &FailurePolicy> {
        std::iter::once(&self.general).chain(self.special.iter().map(|(_, policy)| policy))
    }

    /// The closure that gives the key of an event, if a policy parks keys, and that policy's limits.
    pub(crate) fn key(&self) -> Option<(&Arc<Key>, LetterLimits)> {
        self.all().find_map(|policy| match &policy.action {
            Action::ParkKey(key) => Some((key, policy.limits)),
            _ => None,
        })
    }

    /// Whether two policies disagree about the key of an event.
    pub(crate) fn have_several_keys(&self) -> bool {
        let one = self.key();
        self.all().any(|policy| match (&policy.action, one) {
            (Action::ParkKey(key), Some((one, _))) => !Arc::ptr_eq(key, one),
            _ => false,
        })
    }
}

/// An error that says which event of the batch failed, so that the others need not suffer for it.
///
/// It is found among the causes of what the handler returns, so it may be wrapped.
///
/// ```
/// use millstream::{EventBatch, HandleStream, HandlerError};
///
/// # async fn book(_: &millstream::EventRecord) -> Result<(), std::io::Error> { Ok(()) }
/// let handle = HandleStream::new(|batch: EventBatch| async move {
///     for event in &batch {
///         book(event).await.map_err(|error| HandlerError::at(event.sequence(), error))?;
///     }
///     Ok::<_, HandlerError>(())
/// });
/// # let _ = handle;
/// ```
#[derive(Debug, Error)]
#[error("event {sequence}: {source}")]
pub struct HandlerError {
    sequence: u64,
    source: BoxError,
}

impl HandlerError {
    /// The handler has done its work for the events of the batch before this one, failed on it, and did nothing behind it.
    pub fn at(sequence: u64, error: impl Into<BoxError>) -> Self {
        Self {
            sequence,
            source: error.into(),
        }
    }

    /// The event that failed.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// A handler call that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) category: FailureCategory,
    pub(crate) text: Arc<str>,
    /// The event that the handler says has failed.
    pub(crate) at: Option<u64>,
    /// Whether another attempt would end in the same way.
    pub(crate) is_final: bool,
}

impl Failure {
    pub(crate) fn new(category: FailureCategory, text: impl Into<Arc<str>>) -> Self {
        Self {
            category,
            text: text.into(),
            at: None,
            is_final: false,
        }
    }

    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let named = causes(error).find_map(|error| error.downcast_ref::<HandlerError>());
        Self {
            category: match DecodeError::is_behind(error) {
                true => FailureCategory::Undecodable,
                false if took_too_long(error) => FailureCategory::Timeout,
                false => FailureCategory::Error,
            },
            text: describe(error),
            at: named.map(HandlerError::sequence),
            is_final: false,
        }
    }

    /// An event that the upcasters could not bring up: no handler is called with it, however often it is tried.
    pub(crate) fn undecodable(event: &UndecodableEvent) -> Self {
        Self {
            at: Some(event.sequence()),
            is_final: true,
            ..Self::new(FailureCategory::Undecodable, event.to_string())
        }
    }
}

/// A read model had the log's file, or a transaction on its server, for longer than it might.
fn took_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|cause| is_over_budget(cause) || is_over_timeout(cause))
}

#[cfg(feature = "sqlite")]
fn is_over_budget(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(InLogError::OverBudget { .. }))
}

#[cfg(not(feature = "sqlite"))]
fn is_over_budget(_: &(dyn std::error::Error + 'static)) -> bool {
    false
}

#[cfg(feature = "postgres")]
fn is_over_timeout(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(ServerModelError::TookTooLong { .. }))
}

#[cfg(not(feature = "postgres"))]
fn is_over_timeout(_: &(dyn std::error::Error + 'static)) -> bool {
    false
}

/// The error with all its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    for error in causes(error).skip(1) {
        let part = error.to_string();
        if !text.contains(&part) {
            text += ": ";
            text += &part;
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undecodable() -> DecodeError {
        DecodeError::new(serde_json::from_str::<u32>("x").unwrap_err())
    }

    #[derive(Debug, Error)]
    enum Wrapped {
        #[error("while booking")]
        Caused(#[source] BoxError),
        #[error(transparent)]
        Transparent(#[from] DecodeError),
    }

    #[test]
    fn an_undecodable_event_is_recognised_however_it_is_wrapped() {
        let category = |error: &(dyn std::error::Error + 'static)| Failure::of(error).category;
        assert_eq!(category(&undecodable()), FailureCategory::Undecodable);
        assert_eq!(
            category(&Wrapped::from(undecodable())),
            FailureCategory::Undecodable
        );
        let deep = Wrapped::Caused(HandlerError::at(7, undecodable()).into());
        assert_eq!(category(&deep), FailureCategory::Undecodable);
        assert_eq!(category(&std::io::Error::other("x")), FailureCategory::Error);
        // JSON of the handler's own is not an event.
        let own = serde_json::from_str::<u32>("x").unwrap_err();
        assert_eq!(category(&own), FailureCategory::Error);
    }

    #[test]
    fn the_event_that_failed_is_found_among_the_causes() {
        let deep = Wrapped::Caused(HandlerError::at(7, "no").into());
        let failure = Failure::of(&deep);
        assert_eq!(failure.at, Some(7));
        assert_eq!(&*failure.text, "while booking: event 7: no");
        assert_eq!(Failure::of(&std::io::Error::other("x")).at, None);
    }

    #[test]
    fn a_category_has_its_own_policy_and_what_cannot_be_decoded_stops() {
        let mut policies = FailurePolicies::default();
        policies.set_general(FailurePolicy::park());
        policies.set(FailureCategory::Timeout, FailurePolicy::skip());
        let action = |policies: &FailurePolicies, category| format!("{:?}", policies.of(category));
        assert!(action(&policies, FailureCategory::Panic).starts_with("Park"));
        assert!(action(&policies, FailureCategory::Crash).starts_with("Park"));
        assert!(action(&policies, FailureCategory::Timeout).starts_with("Skip"));
        assert!(action(&policies, FailureCategory::Undecodable).starts_with("Stop"));
        policies.set(FailureCategory::Undecodable, FailurePolicy::park());
        assert!(action(&policies, FailureCategory::Undecodable).starts_with("Park"));
    }

    #[test]
    fn keys_come_from_one_closure() {
        let by_type = FailurePolicy::park_key(|event| Some(event.event_type().to_owned()));
        let mut policies = FailurePolicies::default();
        assert!(policies.key().is_none() && !policies.have_several_keys());
        policies.set_general(by_type.clone());
        policies.set(FailureCategory::Panic, by_type.letters_max(3));
        assert!(policies.key().is_some() && !policies.have_several_keys());
        policies.set(FailureCategory::Timeout, FailurePolicy::park_key(|_| None));
        assert!(policies.have_several_keys());
    }
}

//! How a read model is kept.

use std::time::Duration;

use crate::clock::TIME_MAX;
use crate::error::FailureCategory;
use crate::log::owner::Ownership;
use crate::projection::spec::TransactionLimits;
use crate::stream::failure::FailurePolicy;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;

/// When a version begins to serve that was built beside an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Promotion {
    /// As soon as it has caught up with the log.
    #[default]
    WhenCaughtUp,
    /// When `promote` of its handle is called.
    ByHand,
}

/// How a read model is kept: what happens when its projection fails, how large its transactions are, when a new version serves.
///
/// ```
/// use std::time::Duration;
/// use millstream::{FailurePolicy, ModelOptions, Promotion, Retry};
///
/// let options = ModelOptions::default()
///     .retry(Retry::default().attempts_max(3))
///     .on_failure(FailurePolicy::park())
///     .transaction_within(Duration::from_millis(100))
///     .promotion(Promotion::ByHand);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ModelOptions {
    retry: Retry,
    policies: Vec<(Option<FailureCategory>, FailurePolicy)>,
    transaction: TransactionLimits,
    promotion: Promotion,
    ownership: Ownership,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            policies: Vec::new(),
            transaction: TransactionLimits {
                events_max: 10_000,
                within: Duration::from_millis(250),
            },
            promotion: Promotion::default(),
            ownership: Ownership::default(),
        }
    }
}

impl ModelOptions {
    /// How often and with which pauses a batch is repeated on which the projection failed. Default: [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What happens with a batch when the retries are used up, as for a
    /// [durable stream](crate::DurableStream::on_failure). Default: [`FailurePolicy::stop`].
    ///
    /// The batch is set aside as a whole. A dead letter that is retried is applied in a transaction of its own, and once.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.policies.push((None, policy));
        self
    }

    /// The same for one category of failures.
    #[must_use]
    pub fn on(mut self, category: FailureCategory, policy: FailurePolicy) -> Self {
        self.policies.push((Some(category), policy));
        self
    }

    /// How many events one transaction applies at the most while it catches up, unless a single batch has more. At least 1. Default
    /// 10,000.
    #[must_use]
    pub fn transaction_events_max(mut self, events: usize) -> Self {
        self.transaction.events_max = events.max(1);
        self
    }

    /// How long one transaction goes on taking batches. From nothing, for one batch each, to a day. Default 250 ms.
    #[must_use]
    pub fn transaction_within(mut self, within: Duration) -> Self {
        self.transaction.within = within.min(TIME_MAX);
        self
    }

    /// When a version serves that is built beside an older one. Default: [`Promotion::WhenCaughtUp`].
    #[must_use]
    pub fn promotion(mut self, promotion: Promotion) -> Self {
        self.promotion = promotion;
        self
    }

    /// What becomes of the registration of a model that is kept continuously, when another store keeps it. Default: [`Ownership::Fail`].
    ///
    /// With [`Ownership::Standby`] [`project_with`](crate::ReadModels::project_with) itself waits, and returns when the model is kept
    /// here. The store stands by meanwhile, as `millstream streams` shows; a model is not given away to share the work.
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    pub(crate) fn ownership_of_stream(&self) -> Ownership {
        self.ownership
    }

    pub(crate) fn retry_policy(&self) -> Retry {
        self.retry
    }

    pub(crate) fn transaction(&self) -> TransactionLimits {
        self.transaction
    }

    pub(crate) fn promotes(&self) -> Promotion {
        self.promotion
    }

    /// The stream that keeps a model. Its cursor in the log only follows that of the model, so it need not be stored often.
    pub(crate) fn stream(&self, name: &str, position: u64) -> DurableStream {
        let stream = DurableStream::new(name)
            .begins_at(position)
            .checkpoint(Checkpoint::Every {
                batches: 4_096,
                within: Duration::from_secs(1),
            });
        self.policies
            .iter()
            .fold(stream, |stream, (category, policy)| match category {
                Some(category) => stream.on(*category, policy.clone()),
                None => stream.on_failure(policy.clone()),
            })
    }
}

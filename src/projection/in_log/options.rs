//! How a read model in the log's own file is kept.

use std::time::Duration;

use crate::clock::TIME_MAX;
use crate::error::FailureCategory;
use crate::log::owner::Ownership;
use crate::projection::build::TransactionLimits;
use crate::projection::options::ModelOptions;
use crate::stream::failure::FailurePolicy;
use crate::stream::policy::Retry;

/// How a read model in the log's own file is kept: what happens when its projection fails, and for how long it may keep appends waiting.
///
/// ```
/// use std::time::Duration;
/// use millstream::{FailurePolicy, InLogOptions, Retry};
///
/// let options = InLogOptions::default()
///     .retry(Retry::default().attempts_max(3))
///     .on_failure(FailurePolicy::park())
///     .budget(Duration::from_millis(50));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct InLogOptions {
    model: ModelOptions,
    budget: Duration,
}

impl Default for InLogOptions {
    fn default() -> Self {
        Self {
            model: ModelOptions::default()
                .transaction_events_max(1_000)
                .transaction_within(Duration::from_millis(10)),
            budget: Duration::from_millis(250),
        }
    }
}

impl InLogOptions {
    /// How often and with which pauses a batch is repeated on which the projection failed. Default: [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.model = self.model.retry(retry);
        self
    }

    /// What happens with a batch when the retries are used up, as [`ModelOptions::on_failure`]. Default: [`FailurePolicy::stop`].
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.model = self.model.on_failure(policy);
        self
    }

    /// The same for one category of failures.
    #[must_use]
    pub fn on(mut self, category: FailureCategory, policy: FailurePolicy) -> Self {
        self.model = self.model.on(category, policy);
        self
    }

    /// What becomes of the registration, when another store keeps the model, as [`ModelOptions::ownership`]. Default: [`Ownership::Fail`].
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.model = self.model.ownership(ownership);
        self
    }

    /// How many events one transaction applies at the most while it catches up, unless a single batch has more. At least 1. Default
    /// 1,000.
    #[must_use]
    pub fn transaction_events_max(mut self, events: usize) -> Self {
        self.model = self.model.transaction_events_max(events);
        self
    }

    /// How long one transaction goes on taking batches: about so long appends wait at a time while the model catches up. From nothing,
    /// for one batch each, to half of the [budget](Self::budget). Default 10 ms.
    #[must_use]
    pub fn transaction_within(mut self, within: Duration) -> Self {
        self.model = self.model.transaction_within(within);
        self
    }

    /// How long one transaction of the projection may take before it is ended: the longest that it can keep an append waiting. From 1 ms
    /// to a day. Default 250 ms.
    ///
    /// A statement that is at work then is interrupted; code outside SQL is found to be late when it returns. Either way everything that the
    /// transaction wrote is rolled back, and it is a failure of the category [`Timeout`](FailureCategory::Timeout). The batches are tried
    /// anew, one by one at last, so what counts in the end is the time of a single batch.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget.clamp(Duration::from_millis(1), TIME_MAX);
        self
    }

    pub(super) fn model(&self) -> &ModelOptions {
        &self.model
    }

    pub(super) fn limits(&self) -> Limits {
        let transaction = self.model.transaction();
        Limits {
            transaction: TransactionLimits {
                within: transaction.within.min(self.budget / 2),
                ..transaction
            },
            budget: self.budget,
        }
    }
}

/// How much one transaction does, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) transaction: TransactionLimits,
    pub(super) budget: Duration,
}

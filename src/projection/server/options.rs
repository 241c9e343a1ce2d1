//! How a read model on the log's server is kept.

use std::time::Duration;

use crate::clock::TIME_MAX;
use crate::error::FailureCategory;
use crate::log::owner::Ownership;
use crate::projection::options::{ModelOptions, Promotion};
use crate::stream::failure::FailurePolicy;
use crate::stream::policy::Retry;

/// How a read model on the log's server is kept: what happens when its projection fails, and how large its transactions are,
/// when a new version serves.
///
/// ```
/// use std::time::Duration;
/// use millstream::{FailurePolicy, Retry, ServerModelOptions};
///
/// let options = ServerModelOptions::default()
///     .retry(Retry::default().attempts_max(3))
///     .on_failure(FailurePolicy::park())
///     .transaction_within(Duration::from_millis(100));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ServerModelOptions {
    model: ModelOptions,
    batch_timeout: Duration,
}

impl Default for ServerModelOptions {
    fn default() -> Self {
        Self {
            model: ModelOptions::default(),
            batch_timeout: Duration::from_secs(60),
        }
    }
}

impl ServerModelOptions {
    /// How often and with which pauses a batch is repeated on which the projection failed. Default: [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.model = self.model.retry(retry);
        self
    }

    /// What happens with a batch when the retries are used up, as for a [durable stream](crate::DurableStream::on_failure). Default:
    /// [`FailurePolicy::stop`].
    ///
    /// The batch is set aside as a whole. A dead letter that is retried is applied in a transaction of its own, and once.
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

    /// What becomes of the registration, when another store keeps the model. Default: [`Ownership::Fail`]. With [`Ownership::Standby`]
    /// [`project_with`](crate::ServerModels::project_with) itself waits, and returns when the model is kept here.
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.model = self.model.ownership(ownership);
        self
    }

    /// How many events one transaction applies at the most while it catches up, unless a single batch has more. At least 1. Default
    /// 10,000.
    #[must_use]
    pub fn transaction_events_max(mut self, events: usize) -> Self {
        self.model = self.model.transaction_events_max(events);
        self
    }

    /// How long one transaction goes on taking batches. From nothing, for one batch each, to a day. Default 250 ms.
    #[must_use]
    pub fn transaction_within(mut self, within: Duration) -> Self {
        self.model = self.model.transaction_within(within);
        self
    }

    /// When a version serves that is built beside an older one. Default: [`Promotion::WhenCaughtUp`].
    #[must_use]
    pub fn promotion(mut self, promotion: Promotion) -> Self {
        self.model = self.model.promotion(promotion);
        self
    }

    /// How long the projection may take for one batch, from 1 ms to a day. Default 60 s. When it is over the call is dropped, its
    /// transaction is rolled back, and it is a failure of the category [`Timeout`](FailureCategory::Timeout).
    ///
    /// A single statement is ended by the server when it takes longer than [`StoreBuilder::server_limit`](crate::StoreBuilder::server_limit) and 3 s.
    #[must_use]
    pub fn batch_timeout(mut self, timeout: Duration) -> Self {
        self.batch_timeout = timeout.clamp(Duration::from_millis(1), TIME_MAX);
        self
    }

    pub(super) fn model(&self) -> &ModelOptions {
        &self.model
    }

    pub(super) fn time_of_a_batch(&self) -> Duration {
        self.batch_timeout
    }
}

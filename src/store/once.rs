//! Appends that are made once, however often they are asked for.

use futures::executor::block_on;

use crate::error::AppendError;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::log::once::AppendedOnce;
use crate::log::request::{Condition, ExpectedContext};
use crate::store::Store;

impl Store {
    /// [`append`](Store::append)s events under an idempotency key, which makes a retry safe: a second call with the key appends nothing,
    /// and returns what the first one came to.
    ///
    /// For callers who do not know whether an append got through: the process died before the answer, the storage reported a failure
    /// with the outcome unknown, or a message was delivered twice. The key says what is to be done once, such as the id of a request
    /// or of a message. It is stored in the transaction that appends the events, and looked up there, so that of calls that race,
    /// also in several processes, one appends. An append that failed has not used its key.
    ///
    /// **The same events.** A key belongs to what was appended with it. Other events are refused with [`AppendError::KeyReused`], which
    /// names the key and where its events are: they were given somebody else's key, or are decided anew at every retry. Compared is
    /// what the events say as they are given: their order, types, schema versions, tags as a set, payloads and metadata. White space and
    /// the order of members in JSON do not count, times neither.
    ///
    /// **How long.** A key is remembered as long as its events are in the log. [`prune`](Store::prune) removes both, and a retry after
    /// that is a new append: prune nothing that is younger than the last retry may come. A key costs its text twice and 40 bytes in the
    /// file.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{AppendError, NewEvent, Store};
    ///
    /// # let store = Store::in_memory()?;
    /// let paid = |cents: u32| NewEvent::new("order-paid", cents).tag("order:7");
    /// let first = store.append_once("payment:81", [paid(1250)]).await?;
    /// assert!(!first.is_repetition);
    /// // The answer was lost, so the client asks again.
    /// let again = store.append_once("payment:81", [paid(1250)]).await?;
    /// assert_eq!(again.appended, first.appended);
    /// assert!(again.is_repetition);
    /// assert_eq!(store.head(), 1);
    /// let other = store.append_once("payment:81", [paid(99)]).await;
    /// assert!(matches!(other, Err(AppendError::KeyReused { .. })));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`AppendError::InvalidKey`] when the key is empty, has a control character, or is longer than
    /// [255 bytes](crate::Limits::key_bytes_max); [`AppendError::KeyReused`] as above. Otherwise as [`append`](Store::append).
    ///
    /// # Cancel safety
    /// As [`append`](Store::append). When the future was dropped, ask again with the same key.
    pub async fn append_once(
        &self,
        key: impl AsRef<str>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<AppendedOnce, AppendError> {
        self.log().append_once(key.as_ref(), events, None).await
    }

    /// [`append_if`](Store::append_if) under an idempotency key, as [`append_once`](Store::append_once).
    ///
    /// A retry of an append that got through is a repetition, even though its own events have moved the context: the key is looked at
    /// before the condition is. A conflict uses no key: look and decide again, and append with the same key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{EventQuery, NewEvent, Store};
    /// # let store = Store::in_memory()?;
    /// let account = EventQuery::tags(["account:3"]);
    /// let context = store.query(&account).await?;
    /// let withdrawn = || [NewEvent::new("withdrawn", 20).tag("account:3")];
    /// let first = store.append_once_if("transfer:5", withdrawn(), &account, context.context_version).await?;
    /// let again = store.append_once_if("transfer:5", withdrawn(), &account, context.context_version).await?;
    /// assert_eq!(again.appended, first.appended);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when the context moved and the key was not used before. Otherwise as
    /// [`append_once`](Store::append_once).
    ///
    /// # Cancel safety
    /// As [`append_once`](Store::append_once).
    pub async fn append_once_if(
        &self,
        key: impl AsRef<str>,
        events: impl IntoIterator<Item = NewEvent>,
        query: &EventQuery,
        expected: impl Into<ExpectedContext>,
    ) -> Result<AppendedOnce, AppendError> {
        let condition = Condition {
            query: query.clone(),
            expected: expected.into(),
        };
        self.log()
            .append_once(key.as_ref(), events, Some(condition))
            .await
    }

    /// [`append_once`](Store::append_once) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`append_once`](Store::append_once).
    pub fn append_once_blocking(
        &self,
        key: impl AsRef<str>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<AppendedOnce, AppendError> {
        block_on(self.append_once(key, events))
    }

    /// [`append_once_if`](Store::append_once_if) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`append_once_if`](Store::append_once_if).
    pub fn append_once_if_blocking(
        &self,
        key: impl AsRef<str>,
        events: impl IntoIterator<Item = NewEvent>,
        query: &EventQuery,
        expected: impl Into<ExpectedContext>,
    ) -> Result<AppendedOnce, AppendError> {
        block_on(self.append_once_if(key, events, query, expected))
    }
}

//! Streams that answer events with events.

use crate::error::StreamError;
use crate::event::query::EventQuery;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::options::DurableStream;
use crate::stream::react::reactor::Reactor;

impl Store {
    /// Calls the reactor with what the query selects, as [`stream_to_durable`](Store::stream_to_durable) does, and appends what it
    /// answers: process managers, policies, sagas.
    ///
    /// **Exactly once.** The new events and the move of the cursor over what they answer are one transaction, and an owner that
    /// lost the name can make neither. So after a crash each batch has its reaction in the log once: one that was committed is not
    /// asked for again, one that was not is. The next batch waits for that commit; appends of others do not. A reaction of
    /// [nothing](crate::Reaction::nothing) moves the cursor as that of any durable stream, so a crash may call the handler again for it.
    ///
    /// **Conditions.** When the [condition](crate::Reaction::only_if) of a reaction does not hold, the handler is called again with the same
    /// batch. That counts as an attempt, with the pauses and limits of [`Reactor::retry`], and has the category
    /// [`Conflict`](crate::FailureCategory::Conflict).
    ///
    /// **Failures.** An event that no append would take is a failure of the handler, of the category
    /// [`Error`](crate::FailureCategory::Error). What comes after the retries the [failure policy](DurableStream::on_failure) says. An error that
    /// names an event with [`HandlerError::at`](crate::HandlerError::at) is one of the whole batch, because it has no reaction for the
    /// events before that one. A [dead letter](Store::dead_letters) that is retried is removed in the transaction that appends its reaction.
    ///
    /// **Chains.** Metadata say [what caused an event](crate::Reaction), and how long the chain is: [`Reactor::depth_max`] ends those
    /// that would go on for ever. [`settled`](Store::settled) waits for a chain to its end.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{DurableStream, EventBatch, EventQuery, NewEvent, Reaction, Reactor, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let placed = EventQuery::types(["order-placed"]);
    /// let ask = Reactor::new(|batch: EventBatch| async move {
    ///     Ok::<_, std::io::Error>(batch.iter().fold(Reaction::nothing(), |reaction, order| {
    ///         let order_tags: Vec<&str> = order.tags().collect();
    ///         reaction.caused_by(order.sequence(), NewEvent::new("payment-asked", 1250).tags(order_tags))
    ///     }))
    /// });
    /// let payments = store.react(&DurableStream::new("payments"), &placed, ask).await?;
    ///
    /// store.append([NewEvent::new("order-placed", 1250).tag("order:7")]).await?;
    /// store.settled().await?;
    /// let asked = store.query(&EventQuery::types(["payment-asked"])).await?;
    /// let metadata = asked.events[0].metadata().expect("a reaction says what caused it");
    /// assert_eq!(metadata.caused_by(), Some(1));
    /// assert_eq!(metadata.reaction_depth(), 1);
    /// # drop(payments);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`stream_to_durable`](Store::stream_to_durable). A stream with [`partition_by`](DurableStream::partition_by) is refused:
    /// its cursor lags behind the keys that are ahead, so it could not say which of them were answered.
    ///
    /// # Cancel safety
    /// As [`stream_to_durable`](Store::stream_to_durable).
    pub async fn react(
        &self,
        durable: &DurableStream,
        query: &EventQuery,
        reactor: Reactor,
    ) -> Result<EventStream, StreamError> {
        durable.check_for_reactor()?;
        let log = self.log();
        let handler = reactor.into_handler(log.limits.clone(), log.evolution.clone());
        self.stream_to_durable(durable, query, handler).await
    }
}

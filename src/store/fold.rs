//! A read model without a table: the events of a query folded into one value, when it is asked for.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use thiserror::Error;

use crate::error::ReadError;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::Extent;
use crate::log::page::{Page, Range};
use crate::store::{QUERY_BOUNDS, Store};

/// What [`fold`](Store::fold) made of the events that a query selects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Folded<S> {
    /// What was made of them.
    pub state: S,
    /// How many events went into it.
    pub events: u64,
    /// The sequence of the newest of them; 0 when there was none. This is what [`append_if`](Store::append_if) compares.
    pub context_version: u64,
    /// The last committed sequence when the fold began: nothing up to it was overlooked.
    pub head: u64,
    /// Everything up to this sequence was pruned before, and is not in the state; 0: nothing.
    pub pruned_through: u64,
}

/// A [`try_fold`](Store::try_fold) failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum FoldError<E: Error + 'static> {
    /// The events could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The closure refused an event.
    #[error("event {sequence} could not be folded: {source}")]
    Refused {
        /// The event.
        sequence: u64,
        /// What the closure says.
        source: E,
    },
}

impl Store {
    /// Folds the events that the query selects into one value, in the order of the log, up to the head as it is now.
    ///
    /// What decides of its own history reads it this way: fold, decide, and append under the condition that nothing came in
    /// between. Events are read page by page, so that the memory it takes does not grow with the log. Nothing is stored.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{EventQuery, NewEvent, Store};
    /// # let store = Store::in_memory()?;
    /// # store.append([NewEvent::new("deposited", 50).tag("account:3")]).await?;
    /// let account = EventQuery::tags(["account:3"]);
    /// let folded = store
    ///     .fold(&account, 0, |balance, event| {
    ///         let amount = event.payload().decode::<i64>().unwrap_or(0);
    ///         match event.event_type() {
    ///             "deposited" => balance + amount,
    ///             _ => balance - amount,
    ///         }
    ///     })
    ///     .await?;
    /// if folded.state >= 20 {
    ///     let withdrawn = NewEvent::new("withdrawn", 20).tag("account:3");
    ///     store.append_if([withdrawn], &account, folded.context_version).await?;
    /// }
    /// # assert_eq!(store.head(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store is closed, the storage fails, or the query selects an
    /// [undecodable event](crate::StoreBuilder::upcast). [`ReadError::Pruned`] when a prune overtook the fold: what it removed
    /// is in the state in part, so fold again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the state is dropped with it.
    pub async fn fold<S>(
        &self,
        query: &EventQuery,
        state: S,
        mut fold: impl FnMut(S, &EventRecord) -> S,
    ) -> Result<Folded<S>, ReadError> {
        let infallible = move |state, event: &EventRecord| Ok::<_, Infallible>(fold(state, event));
        self.try_fold(query, state, infallible).await.map_err(only_read)
    }

    /// As [`fold`](Store::fold), with a closure that may refuse an event; the first one that it refuses ends the fold.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{DecodeError, EventQuery, NewEvent, Store};
    /// # let store = Store::in_memory()?;
    /// # store.append([NewEvent::new("deposited", 50)]).await?;
    /// let deposits = EventQuery::types(["deposited"]);
    /// let folded = store
    ///     .try_fold(&deposits, 0, |sum, event| {
    ///         Ok::<_, DecodeError>(sum + event.payload().decode::<u64>()?)
    ///     })
    ///     .await?;
    /// assert_eq!((folded.state, folded.events), (50, 1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`fold`](Store::fold), and [`FoldError::Refused`] with what the closure says.
    ///
    /// # Cancel safety
    /// As [`fold`](Store::fold).
    pub async fn try_fold<S, E: Error + 'static>(
        &self,
        query: &EventQuery,
        state: S,
        mut fold: impl FnMut(S, &EventRecord) -> Result<S, E>,
    ) -> Result<Folded<S>, FoldError<E>> {
        self.check_open()?;
        let log = self.log();
        let query = Arc::new(query.clone());
        let (extent, mut page) = log.first_page(&query, QUERY_BOUNDS).await?;
        let mut folding = Folding::new(extent, state);
        loop {
            folding = folding.take(page, &mut fold)?;
            match folding.left() {
                None => return Ok(folding.folded),
                Some(range) => page = log.page(&query, range, QUERY_BOUNDS).await,
            }
        }
    }

    /// [`fold`](Store::fold) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`fold`](Store::fold).
    pub fn fold_blocking<S>(
        &self,
        query: &EventQuery,
        state: S,
        mut fold: impl FnMut(S, &EventRecord) -> S,
    ) -> Result<Folded<S>, ReadError> {
        let infallible = move |state, event: &EventRecord| Ok::<_, Infallible>(fold(state, event));
        self.try_fold_blocking(query, state, infallible)
            .map_err(only_read)
    }

    /// [`try_fold`](Store::try_fold) for callers without a runtime. Blocks the thread; not for async code.
    ///
    /// # Errors
    /// As [`try_fold`](Store::try_fold).
    pub fn try_fold_blocking<S, E: Error + 'static>(
        &self,
        query: &EventQuery,
        state: S,
        mut fold: impl FnMut(S, &EventRecord) -> Result<S, E>,
    ) -> Result<Folded<S>, FoldError<E>> {
        self.check_open()?;
        let reader = &self.log().reader;
        let extent = reader.extent().map_err(ReadError::from)?;
        let mut folding = Folding::new(extent, state);
        while let Some(range) = folding.left() {
            folding = folding.take(reader.page(query, range, QUERY_BOUNDS), &mut fold)?;
        }
        Ok(folding.folded)
    }
}

fn only_read(error: FoldError<Infallible>) -> ReadError {
    match error {
        FoldError::Read(error) => error,
        FoldError::Refused { source, .. } => match source {},
    }
}

/// A fold in the making.
struct Folding<S> {
    folded: Folded<S>,
    through: u64,
}

impl<S> Folding<S> {
    fn new(Extent { pruned_through, head }: Extent, state: S) -> Self {
        Self {
            folded: Folded {
                state,
                events: 0,
                context_version: 0,
                head,
                pruned_through,
            },
            through: pruned_through,
        }
    }

    /// What is still to be read.
    fn left(&self) -> Option<Range> {
        (self.through < self.folded.head).then_some(Range {
            after: self.through,
            through: self.folded.head,
        })
    }

    /// Takes the next page. What went into the state cannot be taken out again, so a prune may come in between only before
    /// that.
    fn take<E: Error + 'static>(
        mut self,
        page: Result<Page, ReadError>,
        fold: &mut impl FnMut(S, &EventRecord) -> Result<S, E>,
    ) -> Result<Self, FoldError<E>> {
        let page = match page {
            Ok(page) => page,
            Err(ReadError::Pruned { pruned_through, .. }) if self.folded.events == 0 => {
                self.through = pruned_through;
                self.folded.pruned_through = pruned_through;
                return Ok(self);
            }
            Err(error) => return Err(error.into()),
        };
        self.through = page.through;
        let mut folded = self.folded;
        for batch in &page.batches {
            batch.decodable()?;
        }
        for event in page.batches.iter().flat_map(|batch| &batch.events) {
            let sequence = event.sequence();
            folded.state =
                fold(folded.state, event).map_err(|source| FoldError::Refused { sequence, source })?;
            folded.events += 1;
            folded.context_version = sequence;
        }
        self.folded = folded;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned<T>() -> Result<T, ReadError> {
        Err(ReadError::Pruned {
            after: 0,
            pruned_through: 4,
        })
    }

    #[test]
    fn a_prune_is_passed_before_the_first_event_and_refuses_what_was_folded() {
        let extent = Extent {
            pruned_through: 0,
            head: 9,
        };
        let mut fold = |sum: u64, event: &EventRecord| Ok::<_, Infallible>(sum + event.sequence());
        let folding = Folding::new(extent, 0).take(pruned(), &mut fold).unwrap();
        assert_eq!((folding.folded.pruned_through, folding.through), (4, 4));
        let mut folding = Folding::new(extent, 0);
        folding.folded.events = 1;
        let refused = folding.take(pruned(), &mut fold).err();
        assert!(matches!(refused, Some(FoldError::Read(ReadError::Pruned { .. }))));
    }
}

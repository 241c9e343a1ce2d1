//! The same feed, pulled by the user instead of pushed to a handler.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;

use crate::error::ReadError;
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::Extent;
use crate::log::page::Range;
use crate::stream::feed::{Feed, Found, Selected, Source};

/// A `Stream` of the batches that a query selects: what [`read`](crate::Store::read) and [`follow`](crate::Store::follow)
/// give.
///
/// It reads nothing before it is polled, and never more than a few pages ahead: who pulls slowly costs no memory. After an
/// error it ends.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use millstream::{EventQuery, NewEvent, Store};
/// use futures::TryStreamExt;
///
/// # let store = Store::in_memory()?;
/// # store.append([NewEvent::new("greeted", "hello")]).await?;
/// let mut reader = store.read(&EventQuery::types(["greeted"])).after(0);
/// while let Some(batch) = reader.try_next().await? {
///     for event in &batch {
///         println!("{} {}", event.sequence(), event.payload().as_str());
///     }
/// }
/// # Ok(()) }
/// ```
#[must_use = "a reader does nothing before it is polled"]
pub struct EventReader {
    /// Where the reader was told to start.
    starts_after: Option<u64>,
    /// Where it was told to end, if that comes before the end of its kind.
    ends_with: Option<u64>,
    position: u64,
    ready: VecDeque<EventBatch>,
    end: End,
    step: Step,
}

/// Where a reader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At the head, as it is when the reader is polled first.
    AtHead,
    /// Not before the store is closed.
    Never,
}

type Taken = (Pull, Result<Option<Selected>, ReadError>);

enum Step {
    Idle(Begin),
    Working(BoxFuture<'static, Taken>),
    Ended,
}

/// What a reader needs to begin, or to go on.
enum Begin {
    New(Arc<Source>, Arc<EventQuery>),
    Begun(Pull),
}

/// A feed with its bounds.
struct Pull {
    source: Arc<Source>,
    feed: Feed,
    through: Option<u64>,
    /// No batch that begins after this is wanted.
    ends_with: Option<u64>,
    /// Nothing was given out yet, and where to start was not said: whatever is left will do.
    takes_what_is_left: bool,
    /// The head when it began.
    history_through: u64,
}

impl EventReader {
    pub(crate) fn new(source: Arc<Source>, query: EventQuery, end: End) -> Self {
        Self {
            starts_after: None,
            ends_with: None,
            position: 0,
            ready: VecDeque::new(),
            end,
            step: Step::Idle(Begin::New(source, Arc::new(query))),
        }
    }

    /// Starts strictly after this sequence. Without it the reader starts with the first event, or with the first that
    /// pruning left. To be said before the first poll.
    ///
    /// When events after the sequence were pruned, the reader yields [`ReadError::Pruned`] and ends. So it does when a prune
    /// overtakes it: it holds up none.
    pub fn after(mut self, sequence: u64) -> Self {
        self.starts_after = Some(sequence);
        self.position = sequence;
        self
    }

    /// Ends with the batch of this sequence, however far the log goes on. No batch is cut: this one is yielded with all its
    /// selected events. A [`follow`](crate::Store::follow) that is given an end waits for it. To be said before the first poll.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{EventBatch, EventQuery, NewEvent, Store};
    /// use futures::TryStreamExt;
    ///
    /// # let store = Store::in_memory()?;
    /// store.append((1..=5).map(|number| NewEvent::new("counted", number))).await?;
    /// store.append([NewEvent::new("counted", 6)]).await?;
    /// let batches: Vec<EventBatch> = store.read(&EventQuery::all()).through(3).try_collect().await?;
    /// assert_eq!(batches.len(), 1);
    /// assert_eq!(batches[0].last_sequence(), 5);
    /// # Ok(()) }
    /// ```
    pub fn through(mut self, sequence: u64) -> Self {
        self.ends_with = Some(sequence);
        self
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.source.feed_ends();
    }
}

impl Pull {
    /// The next page with anything in it; nothing at the end.
    async fn next(mut self, mut after: u64) -> Taken {
        loop {
            let mut page = match self.page(after).await {
                Ok(Some(page)) => page,
                Err(ReadError::Pruned { pruned_through, .. }) if self.takes_what_is_left => {
                    after = pruned_through;
                    continue;
                }
                end => return (self, end),
            };
            page.batches
                .retain(|batch| self.ends_with.is_none_or(|end| batch.first_sequence() <= end));
            if let Err(error) = Self::refuse_undecodable(&mut page) {
                return (self, Err(error));
            }
            if !page.batches.is_empty() {
                self.takes_what_is_left = false;
                return (self, Ok(Some(page)));
            }
            after = page.through;
        }
    }

    /// Ends the page before the first batch of which an event cannot be decoded, and refuses one that begins with that.
    fn refuse_undecodable(page: &mut Selected) -> Result<(), ReadError> {
        let fault = |batch: &EventBatch| batch.fault().cloned();
        let found = (0..)
            .zip(&page.batches)
            .find_map(|(index, batch)| Some((index, fault(batch)?)));
        match found {
            None => Ok(()),
            Some((0, fault)) => Err(ReadError::Undecodable(fault)),
            Some((index, _)) => {
                page.batches.truncate(index);
                page.through = page.batches.back().map_or(0, EventBatch::committed_through);
                Ok(())
            }
        }
    }

    /// The next page, whatever is in it.
    async fn page(&mut self, after: u64) -> Result<Option<Selected>, ReadError> {
        if let Some(through) = self.through {
            if self.source.log.is_closed() {
                return Err(ReadError::Closed);
            }
            if after >= through {
                return Ok(None);
            }
            return self.feed.read(Range { after, through }).await.map(Some);
        }
        if self.ends_with.is_some_and(|end| after >= end) {
            return Ok(None);
        }
        let found = std::future::poll_fn(|context| match self.feed.look(after, Some(context.waker())) {
            Found::Nothing { .. } => Poll::Pending,
            found => Poll::Ready(found),
        });
        match found.await {
            Found::Page(page) => Ok(Some(page)),
            Found::Behind { after, head } => {
                let range = Range { after, through: head };
                self.feed.read(range).await.map(Some)
            }
            Found::Closed | Found::Nothing { .. } => Ok(None),
        }
    }
}

async fn begin(
    source: Arc<Source>,
    query: Arc<EventQuery>,
    starts_after: Option<u64>,
    end: End,
    ends_with: Option<u64>,
) -> Taken {
    let extent = match end {
        // It ends at once, and nothing has to be opened again for that.
        End::Never if source.log.is_closed() => Ok(Extent::default()),
        End::AtHead | End::Never => source.log.extent().await,
    };
    let extent = extent.and_then(|extent| match starts_after {
        Some(after) if after < extent.pruned_through => Err(ReadError::Pruned {
            after,
            pruned_through: extent.pruned_through,
        }),
        _ => Ok(extent),
    });
    let left = extent.as_ref().map_or(0, |extent| extent.pruned_through);
    let after = starts_after.unwrap_or(left);
    let feed = Feed::new(Arc::clone(&source), query, after);
    source.feed_begins();
    let mut pull = Pull {
        source,
        feed,
        through: None,
        ends_with,
        takes_what_is_left: starts_after.is_none(),
        history_through: extent.as_ref().map_or(0, |extent| extent.head),
    };
    let head = match extent {
        Ok(extent) => extent.head,
        Err(error) => return (pull, Err(error)),
    };
    if end == End::AtHead {
        pull.through = match ends_with {
            // A page of the log would be cut here.
            Some(sequence) if sequence < head => match pull.source.log.batch_end(sequence).await {
                Ok(end) => Some(end),
                Err(error) => return (pull, Err(error)),
            },
            _ => Some(head),
        };
    }
    pull.next(after).await
}

impl Stream for EventReader {
    type Item = Result<EventBatch, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            let mut work = match std::mem::replace(&mut self.step, Step::Ended) {
                Step::Ended => return Poll::Ready(None),
                Step::Working(work) => work,
                Step::Idle(Begin::Begun(pull)) => Box::pin(pull.next(self.position)),
                Step::Idle(Begin::New(source, query)) => {
                    let (starts_after, ends_with) = (self.starts_after, self.ends_with);
                    Box::pin(begin(source, query, starts_after, self.end, ends_with))
                }
            };
            let Poll::Ready((pull, taken)) = work.as_mut().poll(context) else {
                self.step = Step::Working(work);
                return Poll::Pending;
            };
            match taken {
                Ok(Some(page)) => {
                    self.position = page.through;
                    let history_through = pull.history_through;
                    let batches = page.batches.into_iter();
                    self.ready = batches
                        .map(|batch| batch.delivered_after(history_through))
                        .collect();
                    self.step = Step::Idle(Begin::Begun(pull));
                }
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl fmt::Debug for EventReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EventReader")
            .field("position", &self.position)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

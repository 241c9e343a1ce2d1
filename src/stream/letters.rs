//! Dead letters from outside: they are listed, shown, retried and discarded.
//!
//! A retry never touches the cursor. It calls the handler of the stream that runs here under the name, when the loop of that
//! stream does not (S2), and removes the letter only after the handler returned `Ok`. Of a key the first letter is retried first;
//! whether another one has queued up meanwhile is decided in the log, where queueing and removing come one after the other.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::error::{DeadLetterError, ReadError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::LogReader;
use crate::log::letter::{DeadLetter, DeadLetterState, FailedRetry, LetterChange, LetterDone, LetterRange};
use crate::log::page::{PageBounds, Range};
use crate::log::reaction::Settles;
use crate::stream::core::StreamCore;
use crate::stream::dispose::cut_cause;
use crate::stream::failure::Failure;
use crate::stream::feed::Source;
use crate::stream::inside;
use crate::stream::react::{self, Reply};
use crate::stream::registry::Registry;
use crate::stream::status::CallInHand;

/// The dead letters of one durable stream, whether it runs or not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use futures::TryStreamExt;
/// use millstream::{DurableStream, FailurePolicy, HandleStream, NewEvent, Retry, Store};
///
/// let store = Store::in_memory()?;
/// let is_mended = Arc::new(AtomicBool::new(false));
/// let mended = Arc::clone(&is_mended);
/// let handle = HandleStream::new(move |_| {
///     let works = mended.load(Ordering::SeqCst);
///     async move { if works { Ok(()) } else { Err("the bank does not answer") } }
/// });
/// let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
/// let stream = store.stream_all_durable(&ledger, handle.retry(Retry::never())).await?;
/// store.append([NewEvent::new("paid", 7)]).await?;
/// stream.caught_up().await?;
///
/// let letters: Vec<_> = store.dead_letters("ledger").list().try_collect().await?;
/// assert_eq!(letters[0].cause.as_deref(), Some("the bank does not answer"));
///
/// is_mended.store(true, Ordering::SeqCst);
/// let retried = store.dead_letters("ledger").retry_all().await?;
/// assert_eq!((retried.handled, retried.failed), (1, 0));
/// assert_eq!(stream.status().parked, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    source: Arc<Source>,
    registry: Arc<Registry>,
    name: Arc<str>,
    /// The request that letters are retried for.
    request: Option<u64>,
}

/// What retrying several letters came to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use = "it says what failed again"]
pub struct Retried {
    /// How many letters the handler took. They are gone.
    pub handled: u64,
    /// How many letters failed again. They stay.
    pub failed: u64,
    /// How many letters were not tried, because an earlier one of their key failed.
    pub waiting: u64,
    /// The first failure.
    pub first_failure: Option<DeadLetterError>,
}

/// How many letters are read at once.
const PAGE_LETTERS: usize = 128;
/// The events of one letter: those of one batch.
const LETTER_BOUNDS: PageBounds = PageBounds {
    batches_max: 1,
    bytes_max: usize::MAX,
};

impl DeadLetters {
    pub(crate) fn new(source: Arc<Source>, registry: Arc<Registry>, name: &str) -> Self {
        Self {
            source,
            registry,
            name: name.into(),
            request: None,
        }
    }

    /// The letters of a stream that runs here, to be retried because somebody asked for it.
    pub(crate) fn for_request(core: &StreamCore, name: &Arc<str>, number: u64) -> Self {
        Self {
            source: Arc::clone(&core.source),
            registry: Arc::clone(&core.registry),
            name: Arc::clone(name),
            request: Some(number),
        }
    }

    /// A `Stream` of all letters, in the order of the log, read page by page. What comes or goes meanwhile may be among them.
    pub fn list(&self) -> impl Stream<Item = Result<DeadLetter, ReadError>> + Send + Unpin + use<> {
        let letters = self.clone();
        let pages = stream::try_unfold(0, move |after| {
            let letters = letters.clone();
            async move {
                let page = letters.page(after).await?;
                let last = page.last().map(|letter| letter.first_sequence);
                Ok::<_, ReadError>(last.map(|last| (stream::iter(page).map(Ok), last)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// The letter that begins with this event, and the events that it stands for.
    ///
    /// # Errors
    /// There is no such letter; its events were pruned; the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn show(&self, first_sequence: u64) -> Result<(DeadLetter, EventBatch), DeadLetterError> {
        let letter = self.find(first_sequence).await?;
        let events = self.events(&letter).await?;
        Ok((letter, events.delivered_after(u64::MAX)))
    }

    /// Gives one letter to the handler again: a parked one, the first of its key; or a skipped one. It is gone when the handler
    /// returns `Ok`; otherwise it stays, with the new cause. When the handler says with [`HandlerError::at`](crate::HandlerError::at)
    /// which event failed, the letter begins with that event from then on. The cursor does not move.
    ///
    /// The handler is called once, when the stream's own calls under way are over, and none of them begins before it returns. Inside that handler it would wait for itself.
    ///
    /// # Errors
    /// The stream does not run in this store; there is no such letter; an earlier one of its key comes first; the handler failed
    /// again; the stream was taken over meanwhile; the storage fails.
    ///
    /// # Cancel safety
    /// A call that has begun goes on to its end, and its letter is removed if it succeeds; only the answer is lost.
    pub async fn retry(&self, first_sequence: u64) -> Result<(), DeadLetterError> {
        let core = self
            .registry
            .running(&self.name)
            .ok_or_else(|| self.not_running())?;
        let runtime = core.runtime.clone();
        let letters = self.clone();
        match runtime
            .spawn(async move { letters.retry_here(&core, first_sequence).await })
            .await
        {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(self.not_running()),
        }
    }

    /// Retries the letters of a key, one after the other in the order of the log, those that queue up meanwhile included, until
    /// there is none, and the key is free, or one fails.
    ///
    /// # Errors
    /// As [`retry`](Self::retry), but a letter that fails again is no error: [`Retried::first_failure`] says so.
    ///
    /// # Cancel safety
    /// As [`retry`](Self::retry); no further letter is begun.
    pub async fn retry_key(&self, key: &str) -> Result<Retried, DeadLetterError> {
        let mut retried = Retried::default();
        loop {
            let (name, asked) = (Arc::clone(&self.name), key.to_owned());
            let first = move |reader: &dyn LogReader| Ok(reader.first_of_key(&name, &asked)?);
            let Some(letter) = self.source.log.read(first).await? else {
                return Ok(retried);
            };
            if !retried.note(self.retry(letter.first_sequence).await)? {
                return Ok(retried);
            }
        }
    }

    /// Retries all letters that wait, in the order of the log. When one fails, the later ones of its key are left, and those of
    /// other keys go on. What was skipped is left alone.
    ///
    /// # Errors
    /// As [`retry_key`](Self::retry_key).
    ///
    /// # Cancel safety
    /// As [`retry_key`](Self::retry_key).
    pub async fn retry_all(&self) -> Result<Retried, DeadLetterError> {
        let mut retried = Retried::default();
        let mut failed_keys = HashSet::new();
        let mut letters = self.list();
        while let Some(letter) = letters.try_next().await? {
            if letter.state == DeadLetterState::Skipped {
                continue;
            }
            if letter.key.as_ref().is_some_and(|key| failed_keys.contains(key)) {
                retried.waiting += 1;
            } else if !retried.note(self.retry(letter.first_sequence).await)? {
                failed_keys.extend(letter.key);
            }
        }
        Ok(retried)
    }

    /// Removes a letter without handling it. The reason is logged with `tracing`, and kept nowhere else. With the last letter of
    /// a key the key is free.
    ///
    /// # Errors
    /// There is no such letter, or the storage fails.
    ///
    /// # Cancel safety
    /// The letter may be gone when the future is dropped.
    pub async fn discard(&self, first_sequence: u64, reason: &str) -> Result<(), DeadLetterError> {
        let change = LetterChange::Discard {
            name: Arc::clone(&self.name),
            first_sequence,
        };
        match self.source.log.change_letters(change).await? {
            LetterDone::Done(counts) => {
                tracing::warn!(
                    stream = &*self.name,
                    first_sequence,
                    reason,
                    "a dead letter was discarded"
                );
                if let Some(core) = self.registry.running(&self.name) {
                    core.note_letters(counts);
                }
                Ok(())
            }
            _ => Err(self.not_found(first_sequence)),
        }
    }

    async fn page(&self, after: u64) -> Result<Vec<DeadLetter>, ReadError> {
        let name = Arc::clone(&self.name);
        let page = move |reader: &dyn LogReader| {
            let range = LetterRange {
                name: &name,
                after,
                count_max: PAGE_LETTERS,
            };
            Ok(reader.letters(range)?)
        };
        self.source.log.read(page).await
    }

    async fn find(&self, first_sequence: u64) -> Result<DeadLetter, DeadLetterError> {
        let name = Arc::clone(&self.name);
        let one = move |reader: &dyn LogReader| {
            let range = LetterRange {
                name: &name,
                after: first_sequence.saturating_sub(1),
                count_max: 1,
            };
            Ok(reader.letters(range)?)
        };
        let found = self.source.log.read(one).await?.pop();
        found
            .filter(|letter| letter.first_sequence == first_sequence)
            .ok_or_else(|| self.not_found(first_sequence))
    }

    /// What a letter stands for, as the log has it.
    async fn events(&self, letter: &DeadLetter) -> Result<EventBatch, ReadError> {
        let (first, last) = (letter.first_sequence, letter.last_sequence);
        let range = Range {
            after: first.saturating_sub(1),
            through: last,
        };
        let everything = Arc::new(EventQuery::all());
        let page = self.source.log.page(&everything, range, LETTER_BOUNDS).await?;
        let batch = page.batches.into_iter().next().map(EventBatch::whole);
        let events = batch.and_then(|batch| batch.part_of(first, last, |sequence| letter.contains(sequence)));
        events.ok_or(ReadError::Damaged {
            sequence: first,
            problem: "a dead letter stands for it, and it is not there".to_owned(),
        })
    }

    /// Retries one letter on the runtime of its stream, when nobody else has the handler.
    async fn retry_here(&self, core: &StreamCore, first_sequence: u64) -> Result<(), DeadLetterError> {
        let turn = core.turn().ok_or_else(|| self.not_running())?;
        let _turn = turn.write().await;
        let (Some(handler), Some(cell), None) = (core.handler(), core.cursor(), core.gate.closed()) else {
            return Err(self.not_running());
        };
        let letter = self.find(first_sequence).await?;
        self.check_turn_of(&letter).await?;
        let events = self.events(&letter).await?;
        let shown = ShownCall::begin(core, events.recorded_timestamp());
        let outcome = tokio::select! {
            biased;
            outcome = inside::call_with_letter(core, (&events).into(), handler.call(core.in_this_run(events))) => outcome,
            () = core.abort.notified() => return Err(self.not_running()),
        };
        drop(shown);
        let (outcome, done) = self.settle(core, cell.epoch, first_sequence, outcome).await?;
        match done {
            LetterDone::Done(counts) => core.note_letters(counts),
            LetterDone::OwnershipLost => {
                return Err(DeadLetterError::OwnershipLost {
                    stream: self.name.to_string(),
                });
            }
            // Somebody discarded it meanwhile.
            _ => {}
        }
        let stream = &*self.name;
        match outcome {
            Ok(()) => {
                tracing::info!(stream, first_sequence, "a dead letter was handled");
                Ok(())
            }
            Err(failure) => {
                let (category, error) = (failure.category, failure.text.clone());
                tracing::warn!(stream, first_sequence, %category, %error, "a dead letter failed again");
                let taken = failure.at.filter(|at| letter.contains(*at));
                Err(DeadLetterError::HandlerFailed {
                    first_sequence: taken.unwrap_or(first_sequence),
                    category,
                    error,
                })
            }
        }
    }

    /// Has the log know what became of a letter that was retried. A reactor's answer is appended with that.
    async fn settle(
        &self,
        core: &StreamCore,
        epoch: u64,
        first_sequence: u64,
        outcome: Result<Reply, Failure>,
    ) -> Result<(Result<(), Failure>, LetterDone), DeadLetterError> {
        let (name, request) = (Arc::clone(&self.name), self.request);
        let outcome = match outcome {
            Ok(None) => Ok(()),
            Ok(Some(answer)) => {
                let settles = Settles::Letter {
                    name: Arc::clone(&name),
                    epoch,
                    first_sequence,
                    request,
                };
                match react::answer_letter(core, *answer, settles).await? {
                    // Its reaction is not in the log, so it was not handled.
                    Ok(LetterDone::NotFound) => return Err(self.not_found(first_sequence)),
                    Ok(done) => return Ok((Ok(()), done)),
                    Err(failure) => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        };
        let change = match &outcome {
            Ok(()) => LetterChange::Retried {
                name,
                epoch,
                first_sequence,
                request,
            },
            Err(failure) => LetterChange::FailedAgain {
                name,
                epoch,
                first_sequence,
                request,
                failure: FailedRetry {
                    named: failure.at,
                    category: failure.category,
                    cause: cut_cause(&failure.text).into(),
                    at: Timestamp::now().into(),
                },
            },
        };
        let done = self.source.log.change_letters(change).await?;
        Ok((outcome, done))
    }

    /// Refuses a letter before which another one of its key waits.
    async fn check_turn_of(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let Some(key) = letter.key.clone() else {
            return Ok(());
        };
        let (name, asked) = (Arc::clone(&self.name), key.clone());
        let first = move |reader: &dyn LogReader| Ok(reader.first_of_key(&name, &asked)?);
        match self.source.log.read(first).await? {
            Some(first) if first.first_sequence < letter.first_sequence => {
                Err(DeadLetterError::NotFirstOfKey {
                    first_sequence: letter.first_sequence,
                    first: first.first_sequence,
                    key,
                })
            }
            _ => Ok(()),
        }
    }

    fn not_running(&self) -> DeadLetterError {
        DeadLetterError::NotRunning {
            stream: self.name.to_string(),
        }
    }

    fn not_found(&self, first_sequence: u64) -> DeadLetterError {
        DeadLetterError::NotFound {
            stream: self.name.to_string(),
            first_sequence,
        }
    }
}

/// Lets the status show that the handler is at work on a letter, so that one which hangs is seen.
struct ShownCall<'a>(&'a StreamCore);

impl<'a> ShownCall<'a> {
    fn begin(core: &'a StreamCore, recorded_at: Timestamp) -> Self {
        let call = CallInHand {
            recorded_at,
            running_since: Some(Instant::now()),
        };
        core.board.note(|progress| progress.retry = Some(Box::new(call)));
        Self(core)
    }
}

impl Drop for ShownCall<'_> {
    fn drop(&mut self) {
        self.0.board.note(|progress| progress.retry = None);
    }
}

impl Retried {
    /// Notes what became of one letter. `false`: later ones of its key have to wait. What is no matter of the letter ends it all.
    pub(crate) fn note(&mut self, outcome: Result<(), DeadLetterError>) -> Result<bool, DeadLetterError> {
        match outcome {
            Ok(()) => self.handled += 1,
            // Somebody else was faster.
            Err(DeadLetterError::NotFound { .. }) => {}
            Err(DeadLetterError::NotFirstOfKey { .. }) => {
                self.waiting += 1;
                return Ok(false);
            }
            Err(error @ (DeadLetterError::HandlerFailed { .. } | DeadLetterError::Read(_))) => {
                self.failed += 1;
                self.first_failure.get_or_insert(error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DeadLetters")
            .field("stream", &self.name)
            .finish_non_exhaustive()
    }
}

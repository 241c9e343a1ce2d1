//! The loop's dealings with events that are set aside: it asks the pure parts what to do, and has it stored.
//!
//! What is stored moves the cursor in the same transaction. When it cannot be stored the position stays where it is, here and in
//! the log, and the stream ends loudly after a few tries (D2, D5).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::clock::Timestamp;
use crate::error::{FailureCategory, ReadError, StopCause, StorageError};
use crate::event::batch::EventBatch;
use crate::log::letter::{
    DeadLetter, DeadLetterState, LetterChange, LetterCounts, LetterDone, LetterLimits, SetAside,
};
use crate::stream::board::News;
use crate::stream::budget::{Budget, OUTCOMES};
use crate::stream::checkpoint::Checkpointer;
use crate::stream::core::StreamCore;
use crate::stream::dispose::{self, Attempts, Disposal, Part};
use crate::stream::failure::{Failure, FailurePolicies};
use crate::stream::handler::panic_text;
use crate::stream::machine::Input;
use crate::stream::patience::{pause, stored};
use crate::stream::policy::{Failures, Retry, Verdict};
use crate::stream::pump::Work;
use crate::stream::status::Phase;
use crate::stream::watch::{Before, Watch};

/// What a durable stream needs to set events aside.
pub(crate) struct Care {
    policies: FailurePolicies,
    /// The keys that are parked, and maybe some that are free again: the log says so when it matters.
    keys: HashSet<Box<str>>,
    budget: Budget,
    watch: Option<Watch>,
}

/// How often storing a letter is tried.
pub(crate) const LETTER_ATTEMPTS_MAX: u32 = 5;

/// What comes before a handler call.
pub(crate) enum Next {
    Call(EventBatch),
    /// There is no call: the machine goes on with this.
    Go(Input),
}

impl Care {
    pub(crate) fn new(policies: FailurePolicies, keys: HashSet<Box<str>>, watch: Option<Watch>) -> Self {
        Self {
            policies,
            keys,
            budget: Budget::default(),
            watch,
        }
    }

    /// Whether there is something to do before a call. Nothing in almost all streams at almost all times.
    pub(crate) fn is_due(&self) -> bool {
        self.watch.is_some() || !self.keys.is_empty()
    }

    /// The stream starts over at another position, where these keys are parked.
    pub(crate) fn start_over(&mut self, keys: HashSet<Box<str>>) {
        self.keys = keys;
        self.budget = Budget::default();
        self.watch = None;
    }

    pub(crate) fn handled(&mut self) {
        self.budget.handled();
    }

    /// The stream has reached the head: nobody was given more than it was. A position that a note rests on is to be stored.
    pub(crate) fn reached_head(&mut self, checkpointer: Option<&Checkpointer>, position: u64) {
        let watch = self.watch.take();
        if let Some(checkpointer) = checkpointer.filter(|_| watch.is_some_and(|watch| watch.has_noted())) {
            checkpointer.flush(position);
        }
    }

    /// The part of the batch in hand that comes next, and what limits the letters. `waits` says which keys are parked in
    /// letters that are not stored yet, if there are any.
    pub(crate) fn part(
        &self,
        batch: &EventBatch,
        waits: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Option<(Part, LetterLimits)>, StopCause> {
        let is_due = !self.keys.is_empty() || waits.is_some();
        let Some((key, limits)) = self.policies.key().filter(|_| is_due) else {
            return Ok(None);
        };
        let now = Timestamp::now().into();
        let is_parked = |key: &str| self.keys.contains(key) || waits.is_some_and(|waits| waits(key));
        let part = guarded(|| dispose::next_part(batch, |event| key(event), is_parked, now))
            .map_err(StopCause::KeyPanicked)?;
        Ok(Some((part, limits)))
    }

    pub(crate) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// What comes before a call that begins with this event, of a batch that ends there.
    pub(crate) fn watch_before(&mut self, first_sequence: u64, batch_through: u64) -> Option<Before> {
        let watch = self.watch.as_mut()?;
        Some(watch.before(first_sequence, batch_through))
    }

    pub(crate) fn leave_watch(&mut self) {
        self.watch = None;
    }

    /// Something was set aside.
    pub(crate) fn set_aside(&mut self) {
        self.budget.set_aside();
    }

    /// These keys are parked. Gives how many there are, with those that are free again and not known to be.
    pub(crate) fn park(&mut self, keys: Vec<Box<str>>) -> u64 {
        self.keys.extend(keys);
        self.keys.len() as u64
    }

    /// Nothing is parked under this key any more.
    pub(crate) fn free(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// The keys that are parked, as the log knows them.
    pub(crate) fn replace_keys(&mut self, keys: HashSet<Box<str>>) {
        self.keys = keys;
    }

    /// What becomes of a batch whose handling failed for good.
    pub(crate) fn dispose(
        &self,
        batch: &EventBatch,
        failure: &Failure,
        attempts: Attempts,
    ) -> Result<(Disposal, LetterLimits), StopCause> {
        let policy = self.policies.of(failure.category);
        let disposal = guarded(|| dispose::dispose(batch, &policy.action, failure, attempts))
            .map_err(StopCause::KeyPanicked)?;
        let Some(disposal) = disposal else {
            return Err(stop_cause(failure, batch.last_sequence(), attempts.count));
        };
        if let Some(set_aside) = self.budget.exceeded_by_one_more() {
            return Err(StopCause::MostFail {
                set_aside,
                of: OUTCOMES,
                error: failure.text.clone(),
            });
        }
        Ok((disposal, policy.limits))
    }
}

/// Calls a user's closure for keys, which may panic.
pub(crate) fn guarded<T>(ask: impl FnOnce() -> T) -> Result<T, Arc<str>> {
    catch_unwind(AssertUnwindSafe(ask)).map_err(|panic| panic_text(&*panic).into())
}

/// Why a stream stops that sets nothing aside.
pub(crate) fn stop_cause(failure: &Failure, last_sequence: u64, attempts: u32) -> StopCause {
    match failure.category {
        FailureCategory::Crash => StopCause::Crashed {
            last_sequence,
            starts: attempts,
        },
        category => StopCause::HandlerFailed {
            last_sequence,
            attempts,
            category,
            error: failure.text.clone(),
        },
    }
}

impl Work {
    /// What comes before the handler gets the batch in hand: events of parked keys queue, and a batch that is watched is noted.
    pub(crate) async fn prepare(
        &mut self,
        core: &StreamCore,
        mut batch: EventBatch,
    ) -> Result<Next, StopCause> {
        while let Some((part, limits)) = self.care().part(&batch, None)? {
            match part {
                Part::Whole => break,
                Part::Call(part) => {
                    batch = part;
                    break;
                }
                Part::Queue(disposal) => match self.set_aside(core, disposal, limits).await? {
                    Aside::Settled { through } => return Ok(Next::Go(Input::Settled { through })),
                    Aside::Interrupted => return Ok(Next::Go(Input::Woken)),
                    Aside::KeyIsFree => {}
                },
            }
        }
        let first_sequence = batch.iter().next().map_or(0, |event| event.sequence());
        let before = self.care().watch_before(first_sequence, batch.last_sequence());
        match before {
            None | Some(Before::Nothing) => {}
            Some(Before::Note(attempt)) => {
                let (cell, position) = (self.cell(), self.pump().position());
                let change = LetterChange::Begin {
                    cell,
                    position,
                    attempt,
                };
                match store(core, change).await {
                    Ok(LetterDone::OwnershipLost) => return Err(StopCause::OwnershipLost),
                    Ok(_) => {}
                    Err(Failed::Interrupted) => return Ok(Next::Go(Input::Woken)),
                    Err(Failed::Storage(error)) => return Err(ReadError::Storage(error).into()),
                }
            }
            Some(Before::Leave) => self.leave_watch().await?,
            Some(Before::SetAside { starts }) => {
                let text = format!("the process ended {starts} times while the handler had it");
                let failure = Failure::new(FailureCategory::Crash, text);
                let now = Timestamp::now().into();
                let input = self
                    .give_up(core, &batch, &failure, attempts_until(starts, now, now))
                    .await?;
                return Ok(Next::Go(input));
            }
        }
        // The stream may have been ended or told something meanwhile, and no call starts after that (S7).
        Ok(if core.gate.calls() {
            Next::Go(Input::Woken)
        } else {
            Next::Call(batch)
        })
    }

    /// The retries of a batch are used up: the policy disposes of it, or the stream stops.
    pub(crate) async fn give_up(
        &mut self,
        core: &StreamCore,
        batch: &EventBatch,
        failure: &Failure,
        attempts: Attempts,
    ) -> Result<Input, StopCause> {
        let (disposal, limits) = self.care().dispose(batch, failure, attempts)?;
        let (Some(first), through) = (disposal.letters.first(), disposal.through) else {
            unreachable!("a disposal has a letter");
        };
        tracing::warn!(
            stream = core.name.as_deref(),
            first_sequence = first.first_sequence,
            through,
            state = first.state.as_str(),
            category = failure.category.as_str(),
            attempts = attempts.count,
            error = %failure.text,
            "events are set aside"
        );
        let (first_sequence, keys) = (first.first_sequence, keys_of(&disposal.letters));
        let handled = batch.iter().take_while(|event| event.sequence() < first_sequence);
        let handled = handled.count() as u64;
        let input = match self.set_aside(core, disposal, limits).await? {
            Aside::Settled { through } => Input::Settled { through },
            Aside::Interrupted => return Ok(Input::Woken),
            Aside::KeyIsFree => unreachable!("only what queues needs a key that is parked"),
        };
        core.board.note(|progress| progress.handled_events += handled);
        let care = self.care();
        care.set_aside();
        if care.park(keys) > limits.keys_max {
            // Some of them are free again.
            let keys = read_keys(core).await?;
            self.care().replace_keys(keys);
        }
        Ok(input)
    }

    /// Stores letters and moves the position with them.
    async fn set_aside(
        &mut self,
        core: &StreamCore,
        disposal: Disposal,
        limits: LetterLimits,
    ) -> Result<Aside, StopCause> {
        let Disposal { letters, through } = disposal;
        let first_sequence = letters.first().map_or(0, |letter| letter.first_sequence);
        let count = letters.len();
        let change = LetterChange::SetAside(SetAside {
            cell: self.cell(),
            position: through,
            letters,
            limits,
        });
        match done(store(core, change).await, first_sequence, limits)? {
            Done::Stored(counts) => {
                core.meter.set_aside(count);
                self.moved(core, through, counts);
                Ok(Aside::Settled { through })
            }
            Done::KeyIsFree(key) => {
                self.care().free(&key);
                Ok(Aside::KeyIsFree)
            }
            Done::Interrupted => Ok(Aside::Interrupted),
        }
    }

    /// The position has moved with letters.
    fn moved(&mut self, core: &StreamCore, through: u64, counts: LetterCounts) {
        let pump = self.pump();
        pump.failures = None;
        pump.reported = pump.reported.max(through);
        let now = Instant::now();
        core.board.report(|progress| {
            progress.move_to(through, now);
            progress.note_letters(counts);
            progress.call = None;
            progress.phase = Phase::CatchingUp;
            News::Yes
        });
    }

    /// Behind the watched stretch nothing is noted any more. What was noted last goes before that.
    async fn leave_watch(&mut self) -> Result<(), StopCause> {
        self.care().leave_watch();
        let pump = self.pump();
        let position = pump.position();
        if let Some(checkpointer) = &pump.checkpointer {
            checkpointer.flush(position);
            stored(checkpointer, position).await?;
        }
        Ok(())
    }

    fn care(&mut self) -> &mut Care {
        self.pump().care.as_mut().expect("a durable stream takes care")
    }
}

pub(crate) fn attempts_until(count: u32, first_failed_at: SystemTime, now: SystemTime) -> Attempts {
    Attempts {
        count,
        first_failed_at,
        now,
    }
}

pub(crate) fn keys_of(letters: &[DeadLetter]) -> Vec<Box<str>> {
    let parked = letters
        .iter()
        .filter(|letter| letter.state == DeadLetterState::Parked);
    parked
        .filter_map(|letter| letter.key.as_deref().map(Box::from))
        .collect()
}

/// The keys that are parked, as the log knows them.
pub(crate) async fn read_keys(core: &StreamCore) -> Result<HashSet<Box<str>>, StopCause> {
    let Some(name) = core.name.clone() else {
        return Ok(HashSet::new());
    };
    let keys = core
        .source
        .log
        .read(move |reader| Ok(reader.keys(&name)?))
        .await?;
    Ok(keys.into_iter().collect())
}

/// What became of events that were to be set aside.
enum Aside {
    Settled {
        through: u64,
    },
    /// The key of one that was to queue is free again.
    KeyIsFree,
    /// The gate has something to say first; nothing was stored.
    Interrupted,
}

/// What became of letters that were to be stored.
pub(crate) enum Done {
    Stored(LetterCounts),
    /// Something was to queue behind this key, which is free again; nothing was stored.
    KeyIsFree(Box<str>),
    /// The gate has something to say first; nothing was stored.
    Interrupted,
}

/// What storing letters came to, of which the first begins there. What cannot be mended stops the stream.
pub(crate) fn done(
    stored: Result<LetterDone, Failed>,
    first_sequence: u64,
    limits: LetterLimits,
) -> Result<Done, StopCause> {
    let full = |what, found, max, option| StopCause::DeadLettersFull {
        what,
        found,
        max,
        option,
    };
    match stored {
        Ok(LetterDone::Done(counts)) => Ok(Done::Stored(counts)),
        Ok(LetterDone::KeyIsFree(key)) => Ok(Done::KeyIsFree(key)),
        Ok(LetterDone::OwnershipLost) => Err(StopCause::OwnershipLost),
        Ok(LetterDone::TooManyLetters(found)) => {
            Err(full("dead letters", found, limits.letters_max, "letters_max"))
        }
        Ok(LetterDone::TooManyKeys(found)) => Err(full("parked keys", found, limits.keys_max, "keys_max")),
        Ok(LetterDone::NotFound) => unreachable!("nothing was looked for"),
        Err(Failed::Interrupted) => Ok(Done::Interrupted),
        Err(Failed::Storage(source)) => Err(StopCause::DeadLetterNotStored {
            first_sequence,
            source,
        }),
    }
}

/// Why something was not stored.
pub(crate) enum Failed {
    /// The gate has something to say first.
    Interrupted,
    Storage(StorageError),
}

/// Has a change stored. One that fails is tried again a few times: a busy file passes.
pub(crate) async fn store(core: &StreamCore, change: LetterChange) -> Result<LetterDone, Failed> {
    let policy = Retry::default().attempts_max(LETTER_ATTEMPTS_MAX);
    let mut failures = Failures::new(policy, Instant::now());
    loop {
        let error = match core.source.log.change_letters(change.clone()).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Verdict::RetryAfter(delay) = failures.record(Instant::now()) else {
            return Err(Failed::Storage(error));
        };
        tracing::warn!(stream = core.name.as_deref(), %error, "a dead letter could not be stored, it is tried again");
        pause(core, delay).await;
        if core.gate.calls() {
            return Err(Failed::Interrupted);
        }
    }
}

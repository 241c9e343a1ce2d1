//! What a partitioned stream sets aside: decided when a call fails for good, stored when the position comes to it.
//!
//! Until then it is remembered in memory, behind a cursor that has not passed it: a crash before it is stored repeats the
//! delivery, and loses nothing (D2, D3).

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;

use crate::clock::Timestamp;
use crate::error::{FailureCategory, ReadError, StopCause};
use crate::event::batch::EventBatch;
use crate::log::letter::{LetterChange, LetterDone, SetAside};
use crate::stream::aside::{self, Failed, attempts_until, keys_of, read_keys};
use crate::stream::board::News;
use crate::stream::dispose::{Attempts, Part};
use crate::stream::failure::Failure;
use crate::stream::keyed::hand::Storable;
use crate::stream::keyed::partition::Lane;
use crate::stream::keyed::stint::Stint;
use crate::stream::status::Phase;
use crate::stream::watch::Before;

/// What was on its way into the log, or out of it.
pub(super) enum Stored {
    Letters(Storable, Result<LetterDone, Failed>),
    Note(Result<LetterDone, Failed>),
    Keys(Result<HashSet<Box<str>>, StopCause>),
}

impl Stint<'_> {
    /// The part of a lane's first events that the handler gets next. Nothing: they queue behind what is parked.
    pub(super) fn next_part(
        &mut self,
        lane: Lane,
        events: EventBatch,
    ) -> Result<Option<EventBatch>, StopCause> {
        let hand = self.keyed.lanes.hand();
        let first = events.iter().next().map_or(0, |event| event.sequence());
        let waits = |key: &str| hand.parks(key, first);
        let waits: Option<&dyn Fn(&str) -> bool> = match hand.has_letters() {
            true => Some(&waits),
            false => None,
        };
        match self.care.part(&events, waits)? {
            None | Some((Part::Whole, _)) => Ok(Some(events)),
            Some((Part::Call(part), _)) => Ok(Some(part)),
            Some((Part::Queue(disposal), limits)) => {
                self.keyed.lanes.set_aside(lane, disposal, limits);
                Ok(None)
            }
        }
    }

    /// Whether a call that is watched may begin. Otherwise something comes before it.
    pub(super) fn is_noted(&mut self, lane: Lane, events: &EventBatch) -> Result<bool, StopCause> {
        let first = events.iter().next().map_or(0, |event| event.sequence());
        let position = self.keyed.position();
        match self.care.watch_before(first, events.committed_through()) {
            None | Some(Before::Nothing) => return Ok(true),
            Some(Before::Note(attempt)) => {
                let change = LetterChange::Begin {
                    cell: Arc::clone(self.checkpointer.cell()),
                    position,
                    attempt,
                };
                let core = Arc::clone(self.core);
                let noting = async move { Stored::Note(aside::store(&core, change).await) };
                self.keyed.storing = Some(noting.boxed());
            }
            // Behind the watched stretch nothing is noted any more. What was noted last goes before that.
            Some(Before::Leave) => {
                self.care.leave_watch();
                self.checkpointer.flush(position);
                self.keyed.awaited = Some(position);
            }
            Some(Before::SetAside { starts }) => {
                let text = format!("the process ended {starts} times while the handler had it");
                let failure = Failure::new(FailureCategory::Crash, text);
                let now = Timestamp::now().into();
                self.give_up(lane, events, &failure, attempts_until(starts, now, now))?;
            }
        }
        Ok(false)
    }

    /// The retries of a call are used up: the policy disposes of what it was given, or the stream stops.
    pub(super) fn give_up(
        &mut self,
        lane: Lane,
        events: &EventBatch,
        failure: &Failure,
        attempts: Attempts,
    ) -> Result<(), StopCause> {
        let (disposal, limits) = self.care.dispose(events, failure, attempts)?;
        let first_sequence = disposal.letters.first().map_or(0, |letter| letter.first_sequence);
        tracing::warn!(
            stream = self.core.name.as_deref(),
            first_sequence,
            through = disposal.through,
            category = failure.category.as_str(),
            attempts = attempts.count,
            error = %failure.text,
            "events are set aside, as soon as what lies before them is settled"
        );
        let handled = events
            .iter()
            .take_while(|event| event.sequence() < first_sequence);
        let handled = handled.count() as u64;
        self.keyed.failing.remove(&lane);
        self.keyed.lanes.set_aside(lane, disposal, limits);
        self.care.set_aside();
        let is_well = self.keyed.failing.is_empty();
        self.core.board.report(|progress| {
            progress.handled_events += handled;
            if is_well {
                progress.phase = Phase::CatchingUp;
            }
            News::Yes
        });
        Ok(())
    }

    /// Has the letters stored that the position has come to, with the position behind them.
    pub(super) fn store_letters(&mut self) {
        let hand = self.keyed.lanes.hand();
        if !hand.has_letters() {
            return;
        }
        let Some(storable) = hand.storable() else { return };
        let change = LetterChange::SetAside(SetAside {
            cell: Arc::clone(self.checkpointer.cell()),
            position: storable.position,
            letters: storable.letters.clone(),
            limits: storable.limits,
        });
        let core = Arc::clone(self.core);
        let storing = async move {
            let done = aside::store(&core, change).await;
            Stored::Letters(storable, done)
        };
        self.keyed.storing = Some(storing.boxed());
    }

    /// Something is in the log, or could not be brought there.
    pub(super) fn stored(&mut self, stored: Stored) -> Result<(), StopCause> {
        match stored {
            Stored::Letters(storable, done) => self.letters_stored(storable, done),
            Stored::Note(done) => match done {
                Ok(LetterDone::OwnershipLost) => Err(StopCause::OwnershipLost),
                Ok(_) | Err(Failed::Interrupted) => Ok(()),
                Err(Failed::Storage(error)) => Err(ReadError::Storage(error).into()),
            },
            Stored::Keys(keys) => {
                self.care.replace_keys(keys?);
                Ok(())
            }
        }
    }

    fn letters_stored(
        &mut self,
        storable: Storable,
        done: Result<LetterDone, Failed>,
    ) -> Result<(), StopCause> {
        let Storable {
            letters,
            limits,
            position,
        } = storable;
        let first_sequence = letters.first().map_or(0, |letter| letter.first_sequence);
        match aside::done(done, first_sequence, limits)? {
            aside::Done::Stored(counts) => {
                self.core.meter.set_aside(letters.len());
                self.keyed.lanes.hand_mut().stored(position);
                self.core.note_letters(counts);
                if self.care.park(keys_of(&letters)) > limits.keys_max {
                    // Some of them are free again.
                    let core = Arc::clone(self.core);
                    let reading = async move { Stored::Keys(read_keys(&core).await) };
                    self.keyed.storing = Some(reading.boxed());
                }
            }
            aside::Done::KeyIsFree(key) => {
                self.care.free(&key);
                self.keyed.lanes.reopen(&key);
            }
            aside::Done::Interrupted => {}
        }
        Ok(())
    }
}

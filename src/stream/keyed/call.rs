//! How a call of a partitioned stream begins and ends.

use std::sync::Arc;
use std::time::Instant as Moment;

use tokio::sync::OwnedRwLockReadGuard;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::error::StopCause;
use crate::event::batch::EventBatch;
use crate::fault::FaultPoint;
use crate::meter::Outcome;
use crate::stream::aside::attempts_until;
use crate::stream::board::News;
use crate::stream::core::StreamCore;
use crate::stream::failure::Failure;
use crate::stream::handler::HandleStream;
use crate::stream::inside;
use crate::stream::keyed::partition::Lane;
use crate::stream::keyed::stint::Stint;
use crate::stream::policy::{Failures, Verdict};
use crate::stream::status::Phase;
use crate::stream::trace;

/// A call under way.
pub(super) struct Running {
    pub(super) since: Moment,
    events: EventBatch,
}

/// What a call came to.
pub(super) struct Ended {
    lane: Lane,
    outcome: Came,
}

enum Came {
    /// The gate had something to say when the call was about to begin, and it did not (S7).
    ToNothing,
    To(Result<(), Failure>),
}

impl Ended {
    /// A panic that is not the handler's is a fault of the loop.
    pub(super) fn of(joined: Result<Self, JoinError>) -> Result<Self, StopCause> {
        joined.map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => StopCause::RuntimeShutDown,
        })
    }
}

/// A call, as a task of its own: a handler that computes holds up no other key where the runtime has threads.
async fn call(
    core: Arc<StreamCore>,
    handler: HandleStream,
    lane: Lane,
    events: EventBatch,
    turn: OwnedRwLockReadGuard<()>,
) -> Ended {
    // The task may begin some time after it was made, and no call starts after the gate was closed (S7).
    if core.gate.calls() {
        return Ended {
            lane,
            outcome: Came::ToNothing,
        };
    }
    let began = Moment::now();
    let count = events.len() as u64;
    let events = core.in_this_run(events);
    core.meter.call_begins(&events, &core.source.log.clock);
    core.faults.hit(FaultPoint::BeforeHandler);
    let outcome = inside::call(&core, (&events).into(), handler.call(events)).await;
    drop(turn);
    core.faults.hit(FaultPoint::AfterHandler);
    let shown = outcome.as_ref().map_or(Outcome::Failed, |_| Outcome::Handled);
    core.meter.call_ends(began.elapsed(), count, shown);
    Ended {
        lane,
        // Only a reactor answers, and none handles several keys at once.
        outcome: Came::To(outcome.map(drop)),
    }
}

impl Stint<'_> {
    /// Begins as many calls as can begin.
    pub(super) fn start(&mut self) -> Result<(), StopCause> {
        while self.may_start() {
            let Some((lane, events)) = self.keyed.lanes.next() else {
                return Ok(());
            };
            let events = events.clone();
            let Some(events) = self.next_part(lane, events)? else {
                continue;
            };
            if self.care.is_watching() && !self.is_noted(lane, &events)? {
                continue;
            }
            let Some(Ok(turn)) = self.core.turn().map(|turn| Arc::clone(turn).try_read_owned()) else {
                self.keyed.waits_for_turn = true;
                return Ok(());
            };
            self.keyed.lanes.begin(lane);
            let (core, handler) = (Arc::clone(self.core), self.handler.clone());
            let task = call(core, handler, lane, events.clone(), turn);
            self.keyed.calls.spawn_on(task, &self.core.runtime);
            let since = Moment::now();
            self.keyed.running.insert(lane, Running { since, events });
        }
        Ok(())
    }

    fn may_start(&self) -> bool {
        let keyed = &*self.keyed;
        if keyed.awaited.is_some() || keyed.waits_for_turn || self.core.gate.calls() {
            return false;
        }
        if !self.care.is_watching() {
            return keyed.running.len() < keyed.partition.workers as usize;
        }
        // What the process may have died of is handled one by one, in the order of the log: what a call has is open.
        let next = keyed.lanes.next().and_then(|(_, events)| events.iter().next());
        let is_next = next.map(|event| event.sequence()) == keyed.lanes.hand().first_open();
        is_next && keyed.storing.is_none()
    }

    /// A call has ended, and the stream goes on.
    pub(super) fn ended(&mut self, ended: Result<Ended, StopCause>) -> Result<(), StopCause> {
        let Some((lane, events, failure)) = self.settled_unless_failed(ended?) else {
            return Ok(());
        };
        let now = Moment::now();
        let policy = self.handler.retry_policy();
        let failures = self.keyed.failing.entry(lane);
        let failures = failures.or_insert_with(|| Failures::new(policy, now));
        let verdict = failures.record_failure(&failure, now);
        let (attempts, first_failed_at) = (failures.attempts(), failures.first_failed_at());
        self.core
            .report_failure(&failure, events.last_sequence(), attempts, verdict);
        match verdict {
            Verdict::RetryAfter(delay) => self.keyed.lanes.wait(lane, Instant::now() + delay),
            // Who was told to skip the batch, or to rest, does not give up before.
            Verdict::GiveUp if self.core.gate.calls() => self.keyed.lanes.put_back(lane),
            Verdict::GiveUp => {
                let attempts = attempts_until(attempts, first_failed_at, Timestamp::now().into());
                self.give_up(lane, &events, &failure, attempts)?;
            }
        }
        Ok(())
    }

    /// A call has ended, and the stream pauses or stops: what failed stays where it was.
    pub(super) fn ended_late(&mut self, ended: Result<Ended, StopCause>) -> Result<(), StopCause> {
        if let Some((lane, events, failure)) = self.settled_unless_failed(ended?) {
            let attempts = self.keyed.failing.get(&lane).map_or(0, Failures::attempts) + 1;
            self.core
                .report_failure(&failure, events.last_sequence(), attempts, Verdict::GiveUp);
            self.keyed.lanes.put_back(lane);
        }
        Ok(())
    }

    /// Settles what was handled. Gives what failed.
    fn settled_unless_failed(&mut self, ended: Ended) -> Option<(Lane, EventBatch, Failure)> {
        let Ended { lane, outcome } = ended;
        let running = self.keyed.running.remove(&lane);
        let events = running.expect("a call that ended was under way").events;
        match outcome {
            Came::ToNothing => {
                self.keyed.lanes.put_back(lane);
                None
            }
            Came::To(Ok(())) => {
                self.handled(lane, &events);
                None
            }
            Came::To(Err(failure)) => Some((lane, events, failure)),
        }
    }

    fn handled(&mut self, lane: Lane, events: &EventBatch) {
        let failures = self
            .keyed
            .failing
            .remove(&lane)
            .map(|failures| failures.attempts());
        let is_well = failures.is_some() && self.keyed.failing.is_empty();
        self.keyed.lanes.settle(lane, events.last_sequence());
        self.care.handled();
        let now = Moment::now();
        let count = events.len() as u64;
        self.core.board.report(|progress| {
            progress.beat_at = now;
            progress.rate.count(count, now);
            progress.handled_batches += 1;
            progress.handled_events += count;
            if is_well {
                progress.phase = Phase::CatchingUp;
            }
            News::Yes
        });
        if let Some(failures) = failures {
            trace::recovered(self.core, events.last_sequence(), failures);
        }
    }
}

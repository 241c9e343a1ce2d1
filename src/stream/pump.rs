//! The loop of a stream: does what the machine says. The only place of the stream layer that waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use tokio::sync::RwLockReadGuard;

use crate::clock::Timestamp;
use crate::error::{Instance, StopCause};
use crate::event::batch::EventBatch;
use crate::fault::FaultPoint;
use crate::log::cursor::CursorCell;
use crate::log::letter::LetterCounts;
use crate::log::page::Range;
use crate::meter::Outcome;
use crate::stream::aside::{Care, Next, attempts_until, stop_cause};
use crate::stream::board::News;
use crate::stream::checkpoint::Checkpointer;
use crate::stream::core::{StreamCore, Turn};
use crate::stream::failure::Failure;
use crate::stream::feed::{Feed, Found, Selected};
use crate::stream::gate::{Parked, Passage};
use crate::stream::group::Group;
use crate::stream::handler::HandleStream;
use crate::stream::heed;
use crate::stream::inside;
use crate::stream::keyed::Keyed;
use crate::stream::keyed::partition::Partition;
use crate::stream::machine::{Command, Input, Machine};
use crate::stream::patience::{self, interrupted, pause, stored};
use crate::stream::policy::{Failures, Verdict};
use crate::stream::registry::NameClaim;
use crate::stream::standby::{self, Candidacy, Rest};
use crate::stream::status::{CallInHand, Phase};
use crate::stream::steering::Hearing;
use crate::stream::trace;
use crate::sync::let_others;

/// The state of a loop. It is owned by the task at work, or by the gate while the stream rests.
pub(crate) struct Pump {
    pub(crate) machine: Machine,
    pub(crate) feed: Feed,
    pub(crate) handler: HandleStream,
    pub(crate) checkpointer: Option<Checkpointer>,
    /// The name is free again when the loop has ended.
    _claim: Option<NameClaim>,
    pub(crate) failures: Option<Box<Failures>>,
    /// What a durable stream needs to set events aside.
    pub(crate) care: Option<Box<Care>>,
    /// Why the loop rests until it is told otherwise, if it does.
    pub(crate) rests: Option<Rest>,
    /// What a partitioned stream has in place of the machine.
    pub(crate) keyed: Option<Box<Keyed>>,
    /// What is to be remembered of groups, once the handler got one.
    pub(crate) group: Option<Box<Group>>,
    /// Wakes this stream; left on the bus when there is nothing to see.
    pub(crate) waker: Waker,
    /// The position that the board shows.
    pub(crate) reported: u64,
}

/// What a durable stream has beyond others.
pub(crate) struct Durable {
    pub(crate) checkpointer: Checkpointer,
    pub(crate) claim: NameClaim,
    pub(crate) care: Box<Care>,
    pub(crate) partition: Option<Partition>,
    /// The dead letters that it has when it begins.
    pub(crate) letters: LetterCounts,
    /// What was said to it from outside before.
    pub(crate) hearing: Hearing,
    /// What it takes over with, if it may stand by.
    pub(crate) candidacy: Option<Box<Candidacy>>,
    /// Who runs it, when that is somebody else.
    pub(crate) owner: Option<Instance>,
    /// The head when it was registered.
    pub(crate) head: u64,
}

impl Pump {
    pub(crate) fn new(
        position: u64,
        feed: Feed,
        handler: HandleStream,
        durable: Option<Durable>,
        waker: Waker,
    ) -> Self {
        let stands_by = durable.as_ref().is_some_and(|durable| durable.owner.is_some());
        let (checkpointer, claim, care, partition) = match durable {
            Some(durable) => (
                Some(durable.checkpointer),
                Some(durable.claim),
                Some(durable.care),
                durable.partition,
            ),
            None => (None, None, None, None),
        };
        Self {
            machine: Machine::new(position),
            feed,
            handler,
            checkpointer,
            _claim: claim,
            failures: None,
            care,
            rests: stands_by.then_some(Rest::StandsBy),
            group: None,
            keyed: partition.map(|partition| Box::new(Keyed::new(position, partition))),
            waker,
            reported: position,
        }
    }

    /// The last sequence that is settled.
    pub(crate) fn position(&self) -> u64 {
        match &self.keyed {
            Some(keyed) => keyed.position(),
            None => self.machine.position(),
        }
    }

    /// There is nothing left to do: the stream is live.
    fn reached_head(&mut self, core: &StreamCore) {
        let position = self.machine.position();
        if let Some(care) = &mut self.care {
            care.reached_head(self.checkpointer.as_ref(), position);
        }
        if let Some(checkpointer) = &self.checkpointer
            && position > self.reported
        {
            checkpointer.passed(position);
        }
        self.reported = self.reported.max(position);
        let now = Instant::now();
        let (mut has_arrived, mut is_awaited) = (false, false);
        core.board.report(|progress| {
            progress.move_to(position, now);
            progress.phase = Phase::Live;
            progress.call = None;
            has_arrived = progress.told.reach_head();
            is_awaited = progress.wanted > position && progress.wanted < u64::MAX;
            News::Yes
        });
        // What has come since the loop looked, and is not selected, wakes nobody. Who waits for more than was reported has
        // said so by now, or finds out that the stream has handled what it was given.
        if is_awaited && let Some(settled) = core.settled() {
            core.report_position(settled);
        }
        if has_arrived {
            trace::reached_head(core, position);
        }
    }
}

/// Lets a stream rest that begins and has nothing to see yet, as most live streams do: it needs no task to find that out.
/// Gives the loop's state back when there is something to do.
pub(crate) fn rest_at_once(core: &StreamCore, mut pump: Box<Pump>) -> Option<Box<Pump>> {
    if pump.keyed.is_some() {
        return Some(pump);
    }
    let Found::Nothing { head } = core.look(pump.machine.position(), &pump.waker) else {
        return Some(pump);
    };
    pump.machine.step(Input::Woken);
    pump.machine.step(Input::Nothing { head });
    pump.reached_head(core);
    match core.gate.park(pump) {
        Parked::Rests => None,
        Parked::Roused(pump) | Parked::Closed(pump) => Some(pump),
    }
}

/// The loop of a stream that was woken, until it rests again or ends. A future that is dropped, because its runtime was
/// shut down, ends the stream.
pub(crate) fn run(core: Arc<StreamCore>, pump: Box<Pump>) -> impl Future<Output = ()> + Send {
    let mut work = Work {
        pump: Some(pump),
        core,
    };
    async move {
        if let Err(cause) = work.run().await
            && let Some(pump) = work.pump.take()
        {
            // Who ended the stream while its handler failed is told that it has ended, and nothing else.
            let cause = work.core.gate.closed().unwrap_or(cause);
            end(Arc::clone(&work.core), pump, cause).await;
        }
    }
}

/// Ends a stream: its cursor is stored, its seat, its name and its handler are released, and then it says so; that much
/// also when the future is dropped.
pub(crate) fn end(
    core: Arc<StreamCore>,
    pump: Box<Pump>,
    cause: StopCause,
) -> impl Future<Output = ()> + Send {
    store_last(Ending {
        core,
        pump: Some(pump),
        cause,
    })
}

async fn store_last(ending: Ending) {
    let core = &ending.core;
    // No retry of a letter begins from here on, also when the stream ends of itself (S7).
    core.gate.close(ending.cause.clone());
    // A letter may be under way to the handler.
    let _turn = match core.turn() {
        Some(turn) => Some(turn.write().await),
        None => None,
    };
    let position = ending.pump.as_ref().map_or(0, |pump| pump.position());
    let settled = core.position().max(position);
    let rests = ending.pump.as_ref().and_then(|pump| pump.rests);
    if let Some(checkpointer) = ending.pump.as_ref().and_then(|pump| pump.checkpointer.as_ref()) {
        standby::finished(core, checkpointer, rests, settled).await;
    }
    core.report_position(settled);
}

/// Releases what a stream holds, whether its last cursor could be stored or the runtime was shut down meanwhile.
struct Ending {
    core: Arc<StreamCore>,
    pump: Option<Box<Pump>>,
    cause: StopCause,
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.pump.take());
        self.core.show_calls(0);
        let (core, cause) = (&self.core, self.cause.clone());
        match cause {
            _ if cause.is_meant() => {
                core.registry.forget(core.id);
                tracing::debug!(stream = core.name.as_deref(), %cause, "a stream ended");
            }
            _ => tracing::error!(stream = core.name.as_deref(), %cause, "a stream stopped"),
        }
        core.board.report(|progress| {
            progress.call = None;
            progress.phase = Phase::Stopped(cause);
            News::Yes
        });
    }
}

/// What a call of the handler took, and how far the position gets with it.
pub(crate) struct Taken {
    pub(crate) batches: u32,
    pub(crate) events: u64,
    pub(crate) through: u64,
    pub(crate) ended_at: Instant,
}

/// A loop at work. What it does with events that are set aside stands in `aside`. Dropped with the pump still inside, the loop panicked or its runtime was shut down.
pub(crate) struct Work {
    core: Arc<StreamCore>,
    pump: Option<Box<Pump>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(pump) = self.pump.take() else { return };
        let cause = if std::thread::panicking() {
            StopCause::LoopPanicked
        } else {
            StopCause::RuntimeShutDown
        };
        self.core.gate.close(cause.clone());
        standby::finish(&self.core, &pump, pump.position());
        drop(Ending {
            core: Arc::clone(&self.core),
            pump: Some(pump),
            cause,
        });
    }
}

/// Where the loop is, for the bounds of its pages.
struct AtWork<'a>(&'a StreamCore);

impl<'a> AtWork<'a> {
    fn begin(core: &'a StreamCore) -> Self {
        core.source.feed_begins();
        Self(core)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.source.feed_ends();
    }
}

impl Work {
    /// Ends with `Ok` when the loop's state was left in the gate, and with the cause when the stream has to end.
    async fn run(&mut self) -> Result<(), StopCause> {
        let core = Arc::clone(&self.core);
        let _at_work = AtWork::begin(&core);
        if self.pump().keyed.is_some() {
            // It has a page in hand beside the one that it takes from.
            let _at_work_twice = AtWork::begin(&core);
            return Box::pin(self.run_keyed(&core)).await;
        }
        let mut input = Input::Woken;
        let mut pages = 0;
        loop {
            let command = self.pump().machine.step(input);
            let passage = match command {
                // Who wants to rest learns from the gate what there is to know.
                Command::Rest => Passage::Open,
                _ => core.gate.pass(),
            };
            match passage {
                Passage::Open => {}
                Passage::Closed(cause) => return Err(cause),
                Passage::Told(standing) => {
                    let heeded = Box::pin(heed::heed(&core, self.pump(), standing)).await;
                    input = go_on(&core, heeded.map(|()| Input::Woken))?;
                    continue;
                }
            }
            let checkpointer = self.pump().checkpointer.as_ref();
            if let Some(failure) = checkpointer.and_then(|checkpointer| checkpointer.cell().failure()) {
                input = go_on(&core, Err(failure.into()))?;
                continue;
            }
            let command = match self.pump().rests {
                // Whatever it was, the machine gives it out again.
                Some(_) => Command::Rest,
                None => command,
            };
            let done = match command {
                Command::Look { after } => {
                    self.passed(&core, after);
                    self.look(&core, after)
                }
                // What is rarely under way is kept out of the task, of which there is one per stream that was woken.
                Command::Read { after, through } => {
                    Box::pin(self.read(&core, Range { after, through })).await
                }
                Command::Call(batch) if self.pump().handler.grouping().is_some() => {
                    Box::pin(self.call_group(&core, batch)).await
                }
                Command::Call(batch) => self.call(&core, batch).await,
                Command::Rest => {
                    let mut pump = self.take_pump();
                    if pump.rests.is_none() {
                        pump.reached_head(&core);
                    }
                    match core.gate.park(pump) {
                        Parked::Rests => return Ok(()),
                        Parked::Roused(pump) | Parked::Closed(pump) => self.pump = Some(pump),
                    }
                    Ok(Input::Woken)
                }
            };
            input = go_on(&core, done)?;
            if matches!(input, Input::Page { .. }) {
                pages += 1;
                if pages > 1 {
                    // A handler that never waits must not keep the thread from others.
                    let_others().await;
                }
            }
        }
    }

    pub(crate) fn pump(&mut self) -> &mut Pump {
        self.pump.as_mut().expect("a loop at work has its state")
    }

    pub(crate) fn take_pump(&mut self) -> Box<Pump> {
        self.pump.take().expect("a loop at work has its state")
    }

    pub(crate) fn give_pump(&mut self, pump: Box<Pump>) {
        self.pump = Some(pump);
    }

    /// Looks at the bus. With nothing to see, the waker is there before the loop rests, so that nothing comes unseen.
    fn look(&mut self, core: &StreamCore, after: u64) -> Result<Input, StopCause> {
        let pump = self.pump();
        pump.let_group_go();
        let found = core.look(after, &pump.waker);
        pump.feed.found(&found);
        match found {
            Found::Nothing { head } => Ok(Input::Nothing { head }),
            Found::Page(page) => Ok(page.into()),
            Found::Behind { after, head } => {
                core.fell_behind(after, head);
                Ok(Input::Behind { after, head })
            }
            Found::Closed => Err(StopCause::Closed),
        }
    }

    async fn read(&mut self, core: &StreamCore, range: Range) -> Result<Input, StopCause> {
        let page = patience::read(core, &mut self.pump().feed, range).await?;
        Ok(page.map_or(Input::Woken, Input::from))
    }

    /// Where a durable stream leaves its position.
    pub(crate) fn cell(&self) -> Arc<CursorCell> {
        let checkpointer = self.pump.as_ref().and_then(|pump| pump.checkpointer.as_ref());
        let checkpointer = checkpointer.expect("only a durable stream sets events aside");
        Arc::clone(checkpointer.cell())
    }

    pub(crate) async fn call(
        &mut self,
        core: &StreamCore,
        mut batch: EventBatch,
    ) -> Result<Input, StopCause> {
        if self.pump().care.as_ref().is_some_and(|care| care.is_due()) {
            match Box::pin(self.prepare(core, batch)).await? {
                Next::Call(part) => batch = part,
                Next::Go(input) => return Ok(input),
            }
        }
        let turn = match core.turn().map(|turn| (turn, turn.try_read())) {
            None => None,
            Some((_, Ok(turn))) => Some(turn),
            Some((turn, Err(_))) => match Box::pin(wait_for_turn(core, turn)).await {
                Some(turn) => Some(turn),
                None => return Ok(Input::Woken),
            },
        };
        let now = Instant::now();
        core.board.note(|progress| {
            progress.beat_at = now;
            progress.call = Some(CallInHand {
                recorded_at: batch.recorded_timestamp(),
                running_since: Some(now),
            });
        });
        let batch = core.in_this_run(batch);
        core.meter.call_begins(&batch, &core.source.log.clock);
        core.faults.hit(FaultPoint::BeforeHandler);
        let (events, last_sequence) = (batch.len() as u64, batch.last_sequence());
        let outcome = tokio::select! {
            biased;
            outcome = inside::call(core, (&batch).into(), self.pump().handler.call(batch)) => outcome,
            () = core.abort.notified() => return Err(StopCause::Closed),
        };
        // What a handler answers is appended before anybody else has the handler.
        let _turn = turn.filter(|_| matches!(outcome, Ok(Some(_))));
        core.faults.hit(FaultPoint::AfterHandler);
        let ended_at = Instant::now();
        let shown = outcome.as_ref().map_or(Outcome::Failed, |_| Outcome::Handled);
        core.meter.call_ends(ended_at - now, events, shown);
        match outcome {
            Ok(reply) => {
                let taken = Taken {
                    batches: 1,
                    events,
                    through: last_sequence,
                    ended_at,
                };
                match reply {
                    None => self.handled(core, taken).await,
                    Some(answer) => Box::pin(self.react(core, *answer, taken)).await,
                }
            }
            Err(failure) => Box::pin(self.failed(core, failure, last_sequence)).await,
        }
    }

    /// The handler took the batch, or the part of it, or several: the position passes it, and the cursor is handed on (D2).
    pub(crate) async fn handled(&mut self, core: &StreamCore, taken: Taken) -> Result<Input, StopCause> {
        let Taken {
            batches,
            events,
            through: position,
            ended_at: now,
        } = taken;
        let pump = self.pump();
        let failures = pump.failures.take().map(|failures| failures.attempts());
        pump.reported = position;
        if let Some(care) = &mut pump.care {
            (0..batches).for_each(|_| care.handled());
        }
        core.board.report(|progress| {
            progress.move_to(position, now);
            progress.rate.count(events, now);
            progress.handled_batches += u64::from(batches);
            progress.handled_events += events;
            progress.call = None;
            if failures.is_some() {
                progress.phase = Phase::CatchingUp;
            }
            News::Yes
        });
        if let Some(failures) = failures {
            trace::recovered(core, position, failures);
        }
        if let Some(checkpointer) = &mut pump.checkpointer
            && checkpointer.handled(batches, position)
        {
            stored(checkpointer, position).await?;
        }
        Ok(Input::Settled { through: position })
    }

    /// The handler failed: the cursor stays, the batch is retried, and then the policy says how to go on (D5).
    pub(crate) async fn failed(
        &mut self,
        core: &StreamCore,
        failure: Failure,
        last_sequence: u64,
    ) -> Result<Input, StopCause> {
        let now = Instant::now();
        let policy = self.pump().handler.retry_policy();
        let failures = self
            .pump()
            .failures
            .get_or_insert_with(|| Box::new(Failures::new(policy, now)));
        let verdict = failures.record_failure(&failure, now);
        let (attempts, first_failed_at) = (failures.attempts(), failures.first_failed_at());
        core.report_failure(&failure, last_sequence, attempts, verdict);
        match verdict {
            Verdict::RetryAfter(delay) => {
                pause(core, delay).await;
                Ok(Input::Retry)
            }
            // Who was told to skip the batch, or to rest, does not give up before.
            Verdict::GiveUp if core.gate.calls() => Ok(Input::Retry),
            Verdict::GiveUp => {
                let first = self.pump().machine.position() + 1;
                let part = self
                    .pump()
                    .machine
                    .in_hand()
                    .map(|batch| match batch.last_sequence() {
                        last if last == last_sequence => batch.clone(),
                        _ => batch.part(first, last_sequence).unwrap_or_else(|| batch.clone()),
                    });
                let batch = part.expect("the batch that failed is in hand");
                if self.pump().care.is_none() {
                    return Err(stop_cause(&failure, last_sequence, attempts));
                }
                let attempts = attempts_until(attempts, first_failed_at, Timestamp::now().into());
                self.give_up(core, &batch, &failure, attempts).await
            }
        }
    }

    /// The position moved over what the query does not select.
    fn passed(&mut self, core: &StreamCore, position: u64) {
        let pump = self.pump();
        if position <= pump.reported {
            return;
        }
        pump.reported = position;
        core.report_position(position);
        if let Some(checkpointer) = &pump.checkpointer {
            checkpointer.passed(position);
        }
    }
}

/// Waits for somebody who retries a dead letter. Nothing: the gate has something to say first (S7).
pub(crate) async fn wait_for_turn<'a>(core: &StreamCore, turn: &'a Turn) -> Option<RwLockReadGuard<'a, ()>> {
    let turn = tokio::select! {
        turn = turn.read() => turn,
        () = interrupted(core) => return None,
    };
    (!core.gate.calls()).then_some(turn)
}

impl From<Selected> for Input {
    fn from(page: Selected) -> Self {
        let batches: VecDeque<EventBatch> = page.batches;
        Self::Page {
            batches,
            through: page.through,
            may_rest: page.may_rest,
        }
    }
}

/// A cursor that is refused ends the stream, unless the loop was told why: its epoch has passed, and another is to be heeded.
fn go_on(core: &StreamCore, done: Result<Input, StopCause>) -> Result<Input, StopCause> {
    match done {
        Err(StopCause::OwnershipLost) if core.gate.calls() => Ok(Input::Woken),
        done => done,
    }
}

//! Several batches in one call: how a group comes together, and what becomes of it.
//!
//! The machine knows nothing of groups: it has the batches in hand, and is told of each that it is settled. What is watched, and
//! what has events that queue, is called one by one, as other streams do it.

use std::time::Instant as Moment;

use tokio::time::Instant;

use crate::error::StopCause;
use crate::event::batch::EventBatch;
use crate::fault::FaultPoint;
use crate::meter::Outcome;
use crate::stream::core::StreamCore;
use crate::stream::dispose::Part;
use crate::stream::failure::Failure;
use crate::stream::feed::Found;
use crate::stream::inside;
use crate::stream::machine::Input;
use crate::stream::patience::pause;
use crate::stream::policy::{Failures, Verdict};
use crate::stream::pump::{Pump, Taken, Work, wait_for_turn};
use crate::stream::status::{CallInHand, Phase};
use crate::stream::trace::Delivered;

/// What the loop of a stream remembers whose handler takes groups.
#[derive(Default)]
pub(crate) struct Group {
    /// When its first batch was in hand.
    since: Option<Instant>,
    /// The end of a group that failed, which is repeated as it was.
    failed_through: Option<u64>,
    /// Up to here batches are called one by one.
    single_through: u64,
}

/// What comes of waiting for more batches.
enum More {
    /// Some came.
    Came,
    /// There are none, and it is not waited for any.
    Enough,
    /// The gate has something to say first.
    Interrupted,
}

impl Group {
    /// The batches in hand were let go or settled.
    fn end(&mut self) {
        self.since = None;
        self.failed_through = None;
    }
}

impl Work {
    /// The next call of a handler that takes groups. `first` is the batch in hand.
    pub(crate) async fn call_group(
        &mut self,
        core: &StreamCore,
        first: EventBatch,
    ) -> Result<Input, StopCause> {
        let pump = self.pump();
        let is_watched = pump.care.as_ref().is_some_and(|care| care.is_watching());
        let is_single = first.last_sequence() <= pump.group().single_through;
        if is_watched || is_single || !pump.is_whole(&first)? {
            return self.call(core, first).await;
        }
        pump.group().since.get_or_insert_with(Instant::now);
        let batches = loop {
            let Some(batches) = self.pump().gather(core)? else {
                match self.wait_for_more(core).await? {
                    More::Came => continue,
                    More::Enough => break self.pump().in_hand_of_group(core)?,
                    More::Interrupted => return Ok(Input::Woken),
                }
            };
            break batches;
        };
        match batches.len() {
            0 | 1 => {
                self.pump().group().end();
                self.call(core, first).await
            }
            _ => self.call_with(core, batches).await,
        }
    }

    /// Looks for batches behind those in hand, and waits for them as long as the group may.
    async fn wait_for_more(&mut self, core: &StreamCore) -> Result<More, StopCause> {
        let pump = self.pump();
        let within = pump
            .handler
            .grouping()
            .map_or_else(Default::default, |grouping| grouping.within);
        let since = *pump.group().since.get_or_insert_with(Instant::now);
        loop {
            let pump = self.pump();
            let found = core.look(pump.machine.looks_on(), &pump.waker);
            pump.feed.found(&found);
            match found {
                Found::Page(page) => {
                    pump.machine.take_more(page.batches, page.through, page.may_rest);
                    return Ok(More::Came);
                }
                Found::Nothing { .. } if since.elapsed() < within && !pump.is_awaited(core) => {}
                // Who is behind reads the next page when this one is handled.
                Found::Nothing { .. } | Found::Behind { .. } | Found::Closed => return Ok(More::Enough),
            }
            let recorded_at = pump.machine.in_hand().map(EventBatch::recorded_timestamp);
            core.board.note(|progress| {
                progress.phase = Phase::Live;
                progress.call = recorded_at.map(|recorded_at| CallInHand {
                    recorded_at,
                    running_since: None,
                });
            });
            tokio::select! {
                () = core.roused() => {}
                () = core.interrupt.notified() => {}
                () = tokio::time::sleep_until(since + within) => {}
            }
            if core.gate.calls() {
                return Ok(More::Interrupted);
            }
        }
    }

    async fn call_with(&mut self, core: &StreamCore, batches: Vec<EventBatch>) -> Result<Input, StopCause> {
        let turn = match core.turn() {
            None => None,
            Some(turn) => match wait_for_turn(core, turn).await {
                Some(turn) => Some(turn),
                None => return Ok(Input::Woken),
            },
        };
        let now = Moment::now();
        let recorded_at = batches[0].recorded_timestamp();
        core.board.note(|progress| {
            progress.beat_at = now;
            progress.call = Some(CallInHand {
                recorded_at,
                running_since: Some(now),
            });
        });
        let delivered: Vec<EventBatch> = batches
            .iter()
            .map(|batch| core.in_this_run(batch.clone()))
            .collect();
        core.meter.call_begins(&delivered[0], &core.source.log.clock);
        core.faults.hit(FaultPoint::BeforeHandler);
        let handler = &self.pump().handler;
        let grouping = handler
            .grouping()
            .expect("only a handler that takes groups gets one");
        let outcome = tokio::select! {
            biased;
            outcome = inside::call(core, Delivered::together(&batches), grouping.call(handler, delivered)) => outcome,
            () = core.abort.notified() => return Err(StopCause::Closed),
        };
        drop(turn);
        core.faults.hit(FaultPoint::AfterHandler);
        let events = batches.iter().map(|batch| batch.len() as u64).sum();
        let shown = outcome.as_ref().map_or(Outcome::Failed, |()| Outcome::Handled);
        let ended_at = Moment::now();
        core.meter.call_ends(ended_at - now, events, shown);
        match outcome {
            Ok(()) => {
                let taken = Taken {
                    batches: u32::try_from(batches.len()).unwrap_or(u32::MAX),
                    events,
                    through: batches.last().map_or(0, EventBatch::last_sequence),
                    ended_at,
                };
                self.group_handled(core, &batches, taken).await
            }
            Err(failure) => self.group_failed(core, failure, &batches).await,
        }
    }

    /// The handler took all of a group: the position passes its batches, one by one, and nobody sees it between them (D2).
    async fn group_handled(
        &mut self,
        core: &StreamCore,
        batches: &[EventBatch],
        taken: Taken,
    ) -> Result<Input, StopCause> {
        let pump = self.pump();
        pump.group().end();
        for batch in &batches[..batches.len() - 1] {
            pump.machine.step(Input::Settled {
                through: batch.last_sequence(),
            });
        }
        self.handled(core, taken).await
    }

    /// A group failed: it is repeated as it was, and when the retries are used up its batches are called one by one (D5).
    async fn group_failed(
        &mut self,
        core: &StreamCore,
        failure: Failure,
        batches: &[EventBatch],
    ) -> Result<Input, StopCause> {
        let now = Moment::now();
        let last_sequence = batches.last().map_or(0, EventBatch::last_sequence);
        let pump = self.pump();
        let policy = pump.handler.retry_policy();
        let failures = pump
            .failures
            .get_or_insert_with(|| Box::new(Failures::new(policy, now)));
        let verdict = failures.record_failure(&failure, now);
        let attempts = failures.attempts();
        core.report_failure(&failure, last_sequence, attempts, verdict);
        match verdict {
            Verdict::RetryAfter(delay) => {
                pump.group().failed_through = Some(last_sequence);
                pause(core, delay).await;
            }
            Verdict::GiveUp => {
                tracing::warn!(
                    stream = core.name.as_deref(),
                    batches = batches.len(),
                    last_sequence,
                    "the batches of a group that failed are handled one by one"
                );
                pump.failures = None;
                pump.group().end();
                pump.group().single_through = last_sequence;
            }
        }
        Ok(Input::Retry)
    }
}

impl Pump {
    fn group(&mut self) -> &mut Group {
        self.group.get_or_insert_default()
    }

    /// Whether the handler gets all of a batch: none of its events queues behind a parked one.
    fn is_whole(&self, batch: &EventBatch) -> Result<bool, StopCause> {
        let part = match &self.care {
            Some(care) => care.part(batch, None)?,
            None => None,
        };
        Ok(matches!(part, None | Some((Part::Whole, _))))
    }

    /// Whether somebody waits for a position that is in hand.
    fn is_awaited(&self, core: &StreamCore) -> bool {
        let in_hand = self.machine.position() + 1..=self.machine.taken_through();
        core.board.read(|progress| in_hand.contains(&progress.wanted))
    }

    /// The batches of the next group. Nothing: there may be room for more.
    fn gather(&mut self, core: &StreamCore) -> Result<Option<Vec<EventBatch>>, StopCause> {
        let failed_through = self.group().failed_through;
        let batches = self.in_hand_of_group(core)?;
        let is_full = failed_through.is_some()
            || batches.len() < self.machine.all_in_hand().len()
            || batches.len() >= self.group_batches_max()
            || weight_bytes(&batches) >= core.source.bounds().bytes_max;
        Ok(is_full.then_some(batches))
    }

    /// As many of the batches in hand as fit into a group.
    fn in_hand_of_group(&mut self, core: &StreamCore) -> Result<Vec<EventBatch>, StopCause> {
        let (batches_max, bytes_max) = (self.group_batches_max(), core.source.bounds().bytes_max);
        let through = self.group().failed_through.unwrap_or(u64::MAX);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for batch in self.machine.all_in_hand() {
            let has_room = batches.len() < batches_max && bytes < bytes_max;
            if !has_room || batch.last_sequence() > through || !self.is_whole(batch)? {
                break;
            }
            bytes += batch.weight_bytes();
            batches.push(batch.clone());
        }
        Ok(batches)
    }

    /// A group is not larger than the checkpoint allows to be unstored (D3).
    fn group_batches_max(&self) -> usize {
        let wanted = self.handler.grouping().map_or(1, |grouping| grouping.batches_max);
        let room = self
            .checkpointer
            .as_ref()
            .map_or(u32::MAX, |checkpointer| checkpointer.room());
        wanted.min(room).max(1) as usize
    }

    /// Nothing is in hand any more, and the stream looks from its position again.
    pub(crate) fn let_group_go(&mut self) {
        if let Some(group) = &mut self.group {
            group.end();
        }
    }
}

fn weight_bytes(batches: &[EventBatch]) -> usize {
    batches.iter().map(EventBatch::weight_bytes).sum()
}

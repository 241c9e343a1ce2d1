//! The loop of a partitioned stream, from when it has something to do until it rests or is told something. The only place
//! here that waits.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant as Moment;

use tokio::time::Instant;

use crate::error::StopCause;
use crate::log::cursor::CursorFailure;
use crate::log::page::Range;
use crate::stream::aside::{Care, guarded};
use crate::stream::board::News;
use crate::stream::checkpoint::Checkpointer;
use crate::stream::core::StreamCore;
use crate::stream::feed::{Feed, Found};
use crate::stream::handler::HandleStream;
use crate::stream::keyed::aside::Stored;
use crate::stream::keyed::call::Ended;
use crate::stream::keyed::{Keyed, Pauses};
use crate::stream::patience;
use crate::stream::pump::Pump;
use crate::stream::status::{CallInHand, Phase};
use crate::stream::trace;
use crate::sync::let_others;

/// The parts of a loop's state, so that a page can be read while the others change.
pub(super) struct Stint<'a> {
    pub(super) core: &'a Arc<StreamCore>,
    pub(super) keyed: &'a mut Keyed,
    pub(super) care: &'a mut Care,
    pub(super) checkpointer: &'a mut Checkpointer,
    pub(super) handler: &'a HandleStream,
    reported: &'a mut u64,
}

/// What a loop waits for.
enum Happened {
    /// The drain limit is over.
    Aborted,
    /// Something was committed, or the gate may have something to say.
    Woken,
    Stored(Stored),
    CursorStored(Result<(), CursorFailure>),
    /// Nobody retries a dead letter any more.
    TurnIsFree,
    /// A lane has waited long enough.
    Due,
    Ended(Result<Ended, StopCause>),
}

/// What there is behind what is in hand.
enum Ahead {
    /// There is no room for more.
    Enough,
    /// More than one page.
    More,
    Nothing,
    Behind(Range),
}

/// Works until there is nothing to do, or the gate has something to say. No call is under way when this returns.
pub(super) async fn work(core: &Arc<StreamCore>, pump: &mut Pump) -> Result<Pauses, StopCause> {
    let Pump {
        keyed: Some(keyed),
        care: Some(care),
        checkpointer: Some(checkpointer),
        feed,
        handler,
        waker,
        reported,
        ..
    } = pump
    else {
        unreachable!("a partitioned stream is durable");
    };
    let mut stint = Stint {
        core,
        keyed,
        care,
        checkpointer,
        handler,
        reported,
    };
    let worked = stint.work(feed, waker).await;
    let drained = stint.drain().await;
    match (worked, drained) {
        (Ok(pauses), Ok(())) => Ok(pauses),
        (Err(cause), _) | (_, Err(cause)) => Err(cause),
    }
}

impl Stint<'_> {
    async fn work(&mut self, feed: &mut Feed, waker: &Waker) -> Result<Pauses, StopCause> {
        loop {
            if self.core.gate.calls() {
                return Ok(Pauses::ToHeed);
            }
            if let Some(failure) = self.checkpointer.cell().failure() {
                return Err(failure.into());
            }
            match self.go_on(feed, waker)? {
                Ahead::Nothing if self.is_idle() => return Ok(Pauses::ToRest),
                Ahead::Nothing | Ahead::Enough => {
                    let happened = self.happens().await;
                    self.note(happened)?;
                }
                // A log that has nothing to handle must not keep the thread from others.
                Ahead::More => let_others().await,
                Ahead::Behind(range) => self.read(feed, range).await?,
            }
        }
    }

    /// Takes what there is room for, and begins the calls that can begin.
    fn go_on(&mut self, feed: &mut Feed, waker: &Waker) -> Result<Ahead, StopCause> {
        for _ in 0..2 {
            self.step()?;
            let Some(after) = self.keyed.lanes.wants_after(self.bytes_max()) else {
                return Ok(Ahead::Enough);
            };
            let found = self.core.look(after, waker);
            feed.found(&found);
            match found {
                Found::Nothing { head } => {
                    self.keyed.lanes.take_page([].into(), head);
                    self.advance();
                    self.reached_head();
                    return Ok(Ahead::Nothing);
                }
                Found::Page(page) => self.keyed.lanes.take_page(page.batches, page.through),
                Found::Behind { after, head } => {
                    self.keyed.lanes.take_page([].into(), after);
                    self.advance();
                    if self.keyed.failing.is_empty() {
                        self.core.fell_behind(after, head);
                    }
                    return Ok(Ahead::Behind(Range { after, through: head }));
                }
                Found::Closed => return Err(StopCause::Closed),
            }
        }
        Ok(Ahead::More)
    }

    /// Whatever needs no waiting.
    fn step(&mut self) -> Result<(), StopCause> {
        loop {
            self.advance();
            self.fill()?;
            self.start()?;
            self.advance();
            // What was settled before it was let go makes room as soon as it is taken.
            if !self.keyed.lanes.can_fill(self.bytes_max()) {
                break;
            }
        }
        self.show();
        Ok(())
    }

    /// What may be in hand, besides a page.
    fn bytes_max(&self) -> usize {
        self.core.source.bounds().bytes_max
    }

    fn fill(&mut self) -> Result<(), StopCause> {
        let bytes_max = self.bytes_max();
        let Keyed { lanes, partition, .. } = &mut *self.keyed;
        guarded(|| lanes.fill(partition, bytes_max)).map_err(StopCause::PartitionPanicked)
    }

    /// Reads a page, while calls go on to begin and end.
    async fn read(&mut self, feed: &mut Feed, range: Range) -> Result<(), StopCause> {
        let core = Arc::clone(self.core);
        let mut reading = std::pin::pin!(patience::read(&core, feed, range));
        loop {
            let happened = tokio::select! {
                biased;
                page = &mut reading => {
                    if let Some(page) = page? {
                        self.keyed.lanes.take_page(page.batches, page.through);
                    }
                    break;
                }
                happened = self.happens() => happened,
            };
            self.note(happened)?;
            if core.gate.calls() {
                return Ok(());
            }
            self.step()?;
        }
        // A log that is read from memory must not keep the thread from others.
        let_others().await;
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.keyed.lanes.hand().is_empty() && self.keyed.storing.is_none() && self.keyed.calls.is_empty()
    }

    async fn happens(&mut self) -> Happened {
        let Keyed {
            lanes,
            calls,
            storing,
            awaited,
            waits_for_turn,
            ..
        } = &mut *self.keyed;
        let core = self.core;
        let due = lanes.next_due();
        let (cell, position) = (self.checkpointer.cell(), awaited.unwrap_or(0));
        tokio::select! {
            biased;
            () = core.abort.notified(), if !calls.is_empty() => {
                calls.shutdown().await;
                Happened::Aborted
            }
            () = core.interrupt.notified() => Happened::Woken,
            () = core.roused() => Happened::Woken,
            stored = poll_option(storing) => {
                *storing = None;
                Happened::Stored(stored)
            }
            stored = std::future::poll_fn(|context| cell.poll_stored(position, context)), if awaited.is_some() =>
                Happened::CursorStored(stored),
            () = core.turn_is_free(), if *waits_for_turn => Happened::TurnIsFree,
            () = sleep_until(due), if due.is_some() => Happened::Due,
            Some(ended) = calls.join_next(), if !calls.is_empty() => Happened::Ended(Ended::of(ended)),
        }
    }

    fn note(&mut self, happened: Happened) -> Result<(), StopCause> {
        match happened {
            Happened::Aborted => return Err(StopCause::Closed),
            Happened::Woken => {}
            Happened::Stored(stored) => self.stored(stored)?,
            Happened::CursorStored(stored) => {
                stored?;
                self.keyed.awaited = None;
            }
            Happened::TurnIsFree => self.keyed.waits_for_turn = false,
            Happened::Due => self.keyed.lanes.wake(Instant::now()),
            Happened::Ended(ended) => self.ended(ended)?,
        }
        // Those who came together are noted together.
        while let Some(ended) = self.keyed.calls.try_join_next() {
            self.ended(Ended::of(ended))?;
        }
        Ok(())
    }

    /// Waits for the calls under way, and for what is on its way into the log. Nothing begins.
    async fn drain(&mut self) -> Result<(), StopCause> {
        let mut outcome = Ok(());
        // The last call may have ended as the gate called.
        self.move_position();
        self.show();
        while !self.keyed.calls.is_empty() || self.keyed.storing.is_some() {
            let Keyed { calls, storing, .. } = &mut *self.keyed;
            let happened = tokio::select! {
                biased;
                () = self.core.abort.notified(), if !calls.is_empty() => {
                    calls.shutdown().await;
                    Happened::Aborted
                }
                stored = poll_option(storing) => {
                    *storing = None;
                    Happened::Stored(stored)
                }
                Some(ended) = calls.join_next(), if !calls.is_empty() => Happened::Ended(Ended::of(ended)),
            };
            let noted = match happened {
                Happened::Stored(stored) => self.stored(stored),
                Happened::Ended(ended) => self.ended_late(ended),
                _ => Err(StopCause::Closed),
            };
            outcome = outcome.and(noted);
            self.move_position();
        }
        self.show();
        outcome
    }

    /// Moves the position over what is settled, and has the letters stored that it comes to.
    fn advance(&mut self) {
        self.move_position();
        if self.keyed.storing.is_none() {
            self.store_letters();
        }
    }

    fn move_position(&mut self) {
        let hand = self.keyed.lanes.hand_mut();
        let passed = hand.advance();
        let position = hand.position();
        if position <= *self.reported {
            return;
        }
        *self.reported = position;
        // Whoever waited for the position finds no call that is over.
        self.show();
        self.core.report_position(position);
        if passed == 0 {
            self.checkpointer.passed(position);
        } else if self.checkpointer.handled(passed, position) {
            self.keyed.awaited = Some(position);
        }
    }

    /// Everything up to the head is in hand, or settled.
    fn reached_head(&mut self) {
        if self.is_idle() {
            self.care
                .reached_head(Some(self.checkpointer), self.keyed.position());
        }
        if self.keyed.failing.is_empty() {
            self.be_live();
        }
    }

    fn be_live(&self) {
        let now = Moment::now();
        let mut has_arrived = false;
        self.core.board.report(|progress| {
            progress.beat_at = now;
            has_arrived = progress.told.reach_head();
            let is_news = !matches!(progress.phase, Phase::Live);
            progress.phase = Phase::Live;
            if is_news { News::Yes } else { News::No }
        });
        if has_arrived {
            trace::reached_head(self.core, self.keyed.position());
        }
    }

    /// Shows the oldest batch in hand, and how long the oldest call is under way.
    fn show(&self) {
        let running_since = self.keyed.running.values().map(|running| running.since).min();
        let call = self.keyed.lanes.hand().oldest().map(|recorded_at| CallInHand {
            recorded_at,
            running_since,
        });
        self.core.show_calls(self.keyed.running.len());
        self.core.board.note(|progress| progress.call = call);
    }
}

/// Waits for what is under way, and for ever when nothing is.
async fn poll_option<T>(future: &mut Option<futures::future::BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

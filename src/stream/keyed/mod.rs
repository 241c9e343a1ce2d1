//! Streams that handle several keys at once.
//!
//! One cursor, several calls: the events of each key are in order, with one call at a time, and the position is the low
//! watermark, before the first event that is not settled. What lies between it and the last event that was taken is in hand,
//! and bounded. A key that is slow, or that fails and waits to be tried again, so holds up nobody until the lookahead is full.
//!
//! ```text
//!     look, read ----> page ----> hand: the log's order ----> position ----> cursor
//!                                  |  ^                 |
//!                            share |  | settled         | the letters it comes to
//!                              out v  |                 v
//!                                 lanes: a key's order   stored with it (D2, D5)
//!                                  |  ^
//!                                  v  | ended
//!                                 calls, each a task
//! ```
//!
//! In reading order: `partition` (what the user says, and how keys are told apart), `hand` (what is settled, and how far the
//! position is), `lanes` (which call is next), all pure; `stint` (the loop), `call` (a call begins and ends), `aside` (what is
//! set aside).

mod aside;
mod call;
pub(crate) mod hand;
pub(crate) mod lanes;
pub(crate) mod partition;
#[cfg(test)]
mod proofs;
mod stint;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::task::JoinSet;

use crate::error::StopCause;
use crate::stream::core::StreamCore;
use crate::stream::gate::{Parked, Passage};
use crate::stream::heed;
use crate::stream::keyed::aside::Stored;
use crate::stream::keyed::call::{Ended, Running};
use crate::stream::keyed::lanes::Lanes;
use crate::stream::keyed::partition::{Lane, Partition};
use crate::stream::policy::Failures;
use crate::stream::pump::Work;

/// What a partitioned stream has beyond others.
pub(crate) struct Keyed {
    lanes: Lanes,
    partition: Partition,
    calls: JoinSet<Ended>,
    /// What the calls under way are given.
    running: BTreeMap<Lane, Running>,
    /// The lanes that failed and are tried again.
    failing: HashMap<Lane, Failures>,
    /// Something is on its way into the log that comes before the next step.
    storing: Option<BoxFuture<'static, Stored>>,
    /// No call begins before this position is stored.
    awaited: Option<u64>,
    /// Somebody retries a dead letter, and no call begins before that is over.
    waits_for_turn: bool,
}

impl Keyed {
    pub(crate) fn new(position: u64, partition: Partition) -> Self {
        Self {
            lanes: Lanes::new(position, partition.lookahead_batches),
            partition,
            calls: JoinSet::new(),
            running: BTreeMap::new(),
            failing: HashMap::new(),
            storing: None,
            awaited: None,
            waits_for_turn: false,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.lanes.hand().position()
    }

    /// What failed is tried anew. No call is under way.
    pub(crate) fn try_anew(&mut self) {
        self.failing.clear();
        self.lanes.wake_all();
    }

    /// Goes on from another position. No call is under way.
    pub(crate) fn start_over(&mut self, position: u64) {
        self.failing.clear();
        self.lanes = Lanes::new(position, self.partition.lookahead_batches);
        self.awaited = None;
    }

    /// Lets go of what can be read again (S5). No call is under way.
    pub(crate) fn let_go(&mut self) {
        self.failing.clear();
        self.lanes.let_go();
    }
}

/// Why the loop of a partitioned stream paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pauses {
    /// There is nothing to do.
    ToRest,
    /// The gate has something to say. No call is under way.
    ToHeed,
}

impl Work {
    /// The loop of a partitioned stream. Ends with `Ok` when the loop's state was left in the gate, and with the cause when the
    /// stream has to end. In both cases no call is under way.
    pub(crate) async fn run_keyed(&mut self, core: &Arc<StreamCore>) -> Result<(), StopCause> {
        loop {
            let done = match core.gate.pass() {
                Passage::Open => self.go_on_or_pause(core).await,
                Passage::Closed(cause) => return Err(cause),
                Passage::Told(standing) => heed::heed(core, self.pump(), standing)
                    .await
                    .map(|()| Pauses::ToHeed),
            };
            match done {
                Ok(Pauses::ToRest) => {
                    let pump = self.take_pump();
                    match core.gate.park(pump) {
                        Parked::Rests => return Ok(()),
                        Parked::Roused(pump) | Parked::Closed(pump) => self.give_pump(pump),
                    }
                }
                Ok(Pauses::ToHeed) => {}
                // It was refused because of a word that is to be heeded.
                Err(StopCause::OwnershipLost) if core.gate.calls() => {}
                Err(cause) => return Err(cause),
            }
        }
    }

    async fn go_on_or_pause(&mut self, core: &Arc<StreamCore>) -> Result<Pauses, StopCause> {
        let checkpointer = self.pump().checkpointer.as_ref();
        if let Some(failure) = checkpointer.and_then(|checkpointer| checkpointer.cell().failure()) {
            return Err(failure.into());
        }
        match self.pump().rests {
            Some(_) => Ok(Pauses::ToRest),
            None => stint::work(core, self.pump()).await,
        }
    }
}

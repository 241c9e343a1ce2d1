//! What a stream does next. Pure: an input goes in, a command comes out.
//!
//! Whether an event can be skipped or delivered twice is decided here and in the bus, and nowhere else (S2, S3, D2).
//!
//! Invariants:
//! - the position only grows;
//! - everything at or below the position is settled: handled, set aside, or not selected by the query;
//! - the batch in hand is the first selected one after the position;
//! - the position passes events of the batch in hand only with `Input::Settled`.

use std::collections::VecDeque;

use crate::event::batch::EventBatch;

/// What the driver found out.
#[derive(Debug)]
pub(crate) enum Input {
    /// The stream begins, or was woken.
    Woken,
    /// There is nothing to see up to the head.
    Nothing { head: u64 },
    /// The log has what comes after this sequence, up to the head.
    Behind { after: u64, head: u64 },
    /// The selected batches of a page, in the order of the log; there is nothing else up to `through`.
    Page {
        batches: VecDeque<EventBatch>,
        through: u64,
        /// The page reaches up to the head, and who is done with it is woken when there is more.
        may_rest: bool,
    },
    /// The batch in hand is settled up to here, its end or before it: handled, or set aside by the failure policy.
    Settled { through: u64 },
    /// The handler failed, and the policy says to call it again.
    Retry,
}

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look at the bus from this position.
    Look { after: u64 },
    /// Read a page of the log.
    Read { after: u64, through: u64 },
    /// Call the handler.
    Call(EventBatch),
    /// Wait to be woken.
    Rest,
}

pub(crate) struct Machine {
    position: u64,
    /// The selected batches after the position, and how far they reach.
    page: VecDeque<EventBatch>,
    page_through: u64,
    /// Whether there is nothing to look for after the page before somebody wakes the stream.
    may_rest: bool,
}

impl Machine {
    pub(crate) fn new(position: u64) -> Self {
        Self {
            position,
            page: VecDeque::new(),
            page_through: position,
            may_rest: false,
        }
    }

    /// The last sequence that is settled.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn step(&mut self, input: Input) -> Command {
        match input {
            Input::Woken => self.next(),
            Input::Nothing { head } => {
                assert!(self.page.is_empty(), "who has a page does not look for another");
                self.settle(head);
                Command::Rest
            }
            Input::Behind { after, head } => {
                self.settle(after);
                Command::Read {
                    after: self.position,
                    through: head,
                }
            }
            Input::Page {
                batches,
                through,
                may_rest,
            } => {
                assert!(self.page.is_empty(), "a page is finished before the next one");
                self.check_page(&batches, through);
                self.page = batches;
                self.page_through = through;
                self.may_rest = may_rest;
                self.next()
            }
            Input::Settled { through } => {
                let settled = self.page.pop_front();
                let batch = settled.expect("only the batch in hand is settled");
                self.settle_in(batch, through);
                self.next()
            }
            Input::Retry => self.next(),
        }
    }

    fn next(&mut self) -> Command {
        match self.page.front() {
            Some(batch) => Command::Call(batch.clone()),
            None => {
                self.settle(self.page_through);
                match std::mem::take(&mut self.may_rest) {
                    true => Command::Rest,
                    false => Command::Look { after: self.position },
                }
            }
        }
    }

    /// What is left of the batch in hand is in hand. With no selected event left, its end is settled too.
    fn settle_in(&mut self, batch: EventBatch, through: u64) {
        let end = batch.last_sequence();
        assert!(
            self.position < through && through <= end,
            "what is settled lies in the batch in hand"
        );
        let rest = if through < end { batch.rest(through) } else { None };
        match rest {
            Some(rest) => {
                self.page.push_front(rest);
                self.settle(through);
            }
            None => self.settle(end),
        }
    }

    /// The selected batches that are in hand, one behind the other.
    pub(crate) fn all_in_hand(&self) -> &VecDeque<EventBatch> {
        &self.page
    }

    /// Everything up to here is in hand, or settled.
    pub(crate) fn taken_through(&self) -> u64 {
        self.page_through.max(self.position)
    }

    /// Where to look for more behind the page in hand. Who looks has to look again after it, unless it is told otherwise then.
    pub(crate) fn looks_on(&mut self) -> u64 {
        self.may_rest = false;
        self.taken_through()
    }

    /// A page behind the one in hand; there is nothing else up to `through`.
    pub(crate) fn take_more(&mut self, batches: VecDeque<EventBatch>, through: u64, may_rest: bool) {
        let taken = self.taken_through();
        assert!(
            batches
                .iter()
                .all(|batch| batch.iter().all(|event| event.sequence() > taken)),
            "a page lies behind the one in hand"
        );
        self.page.extend(batches);
        self.page_through = self.page_through.max(through);
        self.may_rest = may_rest;
    }

    /// The batch that the handler has, or gets next.
    pub(crate) fn in_hand(&self) -> Option<&EventBatch> {
        self.page.front()
    }

    /// A head behind the position is possible: another process's commits are known to the log before they are to the bus.
    fn settle(&mut self, through: u64) {
        self.position = self.position.max(through);
    }

    fn check_page(&self, batches: &VecDeque<EventBatch>, through: u64) {
        let mut last = self.position;
        for batch in batches {
            let first = batch.iter().next().map_or(0, |event| event.sequence());
            assert!(
                first > last,
                "a page lies after the position, in the order of the log"
            );
            last = batch.last_sequence();
        }
        assert!(last <= through, "a page reaches as far as its batches");
    }
}

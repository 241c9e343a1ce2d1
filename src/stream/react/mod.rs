//! Reactors: durable streams whose handlers answer events with events.
//!
//! A reactor is a durable stream like any other until its handler has returned. What it returned is checked there, as part of the
//! call, so that a reaction which cannot be appended is a failure of the handler. Then the loop has the events appended and the
//! cursor moved in one transaction, and waits for that. So a reaction is in the log exactly when its cause is settled: a crash
//! before the commit leaves neither, one after it both, and an owner that lost the name can do neither.
//!
//! In reading order: `reaction` (what a handler answers, and how it is checked; pure), `reactor` (the handler), `answer` (the loop's
//! part, and that of a dead letter that is retried).

mod answer;
pub(crate) mod reaction;
pub(crate) mod reactor;

pub(crate) use crate::stream::react::answer::answer_letter;

use crate::error::StopCause;
use crate::log::reaction::CheckedReaction;

/// What a handler call has to say beside that it succeeded. Nothing in almost all streams.
pub(crate) type Reply = Option<Box<Answer>>;

/// What a reactor's handler came to.
pub(crate) enum Answer {
    Append(CheckedReaction),
    TooDeep(TooDeep),
}

/// A chain of reactions that is longer than it may be.
pub(crate) struct TooDeep {
    /// The event that would be reacted to.
    pub(crate) cause: u64,
    pub(crate) depth: u64,
    pub(crate) depth_max: u32,
}

impl From<TooDeep> for StopCause {
    fn from(chain: TooDeep) -> Self {
        let TooDeep {
            cause,
            depth,
            depth_max,
        } = chain;
        Self::ChainTooDeep {
            cause,
            depth,
            depth_max,
        }
    }
}

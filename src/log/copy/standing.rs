//! What stands beside the events of a log at one moment, as a copy takes it over.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::log::cursor::{NamedCursor, StoredCursor};
use crate::log::letter::{Attempt, DeadLetter};

/// Where the events end, and everything else that belongs to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The last sequence that was ever given to an event.
    pub(crate) head: u64,
    /// Everything up to here was pruned, and the last of it was recorded at this time; 0: nothing.
    pub(crate) pruned_through: u64,
    pub(crate) pruned_recorded_at: Timestamp,
    /// The last sequence that was removed by hand; 0: none, or this log does not allow it.
    pub(crate) removed_through: u64,
    /// The newest number that was given to a registration or a word from outside.
    pub(crate) epoch: u64,
    /// By name.
    pub(crate) streams: Vec<CopiedStream>,
}

/// A durable stream with its dead letters, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopiedStream {
    pub(crate) name: Arc<str>,
    pub(crate) cursor: StoredCursor,
    pub(crate) letters: Vec<DeadLetter>,
}

impl CopiedStream {
    pub(crate) fn new(row: NamedCursor, letters: Vec<DeadLetter>) -> Self {
        Self {
            name: row.name,
            cursor: row.cursor,
            letters,
        }
    }
}

impl Standing {
    /// As a copy has it, in which nobody runs a stream.
    pub(crate) fn at_rest(mut self) -> Self {
        for stream in &mut self.streams {
            rest(&mut stream.cursor);
        }
        self
    }

    pub(crate) fn dead_letters(&self) -> u64 {
        self.streams
            .iter()
            .map(|stream| stream.letters.len() as u64)
            .sum()
    }

    /// What differs from what was to be, in words; nothing: they are the same.
    pub(crate) fn difference(&self, expected: &Self) -> Option<String> {
        let number = |name: &str, found: u64, expected: u64| {
            (found != expected).then(|| format!("{name} is {found}, the source has {expected}"))
        };
        number("the head", self.head, expected.head)
            .or_else(|| {
                number(
                    "the end of what was pruned",
                    self.pruned_through,
                    expected.pruned_through,
                )
            })
            .or_else(|| number("the newest epoch", self.epoch, expected.epoch))
            .or_else(|| {
                let mut others = self
                    .streams
                    .iter()
                    .filter(|stream| !expected.streams.contains(stream));
                let other = others.next()?;
                Some(format!(
                    "the stream {:?} or a dead letter of it differs",
                    other.name
                ))
            })
            .or_else(|| {
                let (found, expected) = (self.streams.len() as u64, expected.streams.len() as u64);
                number("the number of streams", found, expected)
            })
            .or_else(|| (self != expected).then(|| String::from("what is known of removed events differs")))
    }
}

/// Takes back what is noted of a run, which is one of the source: nobody runs the stream in the copy. What is noted of a batch that
/// may have killed the process stays, and so does a retry of letters that has ended.
fn rest(cursor: &mut StoredCursor) {
    if cursor.attempt.at == 0 {
        cursor.attempt = Attempt::ENDED;
    }
    if cursor.retry.as_ref().is_some_and(|retry| !retry.has_ended) {
        cursor.retry = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, attempt: Attempt) -> CopiedStream {
        let cursor = StoredCursor {
            position: 7,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch: 4,
            attempt,
            owner: 3,
            steering: 5,
            paused: None,
            retry: None,
            updated_at: Timestamp::EPOCH,
        };
        CopiedStream {
            name: name.into(),
            cursor,
            letters: Vec::new(),
        }
    }

    fn standing(streams: Vec<CopiedStream>) -> Standing {
        Standing {
            head: 9,
            pruned_through: 2,
            pruned_recorded_at: Timestamp::EPOCH,
            removed_through: 0,
            epoch: 5,
            streams,
        }
    }

    #[test]
    fn nobody_runs_a_stream_of_a_copy_and_a_suspected_batch_stays_suspected() {
        let suspected = Attempt { at: 8, count: 2 };
        let found = standing(vec![stream("a", Attempt::RUNNING), stream("b", suspected)]).at_rest();
        let attempts: Vec<Attempt> = found.streams.iter().map(|stream| stream.cursor.attempt).collect();
        assert_eq!(attempts, [Attempt::ENDED, suspected]);
    }

    #[test]
    fn whatever_differs_is_told() {
        let expected = standing(vec![stream("a", Attempt::ENDED)]);
        assert_eq!(expected.clone().difference(&expected), None);
        let differing = [
            Standing {
                head: 8,
                ..expected.clone()
            },
            Standing {
                pruned_through: 1,
                ..expected.clone()
            },
            Standing {
                epoch: 6,
                ..expected.clone()
            },
            Standing {
                removed_through: 6,
                ..expected.clone()
            },
            standing(vec![stream("a", Attempt::RUNNING)]),
            standing(vec![]),
            standing(vec![stream("a", Attempt::ENDED), stream("b", Attempt::ENDED)]),
        ];
        for other in differing {
            assert!(other.difference(&expected).is_some(), "{other:?}");
        }
    }
}

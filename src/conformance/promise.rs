//! What is promised, in the words of the README.

use std::fmt;

/// What a store promises, whatever log it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promise {
    /// Its number: `L1`. Or a word, for what has none: `prune`.
    pub number: &'static str,
    /// What is promised.
    pub sentence: &'static str,
}

/// All promises that a log has a part in.
pub const PROMISES: &[Promise] = &[
    Promise {
        number: "L1",
        sentence: "One append is one batch: one consecutive range, all or nothing. Failed appends leave no trace and use no sequence.",
    },
    Promise {
        number: "L2",
        sentence: "`append` returns after the batch is durable, as the store's durability says, and published.",
    },
    Promise {
        number: "L3",
        sentence: "`append_if` refuses when its context moved, and appends nothing then. Of two that race on one context exactly one wins.",
    },
    Promise {
        number: "L4",
        sentence: "Events never change; sequences never repeat, not even after the newest events were removed by hand.",
    },
    Promise {
        number: "L5",
        sentence: "Bad input is refused before it is queued, with a typed error that names the field and the limit.",
    },
    Promise {
        number: "L6",
        sentence: "Of all appends under one idempotency key one is made, and the others return its result, as long as its events are in the log.",
    },
    Promise {
        number: "S1",
        sentence: "Only committed batches are delivered, each as one batch: its selected part, when at least one event is selected.",
    },
    Promise {
        number: "S2",
        sentence: "Order is the log's order; where several keys are handled at once, that of each key.",
    },
    Promise {
        number: "S3",
        sentence: "From its start on, a stream is given every committed event that its query selects. None is skipped, and none is delivered twice within a run, except as a retry.",
    },
    Promise {
        number: "S4",
        sentence: "Appends never wait for handlers. A slow, failing or panicking handler delays no append and no other stream.",
    },
    Promise {
        number: "S5",
        sentence: "Memory is bounded by the window, whatever the number of streams and however far behind they are.",
    },
    Promise {
        number: "S6",
        sentence: "A stream without a start position sees every batch whose append began after the call that made it returned, and none committed before the call.",
    },
    Promise {
        number: "S7",
        sentence: "After `unsubscribe()` returns no handler call starts; after `stopped().await` none is running.",
    },
    Promise {
        number: "S8",
        sentence: "A batch says whether it is history to the run that delivers it.",
    },
    Promise {
        number: "D1",
        sentence: "Delivery resumes strictly after the cursor; where a new name starts is resolved and stored before the call returns.",
    },
    Promise {
        number: "D2",
        sentence: "The cursor passes a batch only after the handler returned `Ok` for it, or the failure policy disposed of it.",
    },
    Promise {
        number: "D3",
        sentence: "At least once: a crash repeats at most what was handled since the last stored cursor, and the checkpoint bounds that.",
    },
    Promise {
        number: "D4",
        sentence: "A query that selects nothing reports no lag and still moves the cursor, rarely, never with a write per batch and stream.",
    },
    Promise {
        number: "D5",
        sentence: "A handler's error, panic or timeout leaves the cursor where it was. The batch is retried; then the stream stops, or does what its failure policy says. Nothing is skipped silently.",
    },
    Promise {
        number: "D6",
        sentence: "A name is active once, in this process and in all others. An owner that lost it, to whomever, cannot write the cursor any more.",
    },
    Promise {
        number: "D7",
        sentence: "A cursor belongs to one log and one query. One that does not fit, or is ahead of the log, is refused with a typed error that names the choices.",
    },
    Promise {
        number: "D8",
        sentence: "Losing every wake-up delays delivery by at most the poll interval.",
    },
    Promise {
        number: "D9",
        sentence: "A durable stream can be steered from outside, wherever it runs. What it is told is stored before the call returns, holds after restarts, and after its cursor was moved nothing of the run before is stored any more.",
    },
    Promise {
        number: "A1",
        sentence: "A reaction is in the log exactly once, with the cursor behind what it answers, or neither is.",
    },
    Promise {
        number: "A2",
        sentence: "A reaction says what caused it, and chains end.",
    },
    Promise {
        number: "prune",
        sentence: "A prune removes whole batches, from the oldest on, and none that a durable stream still needs unless it is told to; whoever needs what is gone is told.",
    },
    Promise {
        number: "wait",
        sentence: "Who waits for a stream is told when it has handled and stored what was waited for, or that it does not go on.",
    },
];

/// The word that a name begins with, for proofs of what has no number.
const WORDS: [(&str, &str); 3] = [("prune", "prune"), ("a_prune", "prune"), ("wait", "wait")];

impl Promise {
    /// The promise that a proof of this name proves.
    pub(super) fn of(name: &str) -> &'static Self {
        let word = WORDS.iter().find(|(word, _)| name.starts_with(word));
        let is_meant = |promise: &&Self| match word {
            Some((_, number)) => promise.number == *number,
            None => name
                .split('_')
                .next()
                .is_some_and(|first| first.eq_ignore_ascii_case(promise.number)),
        };
        let found = PROMISES.iter().find(is_meant);
        found.expect("every proof is named after a promise, which a test holds")
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.number, self.sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::list::PROOFS;

    #[test]
    fn every_proof_has_a_promise_and_every_promise_a_proof() {
        let proven: Vec<&str> = PROOFS.iter().map(|proof| proof.promise().number).collect();
        for promise in PROMISES {
            assert!(proven.contains(&promise.number), "{promise}");
        }
        assert_eq!(PROOFS.len(), proven.len());
    }

    #[test]
    fn promises_are_in_the_words_of_the_readme() {
        let readme = include_str!("../../README.md");
        for promise in PROMISES.iter().filter(|promise| promise.number.len() == 2) {
            let row = format!("| **{}** | {} |", promise.number, promise.sentence);
            assert!(readme.contains(&row), "{row}");
        }
    }
}

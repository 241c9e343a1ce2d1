//! What was found when a word was heard: who hears it asks, so that the committer finds the answer instead of asking.
//!
//! A hint like the word itself. Each answer is of a moment behind its word and says what it was asked for, and the committer takes
//! it only when that is what it wants to know; otherwise it asks for itself.

use crate::sync::Mutex;

/// Between the listener, who asks and puts, and the committer, who takes.
pub(super) struct Heard<T>(Mutex<State<T>>);

struct State<T> {
    /// Where the committer is, as far as it has said.
    head: u64,
    /// Behind which sequence was asked, and the answer.
    found: Option<(u64, T)>,
}

impl<T> Heard<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { head: 0, found: None }))
    }

    /// The committer has everything up to here, or soon will.
    pub(super) fn note_head(&self, head: u64) {
        self.0.lock().head = head;
    }

    /// Behind which sequence there may be something new. Nothing: the last answer is not taken yet, and is now too old to be
    /// taken. The committer is behind, and asks for itself when it comes to it.
    pub(super) fn wanted(&self) -> Option<u64> {
        let mut state = self.0.lock();
        match state.found.take() {
            Some(_) => None,
            None => Some(state.head),
        }
    }

    pub(super) fn put(&self, after: u64, answer: T) {
        self.0.lock().found = Some((after, answer));
    }

    /// The answer, if it is one to what the committer asks.
    pub(super) fn take(&self, after: u64) -> Option<T> {
        let (asked_after, answer) = self.0.lock().found.take()?;
        (asked_after == after).then_some(answer)
    }

    /// The log is looked at now: an answer from before says too little.
    pub(super) fn forget(&self) {
        self.0.lock().found = None;
    }
}

#[cfg(all(test, not(millstream_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_and_only_by_who_is_where_it_begins() {
        let heard = Heard::new();
        heard.note_head(7);
        assert_eq!(heard.wanted(), Some(7));
        heard.put(7, "a");
        assert_eq!(heard.take(7), Some("a"));
        assert_eq!(heard.take(7), None);
        heard.put(7, "b");
        assert_eq!(heard.take(8), None, "its first events are there already");
        assert_eq!(heard.take(7), None, "it is of no use later either");
    }

    #[test]
    fn an_answer_from_before_a_word_or_a_look_is_never_taken_after_it() {
        let heard = Heard::new();
        heard.put(0, "a");
        assert_eq!(heard.wanted(), None);
        assert_eq!(heard.take(0), None);
        assert_eq!(heard.wanted(), Some(0));
        heard.put(0, "b");
        heard.forget();
        assert_eq!(heard.take(0), None);
    }
}

//! What a rebuild may leave out: the dead letters of the model's stream, when they cannot be applied anew either.

use futures::TryStreamExt;

use crate::error::{DeadLetterError, ReadModelError};
use crate::event::batch::EventBatch;
use crate::log::letter::DeadLetter;
use crate::store::Store;

/// The dead letters of a model, and which of them the rebuild gives up.
pub(crate) struct Lacking {
    /// In the order of the log.
    letters: Vec<DeadLetter>,
    given_up: Vec<DeadLetter>,
}

impl Lacking {
    pub(crate) fn new(letters: Vec<DeadLetter>) -> Self {
        Self {
            letters,
            given_up: Vec::new(),
        }
    }

    /// What is set aside now. Gives the first event of a letter that was given up and waits no more: it was applied to the build that serves,
    /// or discarded, and nothing would ever apply it to the new one.
    pub(crate) fn replace(&mut self, letters: Vec<DeadLetter>) -> Option<u64> {
        self.letters = letters;
        let waits = |first: u64| self.letters.iter().any(|letter| letter.first_sequence == first);
        self.given_up().into_iter().find(|first| !waits(*first))
    }

    /// Leaves out what the letters stand for that some of this batch is, and all later ones of their keys, so that nothing is
    /// applied before what comes first. `false`: there is nothing that was not left out before.
    pub(crate) fn give_up(&mut self, batch: &EventBatch) -> bool {
        self.give_up_those(|letter| batch.iter().any(|event| letter.contains(event.sequence())))
    }

    /// The same for one event.
    pub(crate) fn give_up_event(&mut self, sequence: u64) -> bool {
        self.give_up_those(|letter| letter.contains(sequence))
    }

    fn give_up_those(&mut self, stands_for: impl Fn(&DeadLetter) -> bool) -> bool {
        let known = self.given_up.len();
        let mut keys: Vec<String> = Vec::new();
        for letter in &self.letters {
            let is_of_key = letter.key.as_ref().is_some_and(|key| keys.contains(key));
            if !is_of_key && !stands_for(letter) {
                continue;
            }
            keys.extend(letter.key.clone());
            if !self.is_given_up(letter) {
                self.given_up.push(letter.clone());
            }
        }
        self.given_up.len() > known
    }

    fn is_given_up(&self, letter: &DeadLetter) -> bool {
        let first = letter.first_sequence;
        self.given_up
            .iter()
            .any(|given_up| given_up.first_sequence == first)
    }

    /// What is left of a batch without what is given up.
    pub(crate) fn trim(&self, batch: EventBatch) -> Option<EventBatch> {
        if self.given_up.is_empty() {
            return Some(batch);
        }
        let is_wanted = |sequence: u64| !self.given_up.iter().any(|letter| letter.contains(sequence));
        let places = batch.iter().enumerate();
        let wanted = places.filter(|(_, event)| is_wanted(event.sequence()));
        let wanted: Vec<usize> = wanted.map(|(place, _)| place).collect();
        match wanted.len() {
            count if count == batch.len() => Some(batch),
            _ => batch.pick(wanted.into_iter()),
        }
    }

    /// The letters that are given up, by their first events.
    pub(crate) fn given_up(&self) -> Vec<u64> {
        self.given_up.iter().map(|letter| letter.first_sequence).collect()
    }

    /// The letters up to a sequence that were applied after all.
    fn applied(&self, through: u64) -> impl Iterator<Item = u64> {
        let is_applied =
            move |letter: &&DeadLetter| letter.last_sequence <= through && !self.is_given_up(letter);
        let applied = self.letters.iter().filter(is_applied);
        applied.map(|letter| letter.first_sequence)
    }
}

/// The dead letters that the model's stream has now.
pub(crate) async fn letters(store: &Store, stream: &str) -> Result<Vec<DeadLetter>, ReadModelError> {
    let letters = store.dead_letters(stream).list();
    Ok(letters.try_collect().await?)
}

/// Removes the dead letters of what the rebuild has applied, up to where it ended: they wait for nothing any more. One that cannot be removed does no
/// harm: the build knows that it was applied.
pub(crate) async fn discard_applied(store: &Store, stream: &str, lacking: &Lacking, through: u64) {
    let letters = store.dead_letters(stream);
    for first_sequence in lacking.applied(through) {
        let reason = "applied by a rebuild of the read model";
        match letters.discard(first_sequence, reason).await {
            Ok(()) | Err(DeadLetterError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(stream, first_sequence, %error, "a dead letter that was applied by a rebuild stays in the list");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::batch::CommittedBatch;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};
    use crate::log::letter::DeadLetterState;
    use std::sync::Arc;

    fn letter(sequences: &[u64], key: Option<&str>) -> DeadLetter {
        let letter = DeadLetter::set_aside(sequences, DeadLetterState::Parked, std::time::UNIX_EPOCH);
        DeadLetter {
            key: key.map(str::to_owned),
            ..letter.unwrap()
        }
    }

    fn batch(first: u64, count: usize) -> EventBatch {
        let events = (0..count).map(|_| NewEvent::new("a", 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        EventBatch::whole(Arc::new(CommittedBatch::stamp(records, first, Timestamp::EPOCH)))
    }

    fn left(lacking: &Lacking, batch: EventBatch) -> Vec<u64> {
        let left = lacking.trim(batch);
        left.iter()
            .flat_map(|left| left.iter().map(|event| event.sequence()).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn what_is_given_up_takes_the_later_letters_of_its_keys_with_it_and_nothing_else() {
        let mut lacking = Lacking::new(vec![
            letter(&[2, 4], Some("a")),
            letter(&[3], Some("b")),
            letter(&[6], Some("b")),
            letter(&[7], Some("a")),
            letter(&[9], None),
        ]);
        assert_eq!(left(&lacking, batch(1, 4)), [1, 2, 3, 4]);
        let only_first = batch(1, 4).part(2, 2).unwrap();
        assert!(lacking.give_up(&only_first));
        assert!(!lacking.give_up(&only_first), "nothing is left to give up");
        assert_eq!(left(&lacking, batch(1, 4)), [1, 3]);
        assert_eq!(left(&lacking, batch(5, 4)), [5, 6, 8]);
        assert_eq!(left(&lacking, batch(7, 1)), [0; 0]);
        assert_eq!(lacking.applied(8).collect::<Vec<_>>(), [3, 6]);
        assert!(!lacking.give_up(&batch(11, 2)));
    }

    #[test]
    fn a_letter_that_was_given_up_is_missed_when_it_waits_no_more() {
        let mut lacking = Lacking::new(vec![letter(&[2], None), letter(&[5], None), letter(&[7], None)]);
        assert!(lacking.give_up_event(5));
        let still_there = vec![letter(&[5], None), letter(&[9], None)];
        assert_eq!(lacking.replace(still_there), None);
        assert_eq!(lacking.replace(vec![letter(&[9], None)]), Some(5));
    }
}

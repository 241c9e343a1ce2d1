//! Dead letters of the log in memory. A transaction that changes one works on a copy of all, which are few.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;
use crate::error::StorageError;
use crate::log::LogWriter;
use crate::log::letter::{
    AttemptWrite, DeadLetter, DeadLetterState, LetterCounts, LetterRange, LetterReader, LetterWriter,
};
use crate::log::memory::{Contents, MemoryReader, MemoryWriter};

/// By the stream's name and the first event.
pub(super) type Letters = BTreeMap<(String, u64), DeadLetter>;

/// The letters of a stream, in the order of the log.
fn of<'a>(letters: &'a Letters, name: &'a str, after: u64) -> impl Iterator<Item = &'a DeadLetter> + 'a {
    letters
        .range((name.to_owned(), after.saturating_add(1))..)
        .take_while(move |((stream, _), _)| stream == name)
        .map(|(_, letter)| letter)
}

fn keys<'a>(letters: &'a Letters, name: &'a str) -> BTreeSet<&'a str> {
    of(letters, name, 0)
        .filter_map(|letter| letter.key.as_deref())
        .collect()
}

fn counts(letters: &Letters, name: &str) -> LetterCounts {
    let all = of(letters, name, 0).count();
    let parked = of(letters, name, 0).filter(|letter| waits(letter)).count();
    let set_aside = of(letters, name, 0).filter(|letter| waits(letter));
    let oldest_at = set_aside.map(|letter| Timestamp::from(letter.parked_at)).min();
    LetterCounts {
        parked: parked as u64,
        skipped: (all - parked) as u64,
        keys: keys(letters, name).len() as u64,
        oldest_at,
    }
}

fn waits(letter: &DeadLetter) -> bool {
    letter.state != DeadLetterState::Skipped
}

impl Contents {
    /// The letters of a stream, in the order of the log.
    #[cfg(feature = "sqlite")]
    pub(super) fn letters_of(&self, name: &str) -> Vec<DeadLetter> {
        self.read_letters(|letters| of(letters, name, 0).cloned().collect())
    }

    fn read_letters<T>(&self, read: impl FnOnce(&Letters) -> T) -> T {
        match &self.letters {
            Some(letters) => read(letters),
            None => read(&Letters::new()),
        }
    }
}

impl MemoryWriter {
    /// As the transaction shows them.
    fn read_letters<T>(&self, read: impl FnOnce(&Letters) -> T) -> T {
        match &self.staged.letters {
            Some(letters) => read(letters),
            None => self.shared.lock().read_letters(read),
        }
    }

    fn change_letters(&mut self) -> &mut Letters {
        let shared = &self.shared;
        let copy = || shared.lock().letters.clone().unwrap_or_default();
        self.staged.letters.get_or_insert_with(copy)
    }
}

impl MemoryWriter {
    /// What was set aside stays with the stream.
    pub(super) fn rename_letters(&mut self, name: &str, to: &str) {
        let found: Vec<DeadLetter> = self.read_letters(|letters| of(letters, name, 0).cloned().collect());
        if found.is_empty() {
            return;
        }
        let letters = self.change_letters();
        letters.retain(|(stream, _), _| stream != name);
        let renamed = found
            .into_iter()
            .map(|letter| ((to.to_owned(), letter.first_sequence), letter));
        letters.extend(renamed);
    }
}

impl LetterWriter for MemoryWriter {
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError> {
        let key = (name.to_owned(), first_sequence);
        Ok(self.read_letters(|letters| letters.get(&key).cloned()))
    }

    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError> {
        let key = (name.to_owned(), letter.first_sequence);
        self.change_letters().insert(key, letter.clone());
        Ok(())
    }

    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError> {
        let key = (name.to_owned(), first_sequence);
        Ok(self.change_letters().remove(&key).is_some())
    }

    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        self.rename_letters(name, to);
        Ok(())
    }

    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError> {
        let count = self.read_letters(|letters| of(letters, name, position).count());
        if count > 0 {
            let letters = self.change_letters();
            letters.retain(|(stream, first), _| stream != name || *first <= position);
        }
        Ok(count as u64)
    }

    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError> {
        Ok(self.read_letters(|letters| keys(letters, name).contains(key)))
    }

    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError> {
        Ok(self.read_letters(|letters| counts(letters, name)))
    }

    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError> {
        Ok(self.read_letters(|letters| {
            let waiting = letters.iter().filter(|(_, letter)| waits(letter));
            waiting
                .map(|(key, _)| key)
                .min_by_key(|(_, first)| *first)
                .cloned()
        }))
    }

    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError> {
        match self.cursor(write.name)? {
            Some(mut cursor) if cursor.epoch == write.epoch => {
                cursor.position = write.position;
                cursor.attempt = write.attempt;
                self.put_cursor(write.name, &cursor)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl LetterReader for MemoryReader {
    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError> {
        let contents = self.shared.lock();
        Ok(contents.read_letters(|letters| {
            of(letters, range.name, range.after)
                .take(range.count_max)
                .cloned()
                .collect()
        }))
    }

    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError> {
        let contents = self.shared.lock();
        Ok(contents.read_letters(|letters| {
            let mut of_stream = of(letters, name, 0);
            of_stream
                .find(|letter| letter.key.as_deref() == Some(key))
                .cloned()
        }))
    }

    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError> {
        Ok(self.shared.lock().read_letters(|letters| counts(letters, name)))
    }

    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError> {
        let contents = self.shared.lock();
        Ok(contents.read_letters(|letters| keys(letters, name).into_iter().map(Box::from).collect()))
    }
}

//! The rows of dead letters, and what is noted of a stream's attempts.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;
use crate::error::{FailureCategory, StorageError};
use crate::log::letter::{
    AttemptWrite, DeadLetter, DeadLetterState, LetterCounts, LetterRange, LetterReader, LetterWriter,
};
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::read::SqliteReader;
use crate::log::sqlite::write::SqliteWriter;

/// The columns of a letter's row, in the order in which they are read.
macro_rules! columns {
    () => {
        "first_sequence, last_sequence, sequences, key, state, category, cause, attempts,
         first_failed_at, last_failed_at, parked_at"
    };
}

/// By the primary key.
const ONE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letter WHERE stream = ?1 AND first_sequence = ?2"
);

/// By the primary key.
const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letter WHERE stream = ?1 AND first_sequence > ?2 ORDER BY first_sequence LIMIT ?3"
);

/// By `dead_letter_by_key`.
const FIRST_OF_KEY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letter INDEXED BY dead_letter_by_key
      WHERE stream = ?1 AND key = ?2 ORDER BY first_sequence LIMIT 1"
);

/// By `dead_letter_by_key`.
const HAS_KEY: &str = "SELECT EXISTS (SELECT 1 FROM dead_letter WHERE stream = ?1 AND key = ?2)";

/// By `dead_letter_by_key`.
const KEYS: &str = "SELECT DISTINCT key FROM dead_letter WHERE stream = ?1 AND key IS NOT NULL";

/// By the primary key, over all letters of the stream, whose number its policy limits; the keys by `dead_letter_by_key`.
const COUNTS: &str =
    "SELECT count(*) FILTER (WHERE state <> 'skipped'), count(*) FILTER (WHERE state = 'skipped'),
    (SELECT count(DISTINCT key) FROM dead_letter WHERE stream = ?1 AND key IS NOT NULL),
    min(parked_at) FILTER (WHERE state <> 'skipped')
    FROM dead_letter WHERE stream = ?1";

/// The first entry of `dead_letter_that_waits`.
const OLDEST: &str = "SELECT stream, first_sequence FROM dead_letter WHERE state <> 'skipped'
    ORDER BY first_sequence LIMIT 1";

/// By the primary key.
const REMOVE: &str = "DELETE FROM dead_letter WHERE stream = ?1 AND first_sequence = ?2";

/// By the primary key.
const GIVE: &str = "UPDATE OR REPLACE dead_letter SET stream = ?2 WHERE stream = ?1";

/// By the primary key.
const REMOVE_AFTER: &str = "DELETE FROM dead_letter WHERE stream = ?1 AND first_sequence > ?2";

const PUT: &str = concat!(
    "INSERT OR REPLACE INTO dead_letter (stream, ",
    columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
);

/// By the primary key.
const PUT_ATTEMPT: &str = "UPDATE cursor SET position = ?3, attempt_at = ?4, attempts = ?5, updated_at = ?6
    WHERE name = ?1 AND epoch = ?2";

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let sequences: Option<String> = row.get(2)?;
    let state: String = row.get(4)?;
    let category: Option<String> = row.get(5)?;
    let time = |index| {
        row.get::<_, Option<i64>>(index)
            .map(|micros| micros.map(|micros| Timestamp::from_micros(micros).into()))
    };
    Ok(DeadLetter {
        first_sequence: row.get::<_, i64>(0)? as u64,
        last_sequence: row.get::<_, i64>(1)? as u64,
        sequences: match sequences {
            Some(text) => {
                Some(serde_json::from_str(&text).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into())
                })?)
            }
            None => None,
        },
        key: row.get(3)?,
        state: word(4, &state, DeadLetterState::ALL, DeadLetterState::as_str)?,
        category: match category {
            Some(text) => Some(word(5, &text, FailureCategory::ALL, FailureCategory::as_str)?),
            None => None,
        },
        cause: row.get(6)?,
        attempts: row.get(7)?,
        first_failed_at: time(8)?,
        last_failed_at: time(9)?,
        parked_at: Timestamp::from_micros(row.get(10)?).into(),
    })
}

/// What a word of a column stands for.
fn word<T: Copy, const N: usize>(
    column: usize,
    text: &str,
    all: [T; N],
    as_str: fn(T) -> &'static str,
) -> rusqlite::Result<T> {
    let found = all.into_iter().find(|one| as_str(*one) == text);
    found.ok_or_else(|| {
        let problem = format!("{text:?} is none of the words of this column");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, problem.into())
    })
}

fn one(connection: &Connection, name: &str, first_sequence: u64) -> rusqlite::Result<Option<DeadLetter>> {
    connection
        .prepare_cached(ONE)?
        .query_row(params![name, first_sequence as i64], letter)
        .optional()
}

pub(super) fn put(connection: &Connection, name: &str, letter: &DeadLetter) -> rusqlite::Result<()> {
    let micros = |time| Timestamp::from(time).as_micros();
    let sequences = letter.sequences.as_ref().map(|sequences| {
        let texts: Vec<String> = sequences.iter().map(u64::to_string).collect();
        format!("[{}]", texts.join(","))
    });
    connection.prepare_cached(PUT)?.execute(params![
        name,
        letter.first_sequence as i64,
        letter.last_sequence as i64,
        sequences,
        letter.key,
        letter.state.as_str(),
        letter.category.map(FailureCategory::as_str),
        letter.cause,
        letter.attempts,
        letter.first_failed_at.map(micros),
        letter.last_failed_at.map(micros),
        micros(letter.parked_at),
    ])?;
    Ok(())
}

/// All letters of a stream, in the order of the log.
pub(super) fn all_of(connection: &Connection, name: &str) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare_cached(PAGE)?;
    let rows = statement.query_map(params![name, 0, i64::MAX], letter)?;
    rows.collect()
}

fn counts(connection: &Connection, name: &str) -> rusqlite::Result<LetterCounts> {
    connection
        .prepare_cached(COUNTS)?
        .query_row([name], counts_of_row)
}

/// Counts, as the first four columns of a row have them.
pub(super) fn counts_of_row(row: &Row<'_>) -> rusqlite::Result<LetterCounts> {
    let number = |index| row.get::<_, i64>(index).map(|number| number as u64);
    Ok(LetterCounts {
        parked: number(0)?,
        skipped: number(1)?,
        keys: number(2)?,
        oldest_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_micros),
    })
}

impl LetterWriter for SqliteWriter {
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError> {
        one(self.connection(), name, first_sequence).map_err(storage("read a dead letter"))
    }

    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError> {
        put(self.connection(), name, letter).map_err(storage("store a dead letter"))
    }

    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError> {
        let removed = self
            .connection()
            .prepare_cached(REMOVE)
            .and_then(|mut statement| statement.execute(params![name, first_sequence as i64]));
        Ok(removed.map_err(storage("remove a dead letter"))? > 0)
    }

    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        let given = self
            .connection()
            .prepare_cached(GIVE)
            .and_then(|mut statement| statement.execute([name, to]));
        given.map_err(storage("give dead letters to another stream"))?;
        Ok(())
    }

    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError> {
        let removed = self
            .connection()
            .prepare_cached(REMOVE_AFTER)
            .and_then(|mut statement| statement.execute(params![name, position as i64]));
        Ok(removed.map_err(storage("remove dead letters"))? as u64)
    }

    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError> {
        self.connection()
            .prepare_cached(HAS_KEY)
            .and_then(|mut statement| statement.query_row([name, key], |row| row.get(0)))
            .map_err(storage("look for a parked key"))
    }

    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError> {
        counts(self.connection(), name).map_err(storage("count the dead letters"))
    }

    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError> {
        self.connection()
            .prepare_cached(OLDEST)
            .and_then(|mut statement| {
                let oldest = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64));
                statement.query_row([], oldest).optional()
            })
            .map_err(storage("look for the oldest dead letter"))
    }

    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError> {
        let written = self
            .connection()
            .prepare_cached(PUT_ATTEMPT)
            .and_then(|mut statement| {
                statement.execute(params![
                    write.name,
                    write.epoch as i64,
                    write.position as i64,
                    write.attempt.at as i64,
                    write.attempt.count,
                    Timestamp::now().as_micros(),
                ])
            });
        Ok(written.map_err(storage("note an attempt"))? > 0)
    }
}

impl LetterReader for SqliteReader {
    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError> {
        self.with_connection(|lent| counts(&lent.connection, name).map_err(storage("count the dead letters")))
    }

    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError> {
        self.with_connection(|lent| {
            let read = || {
                let mut statement = lent.connection.prepare_cached(PAGE)?;
                let count_max = i64::try_from(range.count_max).unwrap_or(i64::MAX);
                let rows = statement.query_map(params![range.name, range.after as i64, count_max], letter)?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            };
            read().map_err(storage("read the dead letters"))
        })
    }

    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError> {
        self.with_connection(|lent| {
            lent.connection
                .prepare_cached(FIRST_OF_KEY)
                .and_then(|mut statement| statement.query_row([name, key], letter).optional())
                .map_err(storage("read the letters of a key"))
        })
    }

    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError> {
        self.with_connection(|lent| {
            let read = || {
                let mut statement = lent.connection.prepare_cached(KEYS)?;
                let rows = statement.query_map([name], |row| row.get(0))?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            };
            read().map_err(storage("read the parked keys"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;
    use crate::log::sqlite::schema;

    #[test]
    fn every_statement_that_a_stream_waits_for_searches() {
        let by_place = "SEARCH dead_letter USING PRIMARY KEY (stream=?";
        let by_key = "SEARCH dead_letter USING INDEX dead_letter_by_key (stream=?";
        let by_key_alone = "SEARCH dead_letter USING COVERING INDEX dead_letter_by_key (stream=?";
        for (sql, expected) in [
            (ONE, by_place),
            (PAGE, by_place),
            (FIRST_OF_KEY, by_key),
            (HAS_KEY, by_key_alone),
            (KEYS, by_key_alone),
            (COUNTS, by_place),
            (OLDEST, "SCAN dead_letter USING INDEX dead_letter_that_waits"),
            (REMOVE, by_place),
            (REMOVE_AFTER, by_place),
            (PUT_ATTEMPT, "SEARCH cursor USING PRIMARY KEY (name=?"),
        ] {
            let plan = plan(sql);
            assert!(
                plan.iter().any(|step| step.starts_with(expected)),
                "{sql}: {plan:#?}"
            );
            // The oldest is where a walk along its index begins, and it ends there.
            let is_bad = |step: &&String| {
                step.contains("TEMP B-TREE FOR ORDER")
                    || (step.starts_with("SCAN dead_letter") && !step.starts_with(expected))
            };
            assert_eq!(plan.iter().find(is_bad), None, "{sql}: {plan:#?}");
        }
    }

    #[test]
    fn a_letter_comes_back_as_it_went() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare_tables(&mut connection, "memory".as_ref()).unwrap();
        let at = |micros| Timestamp::from_micros(micros).into();
        let mut stored = DeadLetter {
            first_sequence: 4,
            last_sequence: 9,
            sequences: Some([4, 7, 9].into()),
            key: Some("ü".to_owned()),
            state: DeadLetterState::Parked,
            category: Some(FailureCategory::Undecodable),
            cause: Some("no \"x\"".to_owned()),
            attempts: 3,
            first_failed_at: Some(at(5)),
            last_failed_at: Some(at(7)),
            parked_at: at(8),
        };
        put(&connection, "ledger", &stored).unwrap();
        assert_eq!(one(&connection, "ledger", 4).unwrap().as_ref(), Some(&stored));
        stored.state = DeadLetterState::Queued;
        (stored.sequences, stored.category, stored.cause) = (None, None, None);
        put(&connection, "ledger", &stored).unwrap();
        assert_eq!(one(&connection, "ledger", 4).unwrap().as_ref(), Some(&stored));
        let found = counts(&connection, "ledger").unwrap();
        assert_eq!((found.parked, found.skipped, found.keys), (1, 0, 1));
        connection
            .execute("UPDATE dead_letter SET state = 'lost'", [])
            .unwrap();
        assert!(one(&connection, "ledger", 4).is_err());
    }
}

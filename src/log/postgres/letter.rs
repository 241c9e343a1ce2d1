//! The rows of dead letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::error::{FailureCategory, StorageError};
use crate::log::letter::{
    AttemptWrite, DeadLetter, DeadLetterState, LetterCounts, LetterRange, LetterReader, LetterWriter,
};
use crate::log::postgres::cursor;
use crate::log::postgres::read::PostgresReader;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::text::{loaded, stored};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::PostgresWriter;

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
    " FROM dead_letter WHERE stream = $1 AND first_sequence = $2"
);

/// By the primary key.
const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letter WHERE stream = $1 AND first_sequence > $2 ORDER BY first_sequence LIMIT $3"
);

/// By `dead_letter_by_key`.
const FIRST_OF_KEY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letter WHERE stream = $1 AND key = $2 ORDER BY first_sequence LIMIT 1"
);

/// By `dead_letter_by_key`.
const HAS_KEY: &str = "SELECT EXISTS (SELECT FROM dead_letter WHERE stream = $1 AND key = $2)";

/// By `dead_letter_by_key`.
const KEYS: &str = "SELECT DISTINCT key FROM dead_letter WHERE stream = $1 AND key IS NOT NULL";

/// What is counted of letters, in the order in which it is read.
macro_rules! counts {
    () => {
        "SELECT count(*) FILTER (WHERE state <> 'skipped'), count(*) FILTER (WHERE state = 'skipped'),
         count(DISTINCT key), min(parked_at) FILTER (WHERE state <> 'skipped')"
    };
}

/// By the primary key, over all letters of the stream, whose number its policy limits.
const COUNTS: &str = concat!(counts!(), " FROM dead_letter WHERE stream = $1");

/// Over all letters, whose number the policy of each stream limits.
const ALL_COUNTS: &str = concat!(counts!(), ", stream FROM dead_letter GROUP BY stream");

/// The first entry of `dead_letter_that_waits`.
const OLDEST: &str = "SELECT stream, first_sequence FROM dead_letter WHERE state <> 'skipped'
    ORDER BY first_sequence LIMIT 1";

/// By the primary key.
const REMOVE: &str = "DELETE FROM dead_letter WHERE stream = $1 AND first_sequence = $2";

/// By the primary key.
const REMOVE_AFTER: &str = "DELETE FROM dead_letter WHERE stream = $1 AND first_sequence > $2";

/// Those that are given take the place of those that begin with the same event.
const MAKE_ROOM: &str = "DELETE FROM dead_letter AS old WHERE old.stream = $2
    AND EXISTS (SELECT FROM dead_letter AS new WHERE new.stream = $1 AND new.first_sequence = old.first_sequence)";

/// By the primary key.
const GIVE: &str = "UPDATE dead_letter SET stream = $2 WHERE stream = $1";

const PUT: &str = concat!(
    "INSERT INTO dead_letter (stream, ",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (stream, first_sequence) DO UPDATE SET
        last_sequence = excluded.last_sequence, sequences = excluded.sequences, key = excluded.key,
        state = excluded.state, category = excluded.category, cause = excluded.cause,
        attempts = excluded.attempts, first_failed_at = excluded.first_failed_at,
        last_failed_at = excluded.last_failed_at, parked_at = excluded.parked_at"
);

fn letter(row: &Row) -> Result<DeadLetter, Trouble> {
    let sequences: Option<Vec<i64>> = row.try_get(2)?;
    let category: Option<&str> = row.try_get(5)?;
    let time = |column| -> Result<Option<SystemTime>, Trouble> {
        let micros: Option<i64> = row.try_get(column)?;
        Ok(micros.map(|micros| Timestamp::from_micros(micros).into()))
    };
    Ok(DeadLetter {
        first_sequence: number(row, 0)?,
        last_sequence: number(row, 1)?,
        sequences: sequences.map(|all| all.into_iter().map(i64::unsigned_abs).collect()),
        key: row.try_get::<_, Option<String>>(3)?.map(loaded),
        state: word(row.try_get(4)?, DeadLetterState::ALL, DeadLetterState::as_str)?,
        category: category
            .map(|text| word(text, FailureCategory::ALL, FailureCategory::as_str))
            .transpose()?,
        cause: row.try_get::<_, Option<String>>(6)?.map(loaded),
        attempts: u32::try_from(number(row, 7)?).unwrap_or(u32::MAX),
        first_failed_at: time(8)?,
        last_failed_at: time(9)?,
        parked_at: Timestamp::from_micros(row.try_get(10)?).into(),
    })
}

/// What a word of a column stands for.
fn word<T: Copy, const N: usize>(
    text: &str,
    all: [T; N],
    as_str: fn(T) -> &'static str,
) -> Result<T, Trouble> {
    let found = all.into_iter().find(|one| as_str(*one) == text);
    found.ok_or_else(|| Trouble::Malformed(format!("{text:?} is none of the words of its column")))
}

/// All letters of a stream, in the order of the log.
#[cfg(feature = "sqlite")]
pub(super) async fn all_of(session: &mut Session, name: &str) -> Result<Vec<DeadLetter>, Trouble> {
    let rows = session.all(PAGE, &[&name, &0_i64, &i64::MAX]).await?;
    rows.iter().map(letter).collect()
}

pub(super) async fn put(session: &mut Session, name: &str, letter: &DeadLetter) -> Result<(), Trouble> {
    let micros = |time| Timestamp::from(time).as_micros();
    let sequences = letter.sequences.as_deref();
    let sequences: Option<Vec<i64>> = sequences.map(|all| all.iter().map(|one| *one as i64).collect());
    session
        .execute(
            PUT,
            &[
                &name,
                &(letter.first_sequence as i64),
                &(letter.last_sequence as i64),
                &sequences,
                &letter.key.as_deref().map(stored),
                &letter.state.as_str(),
                &letter.category.map(FailureCategory::as_str),
                &letter.cause.as_deref().map(stored),
                &i64::from(letter.attempts),
                &letter.first_failed_at.map(micros),
                &letter.last_failed_at.map(micros),
                &micros(letter.parked_at),
            ],
        )
        .await?;
    Ok(())
}

fn counts_of(row: &Row) -> Result<LetterCounts, Trouble> {
    Ok(LetterCounts {
        parked: number(row, 0)?,
        skipped: number(row, 1)?,
        keys: number(row, 2)?,
        oldest_at: row.try_get::<_, Option<i64>>(3)?.map(Timestamp::from_micros),
    })
}

async fn counts(session: &mut Session, name: &str) -> Result<LetterCounts, Trouble> {
    counts_of(&session.one(COUNTS, &[&name]).await?)
}

pub(super) async fn all_counts(session: &mut Session) -> Result<HashMap<Arc<str>, LetterCounts>, Trouble> {
    let rows = session.all(ALL_COUNTS, &[]).await?;
    let named = rows
        .iter()
        .map(|row| Ok((row.try_get::<_, &str>(4)?.into(), counts_of(row)?)));
    named.collect()
}

impl LetterWriter for PostgresWriter {
    fn letter(&mut self, name: &str, first_sequence: u64) -> Result<Option<DeadLetter>, StorageError> {
        self.with("read a dead letter", async |session| {
            let row = session.maybe(ONE, &[&name, &(first_sequence as i64)]).await?;
            row.map(|row| letter(&row)).transpose()
        })
    }

    fn put_letter(&mut self, name: &str, letter: &DeadLetter) -> Result<(), StorageError> {
        self.with("store a dead letter", async |session| {
            put(session, name, letter).await
        })
    }

    fn remove_letter(&mut self, name: &str, first_sequence: u64) -> Result<bool, StorageError> {
        self.with("remove a dead letter", async |session| {
            let removed = session
                .execute(REMOVE, &[&name, &(first_sequence as i64)])
                .await?;
            Ok(removed > 0)
        })
    }

    fn give_letters(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        self.with("give dead letters to another stream", async |session| {
            session.execute(MAKE_ROOM, &[&name, &to]).await?;
            session.execute(GIVE, &[&name, &to]).await?;
            Ok(())
        })
    }

    fn remove_letters_after(&mut self, name: &str, position: u64) -> Result<u64, StorageError> {
        self.with("remove dead letters", async |session| {
            session.execute(REMOVE_AFTER, &[&name, &(position as i64)]).await
        })
    }

    fn has_key(&mut self, name: &str, key: &str) -> Result<bool, StorageError> {
        self.with("look for a parked key", async |session| {
            Ok(session.one(HAS_KEY, &[&name, &stored(key)]).await?.try_get(0)?)
        })
    }

    fn letter_counts(&mut self, name: &str) -> Result<LetterCounts, StorageError> {
        self.with("count the dead letters", async |session| {
            counts(session, name).await
        })
    }

    fn oldest_letter(&mut self) -> Result<Option<(String, u64)>, StorageError> {
        self.with("look for the oldest dead letter", async |session| {
            let row = session.maybe(OLDEST, &[]).await?;
            row.map(|row| Ok((row.try_get(0)?, number(&row, 1)?))).transpose()
        })
    }

    fn put_attempt(&mut self, write: &AttemptWrite<'_>) -> Result<bool, StorageError> {
        self.with("note an attempt", async |session| {
            cursor::put_attempt(session, write).await
        })
    }
}

impl LetterReader for PostgresReader {
    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError> {
        self.with("count the dead letters", async |session| {
            counts(session, name).await
        })
    }

    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError> {
        let count_max = i64::try_from(range.count_max).unwrap_or(i64::MAX);
        let after = i64::try_from(range.after).unwrap_or(i64::MAX);
        self.with("read the dead letters", async |session| {
            let rows = session.all(PAGE, &[&range.name, &after, &count_max]).await?;
            rows.iter().map(letter).collect()
        })
    }

    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError> {
        self.with("read the letters of a key", async |session| {
            let row = session.maybe(FIRST_OF_KEY, &[&name, &stored(key)]).await?;
            row.map(|row| letter(&row)).transpose()
        })
    }

    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError> {
        self.with("read the parked keys", async |session| {
            let rows = session.all(KEYS, &[&name]).await?;
            let keys = rows.iter().map(|row| Ok(loaded(row.try_get(0)?).into()));
            keys.collect()
        })
    }
}

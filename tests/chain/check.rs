//! The checker: reads the file that a killed process left with plain SQL. It uses nothing of the crate under test.
//!
//! The file is opened read-only, so that the next process finds the write-ahead log as the kill left it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::LINKS;

/// What there is of each link of the chain.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What each reactor selects, and what it answered.
    pub(crate) links: [(u32, u32); 3],
    /// The letters there are.
    pub(crate) letters: usize,
    /// The letters of all looks.
    pub(crate) letters_seen: usize,
}

impl Found {
    /// Whether everything has its answer.
    pub(crate) fn is_complete(&self) -> bool {
        self.letters == 0
            && self
                .links
                .iter()
                .all(|(causes, answers)| causes == answers && *causes > 0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (link, more) in self.links.iter_mut().zip(&other.links) {
            *link = (link.0 + more.0, link.1 + more.1);
        }
        self.letters_seen += other.letters_seen;
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((_, from, to), (causes, answers)) in LINKS.iter().zip(self.links) {
            write!(formatter, "{causes} {from}: {answers} {to}, ")?;
        }
        write!(
            formatter,
            "{} letters, {} seen after kills",
            self.letters, self.letters_seen
        )
    }
}

/// Looks at the file after one life of the process.
pub(crate) fn look(file: &Path) -> Result<Found, Box<dyn Error>> {
    if !file.exists() {
        return Ok(Found::default());
    }
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'event'";
    if !connection.query_row(sql, [], |row| row.get::<_, bool>(0))? {
        return Ok(Found::default());
    }
    let mut found = Found::default();
    for (link, (name, from, to)) in LINKS.into_iter().enumerate() {
        let causes = sequences(&connection, from)?;
        let answers = answers(&connection, to)?;
        let letters = letters(&connection, name)?;
        let sql = "SELECT coalesce(max(position), 0) FROM cursor WHERE name = ?1";
        let cursor: i64 = connection.query_row(sql, [name], |row| row.get(0))?;
        for cause in &causes {
            let waits = letters
                .iter()
                .any(|(first, last)| (first..=last).contains(&cause));
            let expected = u32::from(*cause <= cursor && !waits);
            let count = answers.get(cause).copied().unwrap_or(0);
            if count != expected {
                return Err(format!(
                    "{name}: event {cause} has {count} answers, expected {expected} with the cursor at {cursor}, waits: {waits}"
                )
                .into());
            }
        }
        if let Some(stray) = answers.keys().find(|cause| !causes.contains(cause)) {
            return Err(format!("{name}: {to} says that it answers {stray}, which is no {from}").into());
        }
        found.links[link] = (causes.len() as u32, answers.values().sum());
        found.letters += letters.len();
    }
    Ok(found)
}

fn sequences(connection: &Connection, event_type: &str) -> rusqlite::Result<BTreeSet<i64>> {
    let sql = "SELECT event.sequence FROM event JOIN event_type AS type ON type.id = event.type WHERE type.name = ?1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([event_type], |row| row.get(0))?;
    rows.collect()
}

/// How many events of a type answer each cause.
fn answers(connection: &Connection, event_type: &str) -> rusqlite::Result<BTreeMap<i64, u32>> {
    let sql =
        "SELECT CAST(substr(event.metadata ->> 'causation_id', length('event:') + 1) AS INTEGER), count(*)
        FROM event JOIN event_type AS type ON type.id = event.type WHERE type.name = ?1 GROUP BY 1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([event_type], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn letters(connection: &Connection, stream: &str) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut statement =
        connection.prepare("SELECT first_sequence, last_sequence FROM dead_letter WHERE stream = ?1")?;
    let rows = statement.query_map([stream], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

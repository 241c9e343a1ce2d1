//! The limit: the same rows through plain rusqlite, in the same tables, with the same durability.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::Store;
use rusqlite::{Connection, params};

use crate::Failure;
use crate::order::{Fact, Order, RARE_TYPE, TYPE};

/// A connection to an empty log, made by millstream so that the tables are the same.
pub(crate) fn open(path: &Path) -> Result<Connection, Failure> {
    drop(Store::open(path)?);
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA foreign_keys=0")?;
    connection.execute("INSERT INTO event_type (id, name) VALUES (1, ?1)", [TYPE])?;
    Ok(connection)
}

/// Inserts transactions of `batch` rows, and says how long each took, from the making of the payload to the commit.
pub(crate) fn append(
    connection: &Connection,
    transactions: usize,
    batch: usize,
    batch_size: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut insert = connection.prepare(
        "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata)
         VALUES (?1, ?2, ?3, ?4, 1, NULL, ?5, NULL)",
    )?;
    let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
    let mut commit = connection.prepare("COMMIT")?;
    let mut sequence: i64 =
        connection.query_row("SELECT coalesce(max(sequence), 0) FROM event", [], |row| {
            row.get(0)
        })?;
    let mut times = Vec::with_capacity(transactions);
    for _ in 0..transactions {
        let started = Instant::now();
        begin.execute([])?;
        for index in 0..batch {
            sequence += 1;
            let payload = serde_json::to_string(&Order::new(sequence as u64))?;
            let place = (index % batch_size) as i64;
            insert.execute(params![
                sequence,
                place,
                batch_size as i64,
                1_700_000_000_000_000_i64,
                payload
            ])?;
        }
        commit.execute([])?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// The columns of an event, owned.
struct OwnedRow {
    _sequence: i64,
    _batch_index: i64,
    _batch_size: i64,
    _recorded_at: i64,
    _event_type: i64,
    _tags: Option<String>,
    _payload: String,
    _metadata: Option<String>,
}

/// Reads all rows in order into owned values, one after the other.
pub(crate) fn scan(path: &Path) -> Result<Duration, Failure> {
    let connection = Connection::open(path)?;
    let started = Instant::now();
    let mut statement = connection.prepare(
        "SELECT sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata
         FROM event ORDER BY sequence",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(OwnedRow {
            _sequence: row.get(0)?,
            _batch_index: row.get(1)?,
            _batch_size: row.get(2)?,
            _recorded_at: row.get(3)?,
            _event_type: row.get(4)?,
            _tags: row.get(5)?,
            _payload: row.get(6)?,
            _metadata: row.get(7)?,
        })
    })?;
    for row in rows {
        black_box(row?);
    }
    Ok(started.elapsed())
}

/// Decodes all payloads, which are in memory, and says how long that took; the reading is not counted.
pub(crate) fn decode(path: &Path) -> Result<Duration, Failure> {
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare(
        "SELECT event_type.name, payload FROM event JOIN event_type ON event_type.id = event.type
         ORDER BY sequence",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    let started = Instant::now();
    for (event_type, payload) in &rows {
        let fact = match &**event_type {
            TYPE => Fact::OrderPlaced(serde_json::from_str(payload)?),
            RARE_TYPE => Fact::OrderRefunded(serde_json::from_str(payload)?),
            other => return Err(format!("there is no type {other}").into()),
        };
        drop(black_box(fact));
    }
    Ok(started.elapsed())
}

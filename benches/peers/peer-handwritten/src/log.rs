//! The table, and the thread that writes it.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};
use scenario::Failure;
use tokio::sync::{broadcast, mpsc, oneshot};

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub position: i64,
    pub order: String,
    pub payload: String,
}

/// What was committed together, shared by all receivers.
pub type Batch = Arc<[Row]>;

pub enum Request {
    Append {
        rows: Vec<Row>,
        done: oneshot::Sender<Result<(), Failure>>,
    },
    /// A handler has got so far. Nobody waits for it.
    Cursor { name: Arc<str>, position: i64 },
}

/// How many requests share a commit.
const GROUP_MAX: usize = 1024;

/// Opens the file: WAL, and a sync with every commit.
pub fn open(path: &std::path::Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS event (position INTEGER PRIMARY KEY, key TEXT NOT NULL, payload TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS event_key ON event (key);
         CREATE TABLE IF NOT EXISTS cursor (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;",
    )?;
    Ok(connection)
}

/// The position of the newest event.
pub fn head(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(position), 0) FROM event", [], |row| {
        row.get(0)
    })
}

/// Commits what is queued in one transaction, tells the receivers in order, and answers the callers.
pub fn write(mut connection: Connection, mut queue: mpsc::Receiver<Request>, news: broadcast::Sender<Batch>) {
    let mut head = head(&connection).expect("the table was just made");
    let mut group = Vec::with_capacity(GROUP_MAX);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let committed = commit(&mut connection, &mut head, &mut group);
        for request in group.drain(..) {
            let Request::Append { rows, done } = request else {
                continue;
            };
            let outcome = committed
                .as_ref()
                .map_err(|error| Failure::from(error.to_string()));
            if outcome.is_ok() {
                // Without receivers there is nobody to tell.
                let _ = news.send(rows.into());
            }
            let _ = done.send(outcome.copied());
        }
    }
}

fn commit(connection: &mut Connection, head: &mut i64, group: &mut [Request]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut position = *head;
    for request in group {
        match request {
            Request::Append { rows, .. } => {
                let sql = "INSERT INTO event (position, key, payload) VALUES (?1, ?2, ?3)";
                let mut insert = transaction.prepare_cached(sql)?;
                for row in rows {
                    position += 1;
                    row.position = position;
                    insert.execute(params![row.position, row.order, row.payload])?;
                }
            }
            Request::Cursor { name, position } => {
                let sql = "INSERT INTO cursor (name, position) VALUES (?1, ?2)
                           ON CONFLICT (name) DO UPDATE SET position = excluded.position";
                transaction
                    .prepare_cached(sql)?
                    .execute(params![&**name, *position])?;
            }
        }
    }
    transaction.commit()?;
    *head = position;
    Ok(())
}

/// Up to so many rows after a position.
pub fn read(connection: &Connection, after: i64, rows_max: usize) -> rusqlite::Result<Vec<Row>> {
    let sql = "SELECT position, key, payload FROM event WHERE position > ?1 ORDER BY position LIMIT ?2";
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map(params![after, rows_max as i64], |row| {
        Ok(Row {
            position: row.get(0)?,
            order: row.get(1)?,
            payload: row.get(2)?,
        })
    })?;
    rows.collect()
}

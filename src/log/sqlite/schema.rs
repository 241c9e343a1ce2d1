//! The tables, their migrations, and the files that are refused.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::clock::Timestamp;
use crate::error::OpenError;
use crate::log::opening::Absent;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::index::path::{PATHS_MAX, PayloadPath};
use crate::log::sqlite::index::run;

/// `application_id` of a millstream log: "mstm" in ASCII.
const APPLICATION_ID: i64 = 0x6d73_746d;

/// One step per format version, in order. A step that was released is never changed; `user_version` counts those done.
/// New tables after these are called `millstream_...`: any other name may be that of a table of a read model in this file.
const MIGRATIONS: &[&str] = &[FORMAT_1, FORMAT_2, FORMAT_3, FORMAT_4, FORMAT_5, FORMAT_6];

const FORMAT_1: &str = r#"
-- One row: what belongs to the log as a whole.
CREATE TABLE log (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- The highest sequence that was removed by hand, so that it is not given to another event.
    removed_through INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE event_type (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    -- The event's place in its batch, from 0, and the number of events in that batch.
    batch_index INTEGER NOT NULL,
    batch_size INTEGER NOT NULL,
    -- Microseconds since the Unix epoch.
    recorded_at INTEGER NOT NULL,
    type INTEGER NOT NULL REFERENCES event_type (id),
    -- A JSON array of texts; NULL: no tags.
    tags TEXT,
    payload TEXT NOT NULL,
    -- A JSON object; NULL: no metadata.
    metadata TEXT
) STRICT;

-- Its entries end with the sequence, which is the rowid.
CREATE INDEX event_by_type ON event (type);

-- A row per event and tag: the 64-bit FNV-1a hash of the tag, and the event that carries it.
CREATE TABLE event_tag (
    tag INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (tag, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    query TEXT NOT NULL,
    log_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event
BEGIN
    SELECT raise(ABORT, 'events never change');
END;

CREATE TRIGGER event_removed AFTER DELETE ON event
BEGIN
    UPDATE log SET removed_through = max(removed_through, old.sequence);
END;

CREATE VIEW events AS
SELECT
    event.sequence,
    strftime('%Y-%m-%dT%H:%M:%f', event.recorded_at / 1000000.0, 'unixepoch') || 'Z' AS recorded_at,
    event_type.name AS type,
    event.tags,
    event.payload,
    event.metadata,
    event.sequence - event.batch_index AS batch_first_sequence,
    event.batch_size
FROM event JOIN event_type ON event_type.id = event.type;
"#;

const FORMAT_2: &str = r#"
-- Every entry of the events up to here stands in a run of the index; the generation changes with the runs.
ALTER TABLE log ADD COLUMN indexed_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN index_generation INTEGER NOT NULL DEFAULT 0;

-- Everything up to here was pruned, and when the last of it was recorded.
ALTER TABLE log ADD COLUMN pruned_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN pruned_recorded_at INTEGER NOT NULL DEFAULT 0;

-- Pruned rows are known by one number and cost no update each.
DROP TRIGGER event_removed;
CREATE TRIGGER event_removed AFTER DELETE ON event
WHEN old.sequence > (SELECT pruned_through FROM log)
BEGIN
    UPDATE log SET removed_through = max(removed_through, old.sequence);
END;

-- A row per run: the sorted entries of the events after one sequence, up to and with another.
CREATE TABLE index_run (
    run INTEGER PRIMARY KEY,
    level INTEGER NOT NULL,
    after INTEGER NOT NULL,
    through INTEGER NOT NULL
) STRICT;

-- The entries of the runs, in blocks: for each a key (the hash of a tag, or of an indexed path with its scalar) and a sequence.
CREATE TABLE index_block (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    first_key INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    entries BLOB NOT NULL
) STRICT;
CREATE INDEX index_block_by_key ON index_block (run, first_key, first_sequence);

-- Runs of a level that are becoming one, and the entry that comes next.
CREATE TABLE index_merge (
    level INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    after INTEGER NOT NULL,
    through INTEGER NOT NULL,
    next_key INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL
) STRICT;

-- Runs that are out of use and whose blocks are still there.
CREATE TABLE index_garbage (
    run INTEGER PRIMARY KEY
) STRICT;

-- Paths into the payload whose scalars are keys, as JSON pointers.
CREATE TABLE index_path (
    path TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- The index is made again from the events, step by step.
DROP TABLE event_tag;
"#;

const FORMAT_3: &str = r#"
-- The newest number that was given to a registration or to a word from outside. None is given twice, whatever rows are removed.
ALTER TABLE log ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
UPDATE log SET epoch = (SELECT coalesce(max(epoch), 0) FROM cursor);

-- The epoch of the newest registration. The epoch itself is newer after a word from outside that moved the cursor.
ALTER TABLE cursor ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
-- Who paused the stream and since when, in microseconds since the Unix epoch; NULL: it is not paused.
ALTER TABLE cursor ADD COLUMN paused_by TEXT;
ALTER TABLE cursor ADD COLUMN paused_at INTEGER;
-- The number of the newest word from outside (pause, reset and the like): whoever runs the stream reads the row again then.
ALTER TABLE cursor ADD COLUMN steering INTEGER NOT NULL DEFAULT 0;
-- What is noted of the batch that the handler was given: its first event, and how often it was given. 0 and 1: a run is under
-- way, and nothing is noted. 0 and 0: the last run ended in order.
ALTER TABLE cursor ADD COLUMN attempt_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursor ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;

-- What the failure policy of a durable stream set aside, or had to leave behind it.
CREATE TABLE dead_letter (
    stream TEXT NOT NULL,
    -- The first and the last of the selected events that it stands for.
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    -- Their sequences, as a JSON array; NULL: all from the first to the last.
    sequences TEXT,
    -- The key whose later events queue behind it; NULL: nothing does.
    key TEXT,
    -- 'parked': its handling failed; 'queued': it waits behind a parked one of its key; 'skipped': it is only recorded.
    state TEXT NOT NULL,
    -- 'error', 'panic', 'timeout', 'undecodable' or 'crash'; NULL for one that is queued.
    category TEXT,
    cause TEXT,
    attempts INTEGER NOT NULL,
    -- Microseconds since the Unix epoch.
    first_failed_at INTEGER,
    last_failed_at INTEGER,
    parked_at INTEGER NOT NULL,
    PRIMARY KEY (stream, first_sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_letter_by_key ON dead_letter (stream, key, first_sequence) WHERE key IS NOT NULL;
CREATE INDEX dead_letter_that_waits ON dead_letter (first_sequence) WHERE state <> 'skipped';
"#;

const FORMAT_4: &str = r#"
-- The newest request to retry dead letters of the stream, a JSON object; NULL: there was none.
ALTER TABLE cursor ADD COLUMN retry TEXT;
"#;

const FORMAT_5: &str = r#"
-- A row per type and schema version, so that the version of an event takes no room in its row. The new table takes the pages of
-- the one before.
CREATE TEMP TABLE event_type_before AS SELECT id, name FROM main.event_type;
DROP VIEW events;
DROP TABLE main.event_type;
CREATE TABLE event_type (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    schema_version INTEGER NOT NULL DEFAULT 1 CHECK (schema_version BETWEEN 1 AND 4294967295),
    UNIQUE (name, schema_version)
) STRICT;
INSERT INTO event_type (id, name) SELECT id, name FROM temp.event_type_before;
DROP TABLE temp.event_type_before;

CREATE VIEW events AS
SELECT
    event.sequence,
    strftime('%Y-%m-%dT%H:%M:%f', event.recorded_at / 1000000.0, 'unixepoch') || 'Z' AS recorded_at,
    event_type.name AS type,
    event.tags,
    event.payload,
    event.metadata,
    event.sequence - event.batch_index AS batch_first_sequence,
    event.batch_size,
    event_type.schema_version
FROM event JOIN event_type ON event_type.id = event.type;
"#;

const FORMAT_6: &str = r#"
-- A row per batch that was appended under an idempotency key: what is asked for again with the key is that batch.
CREATE TABLE idempotency_key (
    first_sequence INTEGER PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    key TEXT NOT NULL UNIQUE,
    -- 16 bytes that stand for what the events said.
    fingerprint BLOB NOT NULL
) STRICT;

-- The id of the log of which this is a copy that has not ended; NULL: this is a whole log.
ALTER TABLE log ADD COLUMN copy_of TEXT;

-- Who has the log open and runs durable streams in it, or stands by for some. As long as it lives it holds a lock on the file of this
-- id in the folder beside the log.
CREATE TABLE instance (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    process INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- 'owner': the instance runs the stream, and gives it away when that is fair. 'sole-owner': it runs it and keeps it. 'standby': it waits to. 'heir': the owner gave it the stream, and it has yet to take it.
CREATE TABLE claim (
    stream TEXT NOT NULL,
    instance TEXT NOT NULL,
    role TEXT NOT NULL,
    -- Microseconds since the Unix epoch.
    since INTEGER NOT NULL,
    PRIMARY KEY (stream, instance)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX claim_of_owner ON claim (stream) WHERE role IN ('owner', 'sole-owner');
CREATE INDEX claim_that_waits ON claim (stream) WHERE role IN ('standby', 'heir');
CREATE INDEX claim_by_instance ON claim (instance);
"#;

/// What an empty file becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made<'a> {
    Log,
    /// A copy in the making of the log with this id.
    CopyOf(&'a str),
}

/// What stands in a file, before anything of it is changed.
pub(super) enum Found {
    Nothing,
    Log(String),
    CopyOf(String),
}

/// Looks at a file, of whatever format, and changes nothing. A foreign or newer one is refused.
pub(super) fn look(connection: &Connection, path: &Path) -> Result<Found, OpenError> {
    if read_format(connection, path)? == 0 {
        return Ok(Found::Nothing);
    }
    let failed = storage("read the log's row");
    let has_mark = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('log') WHERE name = 'copy_of')";
    let has_mark: bool = connection
        .query_row(has_mark, [], |row| row.get(0))
        .map_err(&failed)?;
    if has_mark && let Some(log_id) = copy_of(connection).map_err(&failed)? {
        return Ok(Found::CopyOf(log_id));
    }
    let log_id = connection.query_row("SELECT log_id FROM log", [], |row| row.get(0));
    Ok(Found::Log(log_id.map_err(failed)?))
}

/// The log that a file of the newest format is a copy in the making of; nothing: it is a whole log.
pub(super) fn copy_of(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT copy_of FROM log")?;
    statement.query_row([], |row| row.get(0))
}

/// Makes the file a log of the newest format, in write-ahead mode, and returns the log's id. A foreign or newer file is left
/// untouched.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    absent: Absent,
    made: Made<'_>,
) -> Result<String, OpenError> {
    if read_format(connection, path)? == 0 && absent == Absent::Refused {
        return Err(OpenError::ForeignFile {
            path: path.to_owned(),
            found: String::from("it is empty"),
        });
    }
    // A copy made by SQLite may have lost the mode.
    let mode: String = connection
        .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
        .map_err(storage("switch to the write-ahead log"))?;
    if mode != "wal" {
        let path = path.to_owned();
        return Err(OpenError::NoWriteAheadLog { path, mode });
    }
    make_tables(connection, path, made)
}

/// Brings the tables to the newest format and returns the log's id.
#[cfg(any(test, feature = "internals"))]
pub(super) fn prepare_tables(connection: &mut Connection, path: &Path) -> Result<String, OpenError> {
    make_tables(connection, path, Made::Log)
}

fn make_tables(connection: &mut Connection, path: &Path, made: Made<'_>) -> Result<String, OpenError> {
    let supported = i64::try_from(MIGRATIONS.len()).expect("there are few migrations");
    if read_format(connection, path)? < supported {
        migrate(connection, path, made)?;
    }
    connection
        .query_row("SELECT log_id FROM log", [], |row| row.get(0))
        .map_err(|error| storage("read the log's id")(error).into())
}

/// Adds to the indexed paths.
pub(super) fn declare_paths(connection: &mut Connection, paths: &[PayloadPath]) -> Result<(), OpenError> {
    if paths.is_empty() {
        return Ok(());
    }
    let failed = storage("declare the indexed paths");
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(&failed)?;
    let count = run::declare_paths(&transaction, paths).map_err(&failed)?;
    if count > PATHS_MAX {
        return Err(OpenError::InvalidOption {
            option: "index_payload",
            value: format!("{count} paths in all"),
            problem: "too many; a log has 16 at most",
        });
    }
    transaction.commit().map_err(|error| failed(error).into())
}

/// The format of the file: 0 for a new one.
fn read_format(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    let read = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(storage("read the file's format"))
    };
    let application = read("PRAGMA application_id")?;
    let format = read("PRAGMA user_version")?;
    let supported = i64::try_from(MIGRATIONS.len()).expect("there are few migrations");
    let found = if application == APPLICATION_ID && format > supported {
        return Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported,
        });
    } else if application == APPLICATION_ID {
        return Ok(format);
    } else if application != 0 {
        format!("it is a database of the application {application:#010x}")
    } else if read("SELECT count(*) FROM sqlite_schema")? > 0 {
        let names: String = connection
            .query_row(
                "SELECT group_concat(name, ', ') FROM (SELECT name FROM sqlite_schema WHERE type = 'table' LIMIT 5)",
                [],
                |row| row.get(0),
            )
            .unwrap_or_default();
        format!("it is another SQLite database, with the tables {names}")
    } else {
        return Ok(0);
    };
    Err(OpenError::ForeignFile {
        path: path.to_owned(),
        found,
    })
}

fn migrate(connection: &mut Connection, path: &Path, made: Made<'_>) -> Result<(), OpenError> {
    let failed = storage("migrate the file");
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(&failed)?;
    // Another process may have migrated while this one waited for the transaction.
    let done = usize::try_from(read_format(&transaction, path)?).unwrap_or(0);
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        transaction.execute_batch(step).map_err(&failed)?;
        if index == 0 {
            initialise(&transaction).map_err(&failed)?;
        }
    }
    if let (0, Made::CopyOf(log_id)) = (done, made) {
        // In the transaction that makes it a log: nobody finds one that is neither.
        let marked = transaction.execute("UPDATE log SET log_id = ?1, copy_of = ?1", [log_id]);
        marked.map_err(&failed)?;
    }
    let format = MIGRATIONS.len();
    transaction
        .execute_batch(&format!(
            "PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={format}"
        ))
        .and_then(|()| transaction.commit())
        .map_err(|error| failed(error).into())
}

fn initialise(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO log (one, log_id, created_at) VALUES (1, lower(hex(randomblob(16))), ?1)",
        [Timestamp::now().as_micros()],
    )?;
    Ok(())
}

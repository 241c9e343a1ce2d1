//! What the log's file says of the read models in it. The tables are made with the first model.
//!
//! No statement is cached: the connection is the one on which the user's code finds what is cached under the same text.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::{ReadModelError, StorageError};
use crate::log::sqlite::beside::Desk;
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::guard::Rules;
use crate::projection::build::Spec;
use crate::projection::models::stream_name;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS millstream_model (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    query TEXT NOT NULL,
    schema TEXT NOT NULL,
    -- Everything up to here that the query selects is applied or set aside.
    position INTEGER NOT NULL,
    -- The registration of the stream that the position went along with; 0: none yet.
    owner INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
-- What the schema of a model made.
CREATE TABLE IF NOT EXISTS millstream_model_object (
    object TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Dead letters that were applied later, by their first event, so that none is applied twice.
CREATE TABLE IF NOT EXISTS millstream_model_retried (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    PRIMARY KEY (name, version, first_sequence)
) STRICT, WITHOUT ROWID;
";

/// Names, in lower case.
pub(super) type Names = Arc<BTreeSet<String>>;

/// A model that is there now.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) position: u64,
    pub(super) owner: u64,
    /// Where the cursor of its stream is, and the registration that owns it.
    pub(super) cursor: Option<(u64, u64)>,
    /// What belongs to it.
    pub(super) own: Names,
    /// What else there is.
    pub(super) others: Names,
}

/// A model's row.
pub(super) struct Stored {
    query: String,
    schema: String,
    pub(super) position: u64,
    owner: u64,
}

/// Finds a model, or makes it with its schema.
pub(super) fn open(desk: &Desk<'_>, spec: &Spec, budget: Duration) -> Result<Opened, ReadModelError> {
    let failed = storage("open a read model in the log's file");
    desk.tx().execute_batch(TABLES).map_err(&failed)?;
    let stored = match find(desk.tx(), spec)? {
        Some(stored) => stored.check(spec)?,
        None => {
            make(desk, spec, budget)?;
            Stored {
                query: String::new(),
                schema: String::new(),
                position: 0,
                owner: 0,
            }
        }
    };
    let own = own(desk.tx(), spec).map_err(&failed)?;
    let others = desk.names()?.difference(&own).cloned().collect();
    let cursor = desk.cursor(&stream_name(&spec.name, spec.version))?;
    Ok(Opened {
        position: stored.position,
        owner: stored.owner,
        cursor: cursor.map(|cursor| (cursor.position, cursor.owner)),
        own: Arc::new(own),
        others: Arc::new(others),
    })
}

/// Where the stream of a model would begin that is there, when it was opened. Refused is what would be refused then.
pub(super) fn begins_at(desk: &Desk<'_>, spec: &Spec) -> Result<Option<u64>, ReadModelError> {
    if !desk.names()?.contains("millstream_model") {
        return Ok(None);
    }
    let Some(stored) = find(desk.tx(), spec)? else {
        return Ok(None);
    };
    let stored = stored.check(spec)?;
    let cursor = desk.cursor(&stream_name(&spec.name, spec.version))?;
    let cursor = cursor.map(|cursor| (cursor.position, cursor.owner));
    Ok(Some(first(stored.position, stored.owner, cursor)))
}

impl Opened {
    pub(super) fn begins_at(&self) -> u64 {
        first(self.position, self.owner, self.cursor)
    }
}

/// Where the stream begins. Its cursor may be ahead of the position, over what was not selected or was set aside; it counts when it
/// is the one that the position went along with, and not one that something else left under this name.
fn first(position: u64, owner: u64, cursor: Option<(u64, u64)>) -> u64 {
    match cursor {
        Some((cursor, of)) if of == owner => cursor.max(position),
        _ => position,
    }
}

impl Stored {
    /// Refuses a row that does not fit the projection.
    fn check(self, spec: &Spec) -> Result<Self, ReadModelError> {
        let what = if self.query != spec.query {
            "query"
        } else if self.schema != spec.schema {
            "schema"
        } else {
            return Ok(self);
        };
        Err(ReadModelError::Changed {
            name: spec.name.clone(),
            version: spec.version,
            what,
        })
    }
}

/// The model's row, if there is one.
pub(super) fn find(tx: &Connection, spec: &Spec) -> Result<Option<Stored>, StorageError> {
    let row = tx.query_row(
        "SELECT query, schema, position, owner FROM millstream_model WHERE name = ?1 AND version = ?2",
        params![spec.name, spec.version],
        |row| {
            Ok(Stored {
                query: row.get(0)?,
                schema: row.get(1)?,
                position: row.get::<_, i64>(2)? as u64,
                owner: row.get::<_, i64>(3)? as u64,
            })
        },
    );
    row.optional().map_err(storage("read a read model's row"))
}

/// Runs the schema, and writes down what it made.
fn make(desk: &Desk<'_>, spec: &Spec, budget: Duration) -> Result<(), ReadModelError> {
    let others = desk.names()?;
    let rules = Rules::Make {
        own: BTreeSet::new(),
        others: Arc::clone(&others),
    };
    let (made, verdict) = desk.foreign(rules, budget, |tx| tx.execute_batch(&spec.schema));
    verdict.map_err(|source| ReadModelError::InLog {
        name: spec.name.clone(),
        version: spec.version,
        source,
    })?;
    made.map_err(|error| ReadModelError::Schema {
        name: spec.name.clone(),
        version: spec.version,
        error: error.to_string().into(),
    })?;
    let write = || {
        let mut objects = desk.tx().prepare("SELECT name, type FROM sqlite_schema")?;
        let objects =
            objects.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        for object in objects {
            let (object, kind) = object?;
            let name = object.to_ascii_lowercase();
            // What SQLite makes for a table goes with it.
            if !others.contains(&name) && !name.starts_with("sqlite_") {
                desk.tx().execute(
                    "INSERT INTO millstream_model_object (object, type, name, version) VALUES (?1, ?2, ?3, ?4)",
                    params![object, kind, spec.name, spec.version],
                )?;
            }
        }
        desk.tx().execute(
            "INSERT INTO millstream_model (name, version, query, schema, position, owner, updated_at)
             VALUES (?1, ?2, ?3, ?4, 0, 0, ?5)",
            params![
                spec.name,
                spec.version,
                spec.query,
                spec.schema,
                Timestamp::now().as_micros()
            ],
        )
    };
    write().map_err(storage("make a read model in the log's file"))?;
    Ok(())
}

/// The names of what belongs to a model.
fn own(tx: &Connection, spec: &Spec) -> rusqlite::Result<BTreeSet<String>> {
    let mut own =
        tx.prepare("SELECT lower(object) FROM millstream_model_object WHERE name = ?1 AND version = ?2")?;
    let own = own.query_map(params![spec.name, spec.version], |row| row.get(0))?;
    own.collect()
}

/// Moves the position, which went along with a registration of the stream.
pub(super) fn move_to(tx: &Connection, spec: &Spec, position: u64, owner: u64) -> Result<(), StorageError> {
    let moved = tx.execute(
        "UPDATE millstream_model SET position = ?3, owner = ?4, updated_at = ?5 WHERE name = ?1 AND version = ?2",
        params![
            spec.name,
            spec.version,
            position as i64,
            owner as i64,
            Timestamp::now().as_micros()
        ],
    );
    moved.map(drop).map_err(storage("move a read model"))
}

/// Whether a dead letter was applied, whose letter could not be removed afterwards.
pub(super) fn has_applied(tx: &Connection, spec: &Spec, first: u64) -> Result<bool, StorageError> {
    let asked = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM millstream_model_retried
         WHERE name = ?1 AND version = ?2 AND first_sequence = ?3)",
        params![spec.name, spec.version, first as i64],
        |row| row.get(0),
    );
    asked.map_err(storage("look up a dead letter"))
}

/// Writes down that a dead letter was applied.
pub(super) fn note_applied(tx: &Connection, spec: &Spec, first: u64) -> Result<(), StorageError> {
    let noted = tx.execute(
        "INSERT OR REPLACE INTO millstream_model_retried (name, version, first_sequence) VALUES (?1, ?2, ?3)",
        params![spec.name, spec.version, first as i64],
    );
    noted.map(drop).map_err(storage("note a dead letter"))
}

/// Removes a model with all that its schema made. `false`: there is none.
pub(super) fn remove(tx: &Connection, name: &str, version: u32) -> rusqlite::Result<bool> {
    let is_known = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'millstream_model')";
    if !tx.query_row(is_known, [], |row| row.get(0))? {
        return Ok(false);
    }
    let mut objects = tx.prepare(
        // Indexes and triggers go with their tables.
        "SELECT object, type FROM millstream_model_object
         WHERE name = ?1 AND version = ?2 AND type IN ('table', 'view')",
    )?;
    let objects = objects.query_map(params![name, version], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let objects: Vec<(String, String)> = objects.collect::<rusqlite::Result<_>>()?;
    for (object, kind) in objects {
        let object = object.replace('"', "\"\"");
        tx.execute_batch(&format!("DROP {kind} IF EXISTS \"{object}\""))?;
    }
    for table in ["millstream_model_object", "millstream_model_retried"] {
        let sql = format!("DELETE FROM {table} WHERE name = ?1 AND version = ?2");
        tx.execute(&sql, params![name, version])?;
    }
    let removed = tx.execute(
        "DELETE FROM millstream_model WHERE name = ?1 AND version = ?2",
        params![name, version],
    )?;
    Ok(removed > 0)
}

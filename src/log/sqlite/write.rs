//! The writing half: the committer's connection and its transaction.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::event::record::{EventRecord, TAG_SEPARATOR};
use crate::log::cursor::{CursorWrite, StoredCursor};
use crate::log::page::{Page, PageBounds, Range};
use crate::log::sqlite::connection::{Durability, ORDERED, storage};
use crate::log::sqlite::index::run;
use crate::log::sqlite::index::upkeep::{Chore, Upkeep};
use crate::log::sqlite::read::{self, Source, TypeNames};
use crate::log::{LogWriter, Pace, Sync, Tail};

pub(crate) struct SqliteWriter {
    connection: Connection,
    durability: Durability,
    /// The ids of types that are known to be in the committed log. Ids made by a transaction wait in `new_types`.
    type_ids: HashMap<Arc<str>, i64>,
    new_types: Vec<(Arc<str>, i64)>,
    type_names: TypeNames,
    index: Upkeep,
    /// The last sequence that the transaction inserted; 0, if none.
    inserted_through: u64,
    chore: Option<Chore>,
    /// What the connection's next commit is set to.
    sync: Sync,
}

impl SqliteWriter {
    pub(super) fn new(connection: Connection, durability: Durability, index: Upkeep) -> Self {
        Self {
            connection,
            durability,
            type_ids: HashMap::new(),
            new_types: Vec::new(),
            type_names: TypeNames::default(),
            index,
            inserted_through: 0,
            chore: None,
            sync: Sync::Durable,
        }
    }

    /// Reads a page of what `query` selects, as the transaction, or the newest commit, shows it.
    pub(super) fn select(
        &mut self,
        query: &EventQuery,
        range: Range,
        bounds: PageBounds,
    ) -> Result<Page, ReadError> {
        read::page(&mut self.source(), query, range, bounds)
    }

    fn source(&mut self) -> Source<'_> {
        Source {
            connection: &self.connection,
            type_names: &mut self.type_names,
            index: &mut self.index.view,
        }
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    /// The number that stands for a type, made on its first use.
    fn type_id(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(id) = self.type_ids.get(name) {
            return Ok(*id);
        }
        if let Some((_, id)) = self.new_types.iter().find(|(known, _)| known == name) {
            return Ok(*id);
        }
        let known = self
            .statement("SELECT id FROM event_type WHERE name = ?1")?
            .query_row([&**name], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => self
                .statement("INSERT INTO event_type (name) VALUES (?1)")?
                .insert([&**name])?,
        };
        self.new_types.push((Arc::clone(name), id));
        Ok(id)
    }

    fn insert(&mut self, batch: &CommittedBatch) -> rusqlite::Result<()> {
        let type_ids = batch
            .events
            .iter()
            .map(|event| self.type_id(&event.event_type))
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let mut insert_event = self.statement(
            "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut tags_json = String::new();
        for (event, type_id) in batch.events.iter().zip(type_ids) {
            tags_json.clear();
            push_tags_json(&mut tags_json, event);
            insert_event.execute(params![
                event.sequence as i64,
                (event.sequence - batch.first_sequence) as i64,
                batch.events.len() as i64,
                batch.recorded_at.as_micros(),
                type_id,
                (!tags_json.is_empty()).then_some(tags_json.as_str()),
                event.payload.as_str(),
                event.metadata.as_ref().map(|metadata| metadata.as_str()),
            ])?;
        }
        Ok(())
    }

    fn read_tail(&self) -> rusqlite::Result<Tail> {
        let mut statement = self.statement(
            "SELECT removed_through, (SELECT max(sequence) FROM event),
                    (SELECT recorded_at FROM event ORDER BY sequence DESC LIMIT 1)
             FROM log",
        )?;
        statement.query_row([], |row| {
            let removed: i64 = row.get(0)?;
            let newest: Option<i64> = row.get(1)?;
            let recorded_at: Option<i64> = row.get(2)?;
            Ok(Tail {
                head: newest.unwrap_or(0).max(removed) as u64,
                recorded_at: Timestamp::from_micros(recorded_at.unwrap_or(0)),
            })
        })
    }

    /// The level can only be changed between transactions.
    fn set_sync(&mut self, sync: Sync) -> rusqlite::Result<()> {
        if self.sync != sync {
            self.connection.execute_batch(match sync {
                Sync::Durable => self.durability.pragma(),
                Sync::Ordered => ORDERED,
            })?;
            self.sync = sync;
        }
        Ok(())
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.statement(sql)?.execute([])?;
        Ok(())
    }
}

/// Adds the event's tags as a JSON array; nothing, when there are none.
fn push_tags_json(json: &mut String, event: &EventRecord) {
    if event.tags.is_empty() {
        return;
    }
    let mut separator = '[';
    for tag in event.tags() {
        debug_assert!(!tag.contains(TAG_SEPARATOR), "control characters are refused");
        json.push(separator);
        if tag.contains(['"', '\\']) {
            json.push_str(&serde_json::Value::from(tag).to_string());
        } else {
            json.push('"');
            json.push_str(tag);
            json.push('"');
        }
        separator = ',';
    }
    json.push(']');
}

impl LogWriter for SqliteWriter {
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError> {
        self.set_sync(sync)
            .and_then(|()| self.execute("BEGIN IMMEDIATE"))
            .and_then(|()| {
                let tail = self.read_tail()?;
                let stand = run::stand(&self.connection)?;
                self.index.begin(&self.connection, tail.head, stand)?;
                Ok(tail)
            })
            .map_err(storage("begin a transaction"))
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        let tail = self.read_tail().map_err(storage("read the head"))?;
        self.index.saw(tail.head);
        Ok(tail)
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        self.insert(batch).map_err(storage("append"))?;
        self.index.append(batch);
        self.inserted_through = batch.last_sequence;
        Ok(())
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        read::first_match(&mut self.source(), query, after)
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        let event = read::event_at(&mut self.source(), sequence)?;
        Ok(event.is_some_and(|event| query.matches(&event)))
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        read::position_at(&self.connection, time).map_err(storage("find the time"))
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        let read = || {
            self.statement("SELECT position, query, log_id, epoch FROM cursor WHERE name = ?1")?
                .query_row([name], |row| {
                    Ok(StoredCursor {
                        position: row.get::<_, i64>(0)? as u64,
                        query: row.get(1)?,
                        log_id: row.get(2)?,
                        epoch: row.get::<_, i64>(3)? as u64,
                    })
                })
                .optional()
        };
        read().map_err(storage("read a cursor"))
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        let write = || {
            self.statement(
                "INSERT OR REPLACE INTO cursor (name, position, query, log_id, epoch, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                name,
                cursor.position as i64,
                cursor.query,
                cursor.log_id,
                cursor.epoch as i64,
                Timestamp::now().as_micros(),
            ])
        };
        write().map_err(storage("register a cursor"))?;
        Ok(())
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        let update = || {
            self.statement("UPDATE cursor SET position = ?3, updated_at = ?4 WHERE name = ?1 AND epoch = ?2")?
                .execute(params![
                    write.name,
                    write.epoch as i64,
                    write.position as i64,
                    Timestamp::now().as_micros(),
                ])
        };
        Ok(update().map_err(storage("store a cursor"))? > 0)
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        self.execute("COMMIT").map_err(storage("commit"))?;
        self.type_ids.extend(self.new_types.drain(..));
        self.index.committed(self.inserted_through);
        self.inserted_through = 0;
        Ok(())
    }

    fn rollback(&mut self) {
        self.new_types.clear();
        self.index.rolled_back();
        self.inserted_through = 0;
        // A number that the transaction gave to a type will be given to another one.
        self.type_names = TypeNames::default();
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        self.select(&EventQuery::all(), range, bounds)
    }

    fn has_chore(&mut self, pace: Pace) -> bool {
        self.chore = self.index.chore(pace == Pace::Idle);
        self.chore.is_some()
    }

    fn do_chore(&mut self) -> Result<(), StorageError> {
        let Some(chore) = self.chore.take() else {
            return Ok(());
        };
        if self.index.chore(true) != Some(chore) {
            // What another process did meanwhile was seen when the transaction began.
            return Ok(());
        }
        let done = self.index.perform(&self.connection, chore);
        done.map_err(storage("keep the index up"))
    }

    fn data_version(&mut self) -> Result<i64, StorageError> {
        self.statement("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(storage("look for commits of others"))
    }
}

//! The writing half: the committer's connection and its transaction.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::log::beside::{BesideWork, Written};
use crate::log::cursor::{CursorWrite, RollCall, StoredCursor};
use crate::log::opening::Durability;
use crate::log::page::{Page, PageBounds, Range};
use crate::log::prune::HeldBy;
use crate::log::sqlite::checkpoint::Checkpoints;
use crate::log::sqlite::connection::{ORDERED, storage};
use crate::log::sqlite::cursor;
use crate::log::sqlite::index::run;
use crate::log::sqlite::index::upkeep::{Chore, Upkeep};
use crate::log::sqlite::insert::{self, ROWS_AT_ONCE, Row};
use crate::log::sqlite::names::TypeNames;
use crate::log::sqlite::pages::Source;
use crate::log::sqlite::presence::Presence;
use crate::log::sqlite::turns::Turns;
use crate::log::sqlite::{beside, once, prune, read};
use crate::log::{LogWriter, Pace, Sync, Tail};

pub(crate) struct SqliteWriter {
    connection: Connection,
    durability: Durability,
    /// The ids of types that are known to be in the committed log, one for each schema version. Ids made by a transaction wait
    /// in `new_types`.
    type_ids: HashMap<Arc<str>, Vec<(u32, i64)>>,
    new_types: Vec<(Arc<str>, u32, i64)>,
    type_names: TypeNames,
    index: Upkeep,
    chore: Option<(Chore, Pace)>,
    /// The last sequence that the transaction appended; 0, if none.
    appended_through: u64,
    /// The batches of the transaction whose rows are not yet written, and the numbers of their events' types.
    unwritten: Vec<Arc<CommittedBatch>>,
    unwritten_types: Vec<i64>,
    /// What the connection's next commit is set to.
    sync: Sync,
    /// A log without a file has none.
    checkpoints: Option<Checkpoints>,
    /// By what others see that this opening lives. A log without a file has none.
    presence: Option<Presence>,
    turns: Turns,
}

impl SqliteWriter {
    pub(super) fn new(
        connection: Connection,
        durability: Durability,
        index: Upkeep,
        type_names: TypeNames,
        checkpoints: Option<Checkpoints>,
    ) -> Self {
        Self {
            connection,
            durability,
            type_ids: HashMap::new(),
            new_types: Vec::new(),
            type_names,
            index,
            chore: None,
            appended_through: 0,
            unwritten: Vec::new(),
            unwritten_types: Vec::new(),
            sync: Sync::Durable,
            checkpoints,
            presence: None,
            turns: Turns::alone(),
        }
    }

    /// Of a file that others may open as well.
    pub(super) fn shared(mut self, path: &Path) -> Self {
        self.presence = Some(Presence::beside(path));
        self.turns = Turns::beside(path);
        self
    }

    /// The connection, and by what others see that this opening lives.
    pub(super) fn presence(&mut self) -> (&Connection, Option<&mut Presence>) {
        (&self.connection, self.presence.as_mut())
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

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    /// The number that stands for a type in a schema version, made on its first use.
    fn type_id(&mut self, name: &Arc<str>, version: u32) -> rusqlite::Result<i64> {
        let versions = self.type_ids.get(name).into_iter().flatten();
        if let Some((_, id)) = versions.copied().find(|(known, _)| *known == version) {
            return Ok(id);
        }
        let mut new = self.new_types.iter();
        if let Some((.., id)) = new.find(|(known, of, _)| known == name && *of == version) {
            return Ok(*id);
        }
        let known = self
            .statement("SELECT id FROM event_type WHERE name = ?1 AND schema_version = ?2")?
            .query_row(params![&**name, version], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => self
                .statement("INSERT INTO event_type (name, schema_version) VALUES (?1, ?2)")?
                .insert(params![&**name, version])?,
        };
        self.new_types.push((Arc::clone(name), version, id));
        Ok(id)
    }

    /// Takes a batch into the transaction. Its rows are written with those of its neighbours.
    fn take(&mut self, batch: &Arc<CommittedBatch>) -> rusqlite::Result<()> {
        for event in &batch.events {
            let type_id = self.type_id(event.stored_type(), event.stored_version())?;
            self.unwritten_types.push(type_id);
        }
        self.unwritten.push(Arc::clone(batch));
        if self.unwritten_types.len() >= ROWS_AT_ONCE {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the rows that are not yet written, before anybody looks.
    fn flush(&mut self) -> rusqlite::Result<()> {
        let of_batch = |batch: &'_ Arc<CommittedBatch>| batch.events.len();
        debug_assert_eq!(
            self.unwritten.iter().map(of_batch).sum::<usize>(),
            self.unwritten_types.len(),
            "each of these events has the number of its type"
        );
        let events = self
            .unwritten
            .iter()
            .flat_map(|batch| batch.events.iter().map(move |event| (&**batch, event)));
        let rows: Vec<Row<'_>> = events
            .zip(&self.unwritten_types)
            .map(|((batch, event), type_id)| Row {
                batch,
                event,
                type_id: *type_id,
            })
            .collect();
        insert::insert(&self.connection, &rows)?;
        self.unwritten.clear();
        self.unwritten_types.clear();
        Ok(())
    }

    /// Is another one when another connection has committed.
    fn version(&self) -> rusqlite::Result<i64> {
        self.statement("PRAGMA data_version")?
            .query_row([], |row| row.get(0))
    }

    fn read_tail(&self) -> rusqlite::Result<Tail> {
        let mut statement = self.statement(
            "SELECT max(removed_through, pruned_through), (SELECT max(sequence) FROM event),
                    coalesce((SELECT recorded_at FROM event ORDER BY sequence DESC LIMIT 1), pruned_recorded_at),
                    pruned_through
             FROM log",
        )?;
        statement.query_row([], |row| {
            let removed: i64 = row.get(0)?;
            let newest: Option<i64> = row.get(1)?;
            Ok(Tail {
                head: newest.unwrap_or(0).max(removed) as u64,
                recorded_at: Timestamp::from_micros(row.get(2)?),
                pruned_through: row.get::<_, i64>(3)? as u64,
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

impl LogWriter for SqliteWriter {
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError> {
        self.turns.take();
        let tail = self
            .set_sync(sync)
            .and_then(|()| self.execute("BEGIN IMMEDIATE"))
            .and_then(|()| {
                let version = self.version()?;
                self.turns.finds(version);
                let tail = self.read_tail()?;
                let stand = run::stand(&self.connection)?;
                self.index.begin(&self.connection, tail.head, stand)?;
                Ok(tail)
            });
        tail.map_err(storage("begin a transaction"))
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        let tail = self.read_tail().map_err(storage("read the head"))?;
        self.index.saw(tail.head);
        Ok(tail)
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        self.take(batch).map_err(storage("append"))?;
        self.index.append(batch);
        self.appended_through = batch.last_sequence;
        Ok(())
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        self.flush().map_err(storage("append"))?;
        read::first_match(&mut self.source(), query, after)
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        self.flush().map_err(storage("append"))?;
        let event = read::event_at(&mut self.source(), sequence)?;
        match event.filter(|event| query.matches(event)) {
            Some(event) => event.decodable().map(|_| true),
            None => Ok(false),
        }
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        self.flush().map_err(storage("append"))?;
        read::position_at(&self.connection, time).map_err(storage("find the time"))
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        cursor::read(&self.connection, name).map_err(storage("read a cursor"))
    }

    fn newest_epoch(&mut self) -> Result<u64, StorageError> {
        cursor::newest_epoch(&self.connection).map_err(storage("read the newest epoch"))
    }

    fn next_epoch(&mut self) -> Result<u64, StorageError> {
        cursor::next_epoch(&self.connection).map_err(storage("give an epoch"))
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        cursor::put(&self.connection, name, cursor).map_err(storage("register a cursor"))
    }

    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        cursor::rename(&self.connection, name, to).map_err(storage("rename a stream"))
    }

    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError> {
        cursor::remove(&self.connection, name).map_err(storage("delete a stream"))
    }

    fn roll_call(&mut self) -> Result<RollCall, StorageError> {
        cursor::roll_call(&self.connection).map_err(storage("read the cursors"))
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        cursor::move_to(&self.connection, write).map_err(storage("store a cursor"))
    }

    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError> {
        prune::slowest_cursor(&self.connection, log_id).map_err(storage("read the cursors"))
    }

    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError> {
        self.flush().map_err(storage("append"))?;
        prune::oldest_batch(&self.connection).map_err(storage("prune"))
    }

    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError> {
        self.flush().map_err(storage("append"))?;
        prune::batch_at(&self.connection, sequence).map_err(storage("prune"))
    }

    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError> {
        let removed = prune::remove_through(&self.connection, through).map_err(storage("prune"))?;
        once::remove_through(&self.connection, through).map_err(storage("prune"))?;
        self.index.pruned(through);
        Ok(removed)
    }

    fn beside(&mut self, work: &mut dyn BesideWork) -> Result<Written, StorageError> {
        self.turns.take();
        let version = self.set_sync(Sync::Ordered).and_then(|()| self.version());
        self.turns
            .finds(version.map_err(storage("write beside the log"))?);
        let written = beside::transact(&mut self.connection, work);
        self.turns.ends();
        written
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        self.flush().map_err(storage("append"))?;
        self.execute("COMMIT").map_err(storage("commit"))?;
        self.turns.ends();
        for (name, version, id) in self.new_types.drain(..) {
            self.type_ids.entry(name).or_default().push((version, id));
        }
        self.index.committed(self.appended_through);
        self.appended_through = 0;
        Ok(())
    }

    fn rollback(&mut self) {
        self.unwritten.clear();
        self.unwritten_types.clear();
        self.new_types.clear();
        self.index.rolled_back();
        self.appended_through = 0;
        // A number that the transaction gave to a type will be given to another one.
        self.type_names.forget();
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(error) = self.execute("ROLLBACK") {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        self.turns.ends();
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        self.flush().map_err(storage("append"))?;
        self.select(&EventQuery::all(), range, bounds)
    }

    fn has_chore(&mut self, pace: Pace) -> bool {
        self.chore = self.index.chore(pace).map(|chore| (chore, pace));
        self.chore.is_some()
    }

    fn do_chore(&mut self) -> Result<(), StorageError> {
        let Some((chore, pace)) = self.chore.take() else {
            return Ok(());
        };
        if self.index.chore(pace) != Some(chore) {
            // What another process did meanwhile was seen when the transaction began.
            return Ok(());
        }
        let done = self.index.perform(&self.connection, chore);
        done.map_err(storage("keep the index up"))
    }

    fn tidy_at(&self) -> Option<Instant> {
        self.turns.over_at()
    }

    fn tidy(&mut self) {
        if let Some(checkpoints) = &mut self.checkpoints
            && checkpoints.step(&mut self.connection, self.turns.has_others())
        {
            self.turns.ends();
        }
        self.turns.end_if_over();
    }

    fn data_version(&mut self) -> Result<i64, StorageError> {
        self.version().map_err(storage("look for commits of others"))
    }
}

//! One build of a read model: a database with the user's tables, and how far they are.
//!
//! Invariants:
//! - what a transaction writes and the position behind it are committed together (R1);
//! - a batch at or before the position is never applied again, but for a dead letter, and that once;
//! - who opened the build last may write, nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::clock::Timestamp;
use crate::error::{BoxError, ReadModelError};
use crate::event::batch::EventBatch;
use crate::fault::{FaultPoint, Faults};
use crate::projection::catalog::storage;
use crate::projection::projection::Kept;
pub(crate) use crate::projection::spec::{Applied, NotApplied, Spec, TransactionLimits};
use crate::store::Store;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept for the projection.
const STATEMENTS_MAX: usize = 64;

const SCHEMA: &str = "
CREATE TABLE millstream_build (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    log_id TEXT NOT NULL,
    query TEXT NOT NULL,
    schema TEXT NOT NULL,
    -- Everything up to here that the query selects is applied, set aside in the log, or lacking.
    position INTEGER NOT NULL,
    -- Who opened it last.
    owner INTEGER NOT NULL,
    -- Where the rebuild ended that made it; 0: it was kept from the first event on.
    rebuilt_through INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
-- Dead letters that were applied later, by their first event, so that none is applied twice.
CREATE TABLE millstream_retried (first_sequence INTEGER PRIMARY KEY);
-- Dead letters that a rebuild could not apply either.
CREATE TABLE millstream_lacking (first_sequence INTEGER PRIMARY KEY);
";

/// A build that is open for writing.
pub(crate) struct Build {
    connection: Connection,
    spec: Spec,
    owner: i64,
    position: u64,
    faults: Faults,
}

/// The log that a build is made from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) log_id: String,
    pub(crate) head: u64,
    pub(crate) faults: Faults,
}

impl Origin {
    pub(crate) fn of(store: &Store, head: u64) -> Self {
        Self {
            log_id: store.log_id().to_owned(),
            head,
            faults: store.faults().clone(),
        }
    }
}

impl Build {
    /// Opens a build, makes it if it is new, and takes it over from whoever had it.
    pub(crate) fn open(path: &Path, spec: Spec, origin: Origin) -> Result<Self, ReadModelError> {
        let failed = storage("open the file of a read model");
        let mut connection = Connection::open(path).map_err(&failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(&failed)?;
        // A power cut may cost the newest transactions, each of them whole: they are applied again.
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(&failed)?;
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        let position = match stored(&tx).map_err(&failed)? {
            Some(stored) => stored.check(&spec, &origin)?,
            None => {
                make(&tx, &spec, &origin.log_id)?;
                0
            }
        };
        tx.execute("UPDATE millstream_build SET owner = random()", [])
            .map_err(&failed)?;
        let owner = tx
            .query_row("SELECT owner FROM millstream_build", [], |row| row.get(0))
            .map_err(&failed)?;
        tx.commit().map_err(&failed)?;
        Ok(Self {
            connection,
            spec,
            owner,
            position,
            faults: origin.faults,
        })
    }

    /// What the file says of itself, for whoever wants to know whether it can be opened. Nothing: it is not made yet. Nothing is written,
    /// so that whoever keeps the build goes on.
    pub(crate) fn peek(path: &Path) -> Result<Option<Stored>, ReadModelError> {
        if !path.exists() {
            return Ok(None);
        }
        let failed = storage("look at the file of a read model");
        // Not read-only: whoever reads needs the write-ahead log's files beside it, and may be the first who does.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
        Ok(stored(&connection).map_err(&failed)?)
    }

    /// The rows, for tests of programs.
    #[cfg(feature = "testing")]
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// How far it is.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Applies what comes after the position, in as few transactions as the limits allow.
    pub(crate) fn apply(
        &mut self,
        projection: &mut dyn Kept,
        batches: &[EventBatch],
        limits: TransactionLimits,
    ) -> Result<(), NotApplied> {
        let new = batches.iter().filter_map(|batch| self.new_part(batch));
        let new: Vec<EventBatch> = new.collect();
        let mut left = new.as_slice();
        while !left.is_empty() {
            let applied = self.transaction(projection, left, limits, move_position)?;
            self.position = applied.last_sequence;
            left = &left[applied.batches..];
        }
        Ok(())
    }

    /// What of a batch is behind the position.
    fn new_part(&self, batch: &EventBatch) -> Option<EventBatch> {
        match batch.first_sequence() > self.position {
            true => Some(batch.clone()),
            false => batch.rest(self.position),
        }
    }

    /// Applies a dead letter, wherever the position is, unless it was applied before.
    pub(crate) fn apply_letter(
        &mut self,
        projection: &mut dyn Kept,
        letter: &EventBatch,
    ) -> Result<(), NotApplied> {
        let (first, last) = (letter.first_sequence(), letter.last_sequence());
        if self.has_applied(first, last)? {
            return Ok(());
        }
        let position = self.position.max(last);
        let whole = TransactionLimits {
            events_max: usize::MAX,
            within: Duration::MAX,
        };
        self.transaction(projection, std::slice::from_ref(letter), whole, |tx, _| {
            move_position(tx, position)?;
            tx.execute(
                "INSERT OR REPLACE INTO millstream_retried (first_sequence) VALUES (?1)",
                [first as i64],
            )?;
            tx.execute(
                "DELETE FROM millstream_lacking WHERE first_sequence = ?1",
                [first as i64],
            )?;
            Ok(())
        })?;
        self.position = position;
        Ok(())
    }

    /// Whether a dead letter was applied: by a retry whose letter could not be removed afterwards, or by a rebuild.
    fn has_applied(&self, first: u64, last: u64) -> Result<bool, ReadModelError> {
        let asked = "SELECT EXISTS (SELECT 1 FROM millstream_retried WHERE first_sequence = ?1)
             OR (SELECT rebuilt_through >= ?2 FROM millstream_build)
                AND NOT EXISTS (SELECT 1 FROM millstream_lacking WHERE first_sequence = ?1)";
        let asked = self
            .connection
            .query_row(asked, params![first as i64, last as i64], |row| row.get(0));
        Ok(asked.map_err(storage("look up a dead letter"))?)
    }

    /// One transaction: what the projection makes of as many of the batches as the limits allow, and what is noted with it.
    fn transaction(
        &mut self,
        projection: &mut dyn Kept,
        batches: &[EventBatch],
        limits: TransactionLimits,
        note: impl FnOnce(&Transaction<'_>, u64) -> rusqlite::Result<()>,
    ) -> Result<Applied, NotApplied> {
        let failed = storage("write a read model");
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| ReadModelError::from(failed(error)))?;
        check_owner(&tx, &self.spec, self.owner)?;
        let outcome = attempt(&tx, projection, batches, limits).and_then(|applied| {
            let noted = note(&tx, applied.last_sequence).and_then(|()| {
                if self.faults.hit(FaultPoint::BeforeModel) {
                    return Err(injected());
                }
                tx.commit()
            });
            noted.map_err(|error| ReadModelError::from(failed(error)))?;
            self.faults.hit(FaultPoint::AfterModel);
            Ok(applied)
        });
        match &outcome {
            Ok(_) => projection.keep(),
            Err(_) => projection.drop_attempt(),
        }
        outcome
    }

    /// Moves the position over what the query does not select.
    pub(crate) fn pass(&mut self, position: u64) -> Result<(), ReadModelError> {
        if position <= self.position {
            return Ok(());
        }
        self.note(|tx| move_position(tx, position))?;
        self.position = position;
        Ok(())
    }

    /// A build that is thrown away when it does not come to its end needs no power cut to survive: until `is_rebuilt` nothing waits
    /// for the disk, and no append behind it.
    pub(crate) fn is_disposable(&self) -> Result<(), ReadModelError> {
        self.synchronous("OFF")
    }

    fn synchronous(&self, level: &str) -> Result<(), ReadModelError> {
        self.connection
            .pragma_update(None, "synchronous", level)
            .map_err(storage("choose what a read model waits for"))?;
        Ok(())
    }

    /// The rebuild that made it has ended here, without the dead letters that begin with these events. The file is on the disk, whole.
    pub(crate) fn is_rebuilt(&mut self, lacking: &[u64]) -> Result<(), ReadModelError> {
        // What is written from here on asks the disk for everything before it.
        self.synchronous("FULL")?;
        self.note_rebuilt(lacking)?;
        let failed = storage("write a rebuilt read model to the disk");
        let is_held = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
            .map_err(&failed)?;
        if is_held {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(failed(rusqlite::Error::SqliteFailure(busy, None)).into());
        }
        self.synchronous("NORMAL")
    }

    fn note_rebuilt(&mut self, lacking: &[u64]) -> Result<(), ReadModelError> {
        self.note(|tx| {
            for first in lacking {
                tx.execute(
                    "INSERT INTO millstream_lacking (first_sequence) VALUES (?1)",
                    [*first as i64],
                )?;
            }
            tx.execute("UPDATE millstream_build SET rebuilt_through = position", [])?;
            Ok(())
        })
    }

    /// Refuses who lost the build.
    pub(crate) fn check_owned(&self) -> Result<(), ReadModelError> {
        check_owner(&self.connection, &self.spec, self.owner)
    }

    /// Does what only the owner of the build may do. Nobody takes the build meanwhile.
    pub(crate) fn while_owned<T>(
        &mut self,
        work: impl FnOnce() -> Result<T, ReadModelError>,
    ) -> Result<T, ReadModelError> {
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(storage("hold a read model"))?;
        check_owner(&tx, &self.spec, self.owner)?;
        work()
    }

    fn note(
        &mut self,
        note: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), ReadModelError> {
        let failed = storage("write a read model");
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        check_owner(&tx, &self.spec, self.owner)?;
        note(&tx).and_then(|()| tx.commit()).map_err(&failed)?;
        Ok(())
    }
}

/// Lets the projection apply batches until one of the limits is reached: at least one.
pub(crate) fn attempt(
    tx: &Transaction<'_>,
    projection: &mut dyn Kept,
    batches: &[EventBatch],
    limits: TransactionLimits,
) -> Result<Applied, NotApplied> {
    let begun = Instant::now();
    let mut applied = Applied {
        batches: 0,
        last_sequence: 0,
    };
    let mut events = 0;
    for batch in batches {
        events += batch.len();
        let is_over = events > limits.events_max || begun.elapsed() > limits.within;
        if is_over && applied.batches > 0 {
            break;
        }
        applied.last_sequence = batch.last_sequence();
        guarded(tx, || projection.attempt(tx, batch))?;
        applied.batches += 1;
    }
    guarded(tx, || projection.before_commit(tx))?;
    Ok(applied)
}

/// Calls what the user wrote.
fn guarded(tx: &Transaction<'_>, call: impl FnOnce() -> Result<(), BoxError>) -> Result<(), NotApplied> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) if tx.is_autocommit() => Err(NotApplied::Projection(
            "the projection ended the transaction itself; leave that to millstream".into(),
        )),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(NotApplied::Projection(error)),
        Err(panic) => Err(NotApplied::Panicked(panic)),
    }
}

/// A fault that a test asked for.
pub(crate) fn injected() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    rusqlite::Error::SqliteFailure(code, Some("a fault was injected".to_owned()))
}

fn move_position(tx: &Transaction<'_>, position: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE millstream_build SET position = ?1, updated_at = ?2")?
        .execute(params![position as i64, Timestamp::now().as_micros()])?;
    Ok(())
}

/// Refuses who lost the build to another one that opened it (D6).
fn check_owner(connection: &Connection, spec: &Spec, owner: i64) -> Result<(), ReadModelError> {
    let found: i64 = connection
        .prepare_cached("SELECT owner FROM millstream_build")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(storage("write a read model"))?;
    if found != owner {
        return Err(ReadModelError::OwnershipLost {
            name: spec.name.clone(),
            version: spec.version,
        });
    }
    Ok(())
}

/// What a build's file says of itself.
pub(crate) struct Stored {
    log_id: String,
    query: String,
    schema: String,
    position: u64,
}

impl Stored {
    /// Refuses a build that does not fit the log or the projection. Gives its position.
    pub(crate) fn check(self, spec: &Spec, origin: &Origin) -> Result<u64, ReadModelError> {
        let name = || spec.name.clone();
        if self.log_id != origin.log_id {
            return Err(ReadModelError::ForeignLog {
                name: name(),
                built_from: self.log_id,
                log: origin.log_id.clone(),
            });
        }
        if self.position > origin.head {
            return Err(ReadModelError::AheadOfLog {
                name: name(),
                position: self.position,
                head: origin.head,
            });
        }
        let changed = [
            ("query", self.query != spec.query),
            ("schema", self.schema != spec.schema),
        ];
        match changed.into_iter().find(|(_, has_changed)| *has_changed) {
            Some((what, _)) => Err(ReadModelError::Changed {
                name: name(),
                version: spec.version,
                what,
            }),
            None => Ok(self.position),
        }
    }
}

fn stored(tx: &Connection) -> rusqlite::Result<Option<Stored>> {
    let is_made: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'millstream_build')",
        [],
        |row| row.get(0),
    )?;
    if !is_made {
        return Ok(None);
    }
    let read = "SELECT log_id, query, schema, position FROM millstream_build";
    tx.query_row(read, [], |row| {
        Ok(Stored {
            log_id: row.get(0)?,
            query: row.get(1)?,
            schema: row.get(2)?,
            position: row.get::<_, i64>(3)? as u64,
        })
    })
    .optional()
}

/// Makes the tables, the user's among them.
fn make(tx: &Transaction<'_>, spec: &Spec, log_id: &str) -> Result<(), ReadModelError> {
    let failed = storage("make the tables of a read model");
    tx.execute_batch(SCHEMA).map_err(&failed)?;
    let refused = |error: String| ReadModelError::Schema {
        name: spec.name.clone(),
        version: spec.version,
        error: error.into(),
    };
    tx.execute_batch(&spec.schema)
        .map_err(|error| refused(error.to_string()))?;
    if tx.is_autocommit() {
        return Err(refused("it ends the transaction in which it runs".to_owned()));
    }
    tx.execute(
        "INSERT INTO millstream_build (one, name, version, log_id, query, schema, position, owner, rebuilt_through, updated_at)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, 0, 0, 0, ?6)",
        params![
            spec.name,
            spec.version,
            log_id,
            spec.query,
            spec.schema,
            Timestamp::now().as_micros()
        ],
    )
    .map_err(&failed)?;
    Ok(())
}

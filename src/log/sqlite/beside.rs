//! The transaction in which something is written into the log's file beside the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{InLogError, StorageError};
use crate::log::beside::{BesideWork, Written, on_the_committers_thread};
use crate::log::cursor::{CursorWrite, StoredCursor};
use crate::log::sqlite::connection::{settle, storage};
use crate::log::sqlite::cursor;
use crate::log::sqlite::guard::{Guard, Rules};

/// What work beside the log may use while its transaction is open.
pub(crate) struct Desk<'a> {
    tx: &'a Transaction<'a>,
    guard: &'a Guard,
}

/// Does the work in a transaction of its own. Hooks keep the code of the user in its place as long as that transaction is open.
///
/// Setting the authorizer makes SQLite prepare every cached statement of the connection anew before its next use. So none that the log
/// has prepared for itself gets past the rules, whatever its text; and the next group prepares its statements again, which is part of
/// what this costs.
pub(super) fn transact(
    connection: &mut Connection,
    work: &mut dyn BesideWork,
) -> Result<Written, StorageError> {
    let failed = storage("write beside the log");
    let guard = Guard::new();
    guard.install(connection).map_err(&failed)?;
    let outcome = transact_guarded(connection, &guard, work);
    Guard::remove(connection).map_err(&failed)?;
    // Foreign code has a reference to the connection, with which it can set these.
    settle(connection).map_err(&failed)?;
    outcome
}

fn transact_guarded(
    connection: &Connection,
    guard: &Guard,
    work: &mut dyn BesideWork,
) -> Result<Written, StorageError> {
    let failed = storage("write beside the log");
    // Dropped, it rolls back what is left of it.
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(&failed)?;
    let written = work.write(&Desk { tx: &tx, guard })?;
    if written == Written::Commit {
        tx.commit().map_err(&failed)?;
    }
    Ok(written)
}

impl Desk<'_> {
    /// The transaction, for statements of this crate.
    pub(crate) fn tx(&self) -> &Transaction<'_> {
        self.tx
    }

    /// Calls what the user wrote, under rules and for so long. Gives what it came to, and why that is not to be kept: it
    /// was refused something, or took too long, whether it says so itself or not. Then the transaction may be gone, and
    /// nothing is to be done in it any more.
    pub(crate) fn foreign<T>(
        &self,
        rules: Rules,
        budget: Duration,
        call: impl FnOnce(&Transaction<'_>) -> T,
    ) -> (T, Result<(), InLogError>) {
        let begun = Instant::now();
        let shift = self.guard.begin(rules, begun.checked_add(budget));
        let outcome = on_the_committers_thread(|| call(self.tx));
        let took = begun.elapsed();
        let refused = shift.end();
        let verdict = match refused {
            Some(refused) => Err(refused),
            None if took >= budget => Err(InLogError::OverBudget { took, budget }),
            None => Ok(()),
        };
        (outcome, verdict)
    }

    /// The row of a durable stream.
    pub(crate) fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        cursor::read(self.tx, name).map_err(storage("read a cursor"))
    }

    /// Moves the cursor of a durable stream. `false`: the epoch is not the stored one (D6).
    pub(crate) fn move_cursor(&self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        cursor::move_to(self.tx, write).map_err(storage("store a cursor"))
    }

    /// The names of everything that there is in the file, in lower case: tables, indexes, views and triggers.
    pub(crate) fn names(&self) -> Result<Arc<BTreeSet<String>>, StorageError> {
        let read = || {
            let mut names = self.tx.prepare("SELECT lower(name) FROM sqlite_schema")?;
            let names = names.query_map([], |row| row.get(0))?;
            names.collect::<rusqlite::Result<_>>()
        };
        read().map(Arc::new).map_err(storage("read the schema"))
    }
}

//! What became of a transaction whose connection was lost during the commit.

use std::time::Instant;

use crate::clock::Timestamp;
use crate::log::postgres::place::bounded;
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::{PostgresWriter, Transaction};

impl PostgresWriter {
    /// Whether the log has the last batch of a transaction. A server that took the place of another one may give the number of its
    /// transaction to somebody else.
    fn has_newest(&mut self, newest: Option<(u64, Timestamp)>) -> Result<bool, Trouble> {
        let Some((sequence, recorded_at)) = newest else {
            return Ok(true);
        };
        let sql = "SELECT EXISTS (SELECT FROM event WHERE sequence = $1 AND recorded_at = $2)";
        self.attempt(async |session| {
            let row = session
                .one(sql, &[&bounded(sequence), &recorded_at.as_micros()])
                .await?;
            Ok(row.try_get(0)?)
        })
    }

    /// The connection was lost during the commit: asks the server what became of the transaction.
    pub(super) fn find_out(&mut self, transaction: &Transaction, cause: Trouble) -> Result<(), Trouble> {
        let id = &transaction.id;
        let mut pauses = self.pauses();
        let started = Instant::now();
        loop {
            let status = self.attempt(async |session| {
                let row = session
                    .one("SELECT pg_xact_status($1::text::xid8)", &[&id])
                    .await?;
                Ok(row.try_get::<_, Option<String>>(0)?)
            });
            match status {
                Ok(Some(status)) if status == "committed" => {
                    if !self.has_newest(transaction.newest).unwrap_or(false) {
                        return Err(Trouble::OutcomeUnknown(Box::new(cause)));
                    }
                    tracing::warn!(%cause, "the connection was lost during a commit, which the server had made");
                    return Ok(());
                }
                Ok(Some(status)) if status == "aborted" => {
                    return Err(Trouble::NotCommitted(Box::new(cause)));
                }
                // The server may not have noticed yet that the connection is gone, or cannot be reached.
                Ok(Some(_)) => {}
                Err(trouble) if trouble.is_lost() => {}
                Ok(None) | Err(_) => return Err(Trouble::OutcomeUnknown(Box::new(cause))),
            }
            match pauses.next() {
                Some(pause) if started.elapsed() + pause < self.server.limit => self.driver.pause(pause),
                _ => return Err(Trouble::OutcomeUnknown(Box::new(cause))),
            }
        }
    }
}

//! One connection, with the statements that are prepared on it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::log::postgres::pages::ROWS_AT_FIRST;
use crate::log::postgres::trouble::Trouble;

/// Statements kept per connection. Those of queries are made as they are needed.
const STATEMENTS_MAX: usize = 128;

pub(super) struct Session {
    /// Also in the hands of what asks on the connections' thread, for as long as that takes.
    pub(super) client: Arc<Client>,
    /// How many rows a read begins with, by the size of those that were read last.
    pub(super) rows_at_first: i64,
    statements: HashMap<Box<str>, Statement>,
}

/// What goes with a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client: Arc::new(client),
            rows_at_first: ROWS_AT_FIRST,
            statements: HashMap::new(),
        }
    }

    /// The connection alone, for whoever has other uses of it.
    pub(super) fn into_client(self) -> Client {
        Arc::into_inner(self.client).expect("nothing was asked for yet that others would wait for")
    }

    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, Trouble> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }

    pub(super) async fn all(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Trouble> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.query(&statement, parameters).await?)
    }

    pub(super) async fn one(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<Row, Trouble> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.query_one(&statement, parameters).await?)
    }

    pub(super) async fn maybe(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Trouble> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.query_opt(&statement, parameters).await?)
    }

    /// How many rows it changed.
    pub(super) async fn execute(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Trouble> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.execute(&statement, parameters).await?)
    }

    /// Several reads that see the same moment.
    pub(super) async fn snapshot<T>(
        &mut self,
        read: impl AsyncFnOnce(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        self.client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let outcome = read(self).await;
        self.client.batch_execute("ROLLBACK").await?;
        outcome
    }
}

/// A number that is never negative.
pub(super) fn number(row: &Row, column: usize) -> Result<u64, Trouble> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number)
        .map_err(|_| Trouble::Malformed(format!("{number} stands where no negative number may")))
}

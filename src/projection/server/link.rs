//! The connection that a read model is written on, and the statements of millstream there.

use tokio_postgres::{Client, Statement};

use crate::error::StorageError;
use crate::log::postgres::beside::{Purpose, ServerDesk, quoted};

/// A connection whose names without a schema are those of the model.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) statements: Statements,
}

pub(super) struct Statements {
    /// Locks the model's row, and says that a transaction is under way.
    pub(super) open: Statement,
    /// Says that it is at its end. Nothing, when it is another transaction than the one that was begun: no other one sees that it is
    /// under way.
    pub(super) close: Statement,
    /// Keeps everybody from taking the stream over until the commit is done, which comes next. Nothing, when that has happened.
    pub(super) fence: Statement,
    pub(super) has_applied: Statement,
    pub(super) note_applied: Statement,
}

impl Link {
    pub(super) async fn connect(desk: &ServerDesk, namespace: &str) -> Result<Self, StorageError> {
        let client = desk.connect(Purpose::Write).await?;
        let statements = prepare(&client, desk.schema(), namespace).await;
        Ok(Self {
            statements: statements.map_err(desk.failed("prepare to write a read model"))?,
            client,
        })
    }
}

async fn prepare(client: &Client, log: &str, namespace: &str) -> Result<Statements, tokio_postgres::Error> {
    let log = quoted(log);
    client
        .batch_execute(&format!("SET search_path TO {}", quoted(namespace)))
        .await?;
    // All by the primary keys of their tables.
    Ok(Statements {
        open: client
            .prepare(&format!(
                "UPDATE {log}.millstream_model SET is_applying = true WHERE name = $1 AND version = $2 RETURNING position"
            ))
            .await?,
        close: client
            .prepare(&format!(
                "UPDATE {log}.millstream_model SET is_applying = false, position = $3, updated_at = $4
                 WHERE name = $1 AND version = $2 AND is_applying"
            ))
            .await?,
        fence: client
            .prepare(&format!(
                "SELECT true FROM {log}.cursor WHERE name = $1 AND epoch = $2 FOR SHARE"
            ))
            .await?,
        has_applied: client
            .prepare(&format!(
                "SELECT true FROM {log}.millstream_model_retried WHERE name = $1 AND version = $2 AND first_sequence = $3"
            ))
            .await?,
        note_applied: client
            .prepare(&format!(
                "INSERT INTO {log}.millstream_model_retried (name, version, first_sequence) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING"
            ))
            .await?,
    })
}

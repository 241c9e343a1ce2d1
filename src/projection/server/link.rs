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
    /// Locks the build's row, and says that a transaction is under way. Nothing, when the build is another one's now.
    pub(super) open: Statement,
    /// Says that it is at its end. Nothing, when it is another transaction than the one that was begun: no other one sees that it is
    /// under way.
    pub(super) close: Statement,
    /// Keeps everybody from taking the stream over until the commit is done, which comes next. Nothing, when that has happened.
    pub(super) fence: Statement,
    /// Whether a dead letter was applied: by a retry whose letter could not be removed afterwards, or by a rebuild.
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
                "UPDATE {log}.millstream_model SET is_applying = true WHERE build = $1 AND owner = $2 RETURNING position"
            ))
            .await?,
        close: client
            .prepare(&format!(
                "UPDATE {log}.millstream_model SET is_applying = false, position = $2, updated_at = $3
                 WHERE build = $1 AND is_applying"
            ))
            .await?,
        fence: client
            .prepare(&format!(
                "SELECT true FROM {log}.cursor WHERE name = $1 AND epoch = $2 FOR SHARE"
            ))
            .await?,
        has_applied: client
            .prepare(&format!(
                "SELECT true FROM {log}.millstream_model_retried WHERE build = $1 AND first_sequence = $2
                 UNION ALL
                 SELECT true FROM {log}.millstream_model WHERE build = $1 AND rebuilt_through >= $3
                     AND NOT EXISTS (SELECT FROM {log}.millstream_model_lacking WHERE build = $1 AND first_sequence = $2)
                 LIMIT 1"
            ))
            .await?,
        note_applied: client
            .prepare(&format!(
                "WITH found AS (DELETE FROM {log}.millstream_model_lacking WHERE build = $1 AND first_sequence = $2)
                 INSERT INTO {log}.millstream_model_retried (build, first_sequence) VALUES ($1, $2)
                 ON CONFLICT DO NOTHING"
            ))
            .await?,
    })
}

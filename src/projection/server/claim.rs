//! What whoever rebuilds a read model on the server is to have: the build that serves, and its stream.

use tokio_postgres::{Error, Transaction};

/// Whose a model is, as far as the one knows who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    /// The build that is kept.
    pub(super) build: i64,
    pub(super) owner: i64,
    pub(super) stream: &'a str,
    /// Nothing: it has no stream.
    pub(super) epoch: Option<u64>,
}

impl Claim<'_> {
    /// Whether the build serves, and is the owner's still. That is changed by nobody else as long as the list is locked.
    pub(super) async fn has_serving(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        // The row is not locked: a transaction of the model is not waited for with the list in hand.
        let sql = "SELECT true FROM millstream_model JOIN millstream_model_build USING (build)
            WHERE build = $1 AND owner = $2 AND state = 'serving'";
        let found = tx.query_opt(sql, &[&self.build, &self.owner]).await?;
        Ok(found.is_some())
    }

    /// Whether the stream is the owner's still.
    pub(super) async fn holds_stream(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        holds_stream(tx, self.stream, self.epoch).await
    }
}

/// Whether the stream runs under an epoch still. From here on whoever takes it over waits for the end of the transaction.
pub(super) async fn holds_stream(
    tx: &Transaction<'_>,
    stream: &str,
    epoch: Option<u64>,
) -> Result<bool, Error> {
    let Some(epoch) = epoch else { return Ok(true) };
    // Whoever moves that row waits, and the appends beside it: not for long, should this process stop before the commit.
    tx.batch_execute("SET LOCAL idle_in_transaction_session_timeout = '2s'")
        .await?;
    let fence = "SELECT true FROM cursor WHERE name = $1 AND epoch = $2 FOR SHARE";
    let held = tx.query_opt(fence, &[&stream, &(epoch as i64)]).await?;
    Ok(held.is_some())
}

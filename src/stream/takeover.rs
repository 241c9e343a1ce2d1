//! How a stream is registered that takes the place of another one.

use crate::error::{StopCause, StreamError};
use crate::log::cursor::Start;
use crate::stream::hub::{Hub, not_read};
use crate::stream::inside;
use crate::stream::nearest::nearest;
use crate::stream::options::DurableOptions;

impl Hub {
    /// Lets the older stream come to its end first, when it runs here: what it has handled is stored then, so that nothing is
    /// handled by both.
    pub(super) async fn let_older_end(&self, options: &DurableOptions) -> Result<(), StreamError> {
        let Start::AfterStream(older) = &options.start else {
            return Ok(());
        };
        let Some(core) = self.registry.running(older) else {
            return Ok(());
        };
        // Who has a cursor already goes on there, and takes nothing over.
        let own = self.source.log.cursor(&options.name).await.map_err(not_read)?;
        if own.is_some() {
            return Ok(());
        }
        if inside::refuse(&core).is_err() {
            return Err(StreamError::InvalidOption {
                name: options.name.to_string(),
                problem: format!(
                    "it is to start after {older:?}, inside whose handler it is registered, and would wait for itself; register it in a task of its own"
                ),
            });
        }
        let by = options.name.to_string();
        core.stop(StopCause::TakenOver { by });
        core.stopped().await;
        Ok(())
    }

    /// Says which older stream may have been meant.
    pub(super) async fn with_nearest(&self, error: StreamError) -> StreamError {
        let StreamError::NoSuchOlderStream { name, older, .. } = error else {
            return error;
        };
        let rows = match self.source.log.cursors().await {
            Ok(rows) => rows,
            Err(error) => return not_read(error),
        };
        let nearest = nearest(&older, rows.iter().map(|row| &*row.name)).map(str::to_owned);
        StreamError::NoSuchOlderStream { name, older, nearest }
    }
}

//! What every slice is given: the log, the place of the read models, and word of the end.

use std::time::Duration;

use millstream::{ReadModel, ReadModels, Store, Until};
use tokio::time;

use crate::closing::Closing;
use crate::problem::Problem;

pub(crate) struct Shop {
    pub(crate) store: Store,
    pub(crate) models: ReadModels,
    pub(crate) closing: Closing,
}

/// How long a request waits for the read model to show what it appended. It takes milliseconds, unless the model is being built.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Waits until readers of the model see what was appended: then the answer to a command can be read from it.
pub(crate) async fn seen(model: &ReadModel, appended: impl Into<Until>) -> Result<(), Problem> {
    match time::timeout(SEEN_WITHIN, model.wait_for(appended)).await {
        Ok(seen) => Ok(seen?),
        Err(_) => Err(Problem::unavailable(
            "it is done, and cannot be shown yet: look again in a moment",
        )),
    }
}

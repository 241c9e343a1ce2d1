//! Whose a read model is that is kept continuously: that of the store which owns its stream.
//!
//! The stream is claimed before the build is opened, because opening takes the build from whoever had it: who is refused, or waits,
//! must not have touched what another one keeps.

use std::sync::Arc;
use std::time::Duration;

use crate::error::ReadModelError;
use crate::log::handle::owner::LetsGo;
use crate::log::owner::Ownership;
use crate::log::request::Claimed;
use crate::store::Store;

/// How often is looked whether the owner has gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Claims the stream of a read model, and waits for it when that is wanted. What is given back lets go of it again, unless the stream
/// is registered meanwhile; nothing, when it was this store's before.
pub(crate) async fn own(
    store: &Store,
    stream: &str,
    ownership: Ownership,
) -> Result<Option<LetsGo>, ReadModelError> {
    let stream: Arc<str> = stream.into();
    let log = store.log();
    let unless_kept = LetsGo::of(&stream, log);
    let mut waits = false;
    loop {
        match log.claim(&stream, ownership).await? {
            Claimed::Now => return Ok(Some(unless_kept)),
            Claimed::Before => {
                unless_kept.keep();
                return Ok(None);
            }
            Claimed::StandsBy(owner) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::info!(stream = &*stream, %owner, "a read model is waited for, somebody else keeps it");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

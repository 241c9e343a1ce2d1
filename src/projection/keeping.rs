//! The stream that keeps a read model, as its handler sees it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::{ReadModelError, StopCause};
use crate::event::batch::EventBatch;
use crate::log::cursor::CursorCell;
use crate::projection::spec::{Call, NotApplied};
use crate::store::Store;
use crate::stream::core::StreamCore;
use crate::stream::handler::HandleStream;
use crate::stream::inside;
use crate::stream::registry::Registry;

/// More batches are not in one handler call. What a transaction has is bounded by events and time.
const GROUP_BATCHES_MAX: u32 = 1_024;

/// The stream that keeps a version of a read model. It does not keep the store open.
#[derive(Clone)]
pub(crate) struct KeepingStream {
    name: Arc<str>,
    registry: Weak<Registry>,
}

impl KeepingStream {
    pub(crate) fn of(store: &Store, name: &str) -> Self {
        Self {
            name: name.into(),
            registry: Arc::downgrade(store.registry()),
        }
    }

    /// Where it leaves its position, under the epoch of now.
    pub(crate) fn cell(&self) -> Option<Arc<CursorCell>> {
        self.core()?.cursor()
    }

    fn core(&self) -> Option<Arc<StreamCore>> {
        self.registry.upgrade()?.named(&self.name)
    }

    /// The handler of the stream: applies what a call is given in as few transactions as the limits allow.
    pub(crate) fn handler<F, Fut>(self, apply: F) -> HandleStream
    where
        F: Fn(Vec<EventBatch>, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), NotApplied>> + Send + 'static,
    {
        HandleStream::group(GROUP_BATCHES_MAX, Duration::ZERO, move |batches| {
            let call = match inside::is_letter() {
                true => Call::Letter,
                false => Call::Next,
            };
            let (stream, applied) = (self.clone(), apply(batches, call));
            async move {
                let Err(error) = applied.await else { return Ok(()) };
                if matches!(error, NotApplied::Model(ReadModelError::OwnershipLost { .. })) {
                    stream.end_if_it_is_ours().await;
                }
                Err(error.into_handler_error())
            }
        })
    }

    /// Another one has the build, and applies what comes: the stream must set nothing aside, because whoever retried that would apply it a
    /// second time. One that has lost its own epoch, or was told to go elsewhere, hears so itself.
    async fn end_if_it_is_ours(&self) {
        let Some((core, cell)) = self
            .core()
            .and_then(|core| core.cursor().map(|cell| (core, cell)))
        else {
            return;
        };
        let row = core.source.log.cursor(&self.name).await;
        let has_lost_it = matches!(&row, Ok(row) if row.as_ref().is_none_or(|row| row.epoch != cell.epoch));
        if !has_lost_it {
            core.stop(StopCause::OwnershipLost);
        }
    }
}

//! The stream that keeps a read model, as its handler sees it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::event::batch::EventBatch;
use crate::log::cursor::CursorCell;
use crate::projection::spec::{Call, NotApplied};
use crate::store::Store;
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
        self.registry.upgrade()?.named(&self.name)?.cursor()
    }
}

/// The handler of the stream: applies what a call is given in as few transactions as the limits allow.
pub(crate) fn handler<F, Fut>(apply: F) -> HandleStream
where
    F: Fn(Vec<EventBatch>, Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), NotApplied>> + Send + 'static,
{
    HandleStream::group(GROUP_BATCHES_MAX, Duration::ZERO, move |batches| {
        let call = match inside::is_letter() {
            true => Call::Letter,
            false => Call::Next,
        };
        let applied = apply(batches, call);
        async move { applied.await.map_err(NotApplied::into_handler_error) }
    })
}

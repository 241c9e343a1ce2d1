//! How a store lets go of a stream, and gives one away.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::{StorageError, StreamError};
use crate::log::handle::{LogHandle, committer_gone};
use crate::log::owner::{InstanceId, Ownership};
use crate::log::queue::Queue;
use crate::log::request::{ClaimRequest, Claimed, HandOverRequest, HandedOver, LetGoRequest, Request};

impl LogHandle {
    /// Claims a stream whose cursor is opened later, or to stand by for it. Once queued it is done, whatever becomes of this future.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(
            dead_code,
            reason = "only read models claim a stream before they open its cursor"
        )
    )]
    pub(crate) async fn claim(&self, name: &Arc<str>, ownership: Ownership) -> Result<Claimed, StreamError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Claim(ClaimRequest {
            name: Arc::clone(name),
            ownership,
            reply,
        });
        self.queue.push(request).map_err(|_| StreamError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(committer_gone().into()))
    }

    /// Claims a stream no more, neither to run it nor to stand by. Once queued it is done, whatever becomes of this future.
    pub(crate) async fn let_go(&self, name: &Arc<str>) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        let name = Arc::clone(name);
        let request = Request::LetGo(LetGoRequest { name, reply });
        // A committer that ends lets go of everything.
        self.queue.push(request).map_err(|_| committer_gone())?;
        answer.await.unwrap_or_else(|_| Err(committer_gone()))
    }

    /// Gives a stream away. Once queued it is done, whatever becomes of this future.
    pub(crate) async fn hand_over(
        &self,
        name: &Arc<str>,
        epoch: u64,
        heir: InstanceId,
    ) -> Result<HandedOver, StorageError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::HandOver(HandOverRequest {
            name: Arc::clone(name),
            epoch,
            heir,
            reply,
        });
        self.queue.push(request).map_err(|_| committer_gone())?;
        answer.await.unwrap_or_else(|_| Err(committer_gone()))
    }
}

/// Lets go of a stream when it is dropped, unless it was kept: its registration failed, or nobody waited for it.
pub(crate) struct LetsGo {
    queue: Arc<Queue<Request>>,
    name: Option<Arc<str>>,
}

impl LetsGo {
    pub(crate) fn of(name: &Arc<str>, log: &LogHandle) -> Self {
        Self {
            queue: Arc::clone(&log.queue),
            name: Some(Arc::clone(name)),
        }
    }

    /// The stream is there, and lets go itself when it ends.
    pub(crate) fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for LetsGo {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let (reply, _) = oneshot::channel();
            // A queue that is closed belongs to a committer that lets go of everything.
            let _ = self.queue.push(Request::LetGo(LetGoRequest { name, reply }));
        }
    }
}

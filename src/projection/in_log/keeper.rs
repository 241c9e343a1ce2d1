//! The handler of the stream that keeps a read model in the log's file.

use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};

use crate::error::ReadModelError;
use crate::event::batch::EventBatch;
use crate::log::beside;
use crate::log::cursor::CursorCell;
use crate::log::queue::Queue;
use crate::log::request::Request;
use crate::projection::applier::Call;
use crate::projection::build::NotApplied;
use crate::projection::in_log::step::{Hand, Plan, Progress, Step};
use crate::projection::in_log::task::unanswered;
use crate::projection::keeping::KeepingStream;
use crate::projection::projection::Kept;

/// Has the committer apply what the stream gives. Cloning gives another handle of the same. It does not keep the store open.
#[derive(Clone)]
pub(super) struct Keeper {
    plan: Arc<Plan>,
    hand: Arc<Mutex<Hand>>,
    stream: KeepingStream,
    queue: Arc<Queue<Request>>,
}

impl Keeper {
    pub(super) fn new(
        plan: Plan,
        projection: Box<dyn Kept>,
        stream: KeepingStream,
        queue: &Arc<Queue<Request>>,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            hand: Arc::new(Mutex::new(Hand {
                projection,
                is_under_way: false,
            })),
            stream,
            queue: Arc::clone(queue),
        }
    }

    /// Applies what a handler was given, in as few transactions as the limits allow. Appends go on between two of them.
    ///
    /// A call that is dropped meanwhile comes to the end of its transaction all the same; the position says then that it did.
    pub(super) async fn handle(&self, batches: Vec<EventBatch>, call: Call) -> Result<(), NotApplied> {
        let mut left = batches;
        while !left.is_empty() {
            let applied = self.step(left.clone(), call).await?;
            left.drain(..applied);
        }
        Ok(())
    }

    /// One transaction. Gives how many of the batches need not be given again.
    async fn step(&self, batches: Vec<EventBatch>, call: Call) -> Result<usize, NotApplied> {
        let mut hand = Arc::clone(&self.hand).lock_owned().await;
        if hand.is_under_way {
            // An earlier call was dropped before it heard.
            hand.projection.drop_attempt();
        }
        hand.is_under_way = true;
        let (reply, answer) = oneshot::channel();
        let step = Step {
            plan: Arc::clone(&self.plan),
            hand,
            cell: self.cell()?,
            batches,
            call,
            reply,
            written: Progress::default(),
        };
        beside::push(&self.queue, Box::new(step)).map_err(ReadModelError::from)?;
        let answer = answer.await;
        let mut stepped = answer.map_err(|_| ReadModelError::from(unanswered()))?;
        // What the user may have written there is not run on the committer's thread.
        match &stepped.outcome {
            Ok(_) => stepped.hand.projection.keep(),
            Err(_) => stepped.hand.projection.drop_attempt(),
        }
        stepped.hand.is_under_way = false;
        stepped.outcome
    }

    /// Where the stream leaves its position, under the epoch of now.
    fn cell(&self) -> Result<Arc<CursorCell>, ReadModelError> {
        self.stream.cell().ok_or_else(|| unanswered().into())
    }
}

//! Named failure points, at which tests kill the process, make an operation fail, or lose a wake-up.
//!
//! Without the features `internals` and `testing` a point is nothing at all.

#[cfg(any(feature = "internals", feature = "testing"))]
use std::sync::Arc;

/// Where something can be made to go wrong, in the order in which an event passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    not(feature = "internals"),
    expect(unreachable_pub, reason = "exported with `internals`")
)]
pub enum FaultPoint {
    /// The group's rows are written, the transaction is not yet committed. Failing makes the commit fail.
    BeforeCommit,
    /// A reaction's events are written, what it settles is not yet. Failing makes the commit of the whole group fail.
    InReaction,
    /// The group is committed, nobody knows yet. Failing makes the commit seem to have failed, as a disk does that breaks too late.
    AfterCommit,
    /// The group is published, the callers are not answered yet.
    AfterPublish,
    /// Streams are about to be woken. Failing loses the wake-ups.
    Wake,
    /// The handler is about to be called.
    BeforeHandler,
    /// The handler returned `Ok`, the cursor is where it was.
    AfterHandler,
    /// A reaction and the cursor with it are committed, the stream's loop does not know yet.
    AfterReaction,
    /// Cursors are about to be stored. Failing makes the storing fail as if the file were busy.
    BeforeCursor,
    /// Cursors are stored.
    AfterCursor,
    /// A dead letter, or what a stream notes of an attempt, is written, its transaction is not yet committed. Failing makes the
    /// storing fail as if the file were busy.
    BeforeLetter,
    /// Pages of the log are about to be read for all streams. Failing makes the reading fail as if the file were busy.
    BeforeRead,
    /// A piece of the log's upkeep is written, its transaction is not yet committed. Failing makes the commit fail.
    BeforeUpkeep,
    /// A piece of the log's upkeep is committed.
    AfterUpkeep,
    /// What a read model makes of batches is written, its transaction is not yet committed. Failing makes the commit fail as if the
    /// file were busy.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    BeforeModel,
    /// What a read model makes of batches is committed, the stream does not know yet.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    AfterModel,
    /// What a read model in the log's own file makes of batches is written, its position and the cursor are where they were. Failing
    /// makes the commit fail as if the file were busy.
    #[cfg(feature = "sqlite")]
    InModel,
    /// A build of a read model is about to take the place of another.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    BeforeSwitch,
    /// A build of a read model serves, what it replaced is still there.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    AfterSwitch,
}

/// What a test hangs on the failure points of one store.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    #[cfg(any(feature = "internals", feature = "testing"))]
    hook: Option<Arc<dyn Fn(FaultPoint) -> bool + Send + Sync>>,
}

impl Faults {
    /// Calls `hook` at every point; where it returns `true`, the operation fails.
    #[cfg(any(feature = "internals", feature = "testing"))]
    pub(crate) fn new(hook: impl Fn(FaultPoint) -> bool + Send + Sync + 'static) -> Self {
        Self {
            hook: Some(Arc::new(hook)),
        }
    }

    /// Passes a point. `true` means: fail here.
    #[cfg(any(feature = "internals", feature = "testing"))]
    pub(crate) fn hit(&self, point: FaultPoint) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook(point))
    }

    /// Passes a point, at which nothing happens without these features.
    #[cfg(not(any(feature = "internals", feature = "testing")))]
    pub(crate) fn hit(&self, _: FaultPoint) -> bool {
        false
    }
}

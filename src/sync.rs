//! Locks and condition variables: parking_lot's, or loom's when the models are checked; and how a task lets others go on.
//!
//! Both arms are newtypes with the same few methods, so that no module can use a lock that the models do not see.

#![allow(clippy::disallowed_types, reason = "the one place where locks come from")]

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::task::Poll;
use std::time::Instant;

#[cfg(millstream_loom)]
mod arm {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[cfg(not(millstream_loom))]
mod arm {
    pub(super) use parking_lot::{Condvar, Mutex, MutexGuard};
}

/// A lock that is never held across an await, a callback, a wake or SQL.
pub(crate) struct Mutex<T>(arm::Mutex<T>);

pub(crate) struct MutexGuard<'a, T>(arm::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(arm::Mutex::new(value))
    }

    #[cfg(not(millstream_loom))]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock())
    }

    #[cfg(millstream_loom)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().expect("a model that panicked has ended"))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Lets one thread wait for what another changes under the lock.
pub(crate) struct Condvar(arm::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(arm::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits for a notification, or for the deadline. It may also return for no reason.
    #[cfg(not(millstream_loom))]
    pub(crate) fn wait_until<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        deadline: Instant,
    ) -> MutexGuard<'a, T> {
        self.0.wait_until(&mut guard.0, deadline);
        guard
    }

    /// In a model no time passes: only a notification ends the wait.
    #[cfg(millstream_loom)]
    pub(crate) fn wait_until<'a, T>(&self, guard: MutexGuard<'a, T>, _: Instant) -> MutexGuard<'a, T> {
        MutexGuard(self.0.wait(guard.0).expect("a model that panicked has ended"))
    }
}

/// Comes up again behind what else is ready. The waker is called at once: tokio's own `yield_now` keeps it until the worker
/// is free, which never happens when somebody blocks that worker, as a handler or `append_blocking` in another executor may.
pub(crate) async fn let_others() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

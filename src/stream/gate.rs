//! The gate of a stream: who may start a handler call, and where the loop's state waits while the stream rests (S7).
//!
//! One lock decides both, so that of a wake-up and an unsubscribe exactly one gets hold of a resting loop, and a loop
//! that is about to rest cannot miss that the gate was closed.

use crate::sync::Mutex;

/// `P` is the state of the loop, `C` the cause for which the gate was closed.
pub(crate) struct Gate<P, C> {
    state: Mutex<State<P, C>>,
}

struct State<P, C> {
    parked: Option<P>,
    closed: Option<C>,
}

impl<P, C: Clone> Gate<P, C> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                parked: None,
                closed: None,
            }),
        }
    }

    /// Closes the gate for the first cause given. No call starts after this returns. Whoever gets the loop's state here
    /// has to end the stream; otherwise the loop is at work and ends it itself.
    pub(crate) fn close(&self, cause: C) -> Option<P> {
        let mut state = self.state.lock();
        state.closed.get_or_insert(cause);
        state.parked.take()
    }

    /// Why the gate is closed, if it is. A handler call may start when this says that it is open: the call counts as
    /// started from then on.
    pub(crate) fn closed(&self) -> Option<C> {
        self.state.lock().closed.clone()
    }

    /// Leaves the loop's state to whoever wakes or ends the stream; gives it back when the gate is closed already.
    pub(crate) fn park(&self, loop_state: P) -> Result<(), P> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Err(loop_state);
        }
        state.parked = Some(loop_state);
        Ok(())
    }

    /// Takes the loop's state back, unless somebody else was faster.
    pub(crate) fn unpark(&self) -> Option<P> {
        self.state.lock().parked.take()
    }
}

/// Loom models of the gate. One property each.
#[cfg(all(test, millstream_loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::*;

    type TestGate = Gate<u8, &'static str>;

    #[test]
    fn s7_no_call_starts_after_the_gate_was_closed() {
        loom::model(|| {
            let gate = Arc::new(TestGate::new());
            let has_closed = Arc::new(AtomicUsize::new(0));
            let caller = thread::spawn({
                let (gate, has_closed) = (Arc::clone(&gate), Arc::clone(&has_closed));
                move || {
                    for _ in 0..2 {
                        let was_closed = has_closed.load(Ordering::SeqCst) == 1;
                        let starts = gate.closed().is_none();
                        assert!(!(was_closed && starts), "a call started after close returned");
                    }
                }
            });
            assert_eq!(gate.close("unsubscribed"), None);
            has_closed.store(1, Ordering::SeqCst);
            caller.join().unwrap();
        });
    }

    #[test]
    fn a_resting_loop_goes_to_exactly_one_of_waker_stopper_and_itself() {
        loom::model(|| {
            let gate = Arc::new(TestGate::new());
            let owners = Arc::new(AtomicUsize::new(0));
            let own = |owned: Option<u8>, owners: &AtomicUsize| {
                if owned.is_some() {
                    owners.fetch_add(1, Ordering::SeqCst);
                }
            };
            let waker = thread::spawn({
                let (gate, owners) = (Arc::clone(&gate), Arc::clone(&owners));
                move || {
                    let woken = gate.unpark();
                    let ends = woken.filter(|_| gate.closed().is_some());
                    // A loop that was woken before the stop sees the closed gate when it wants to rest again.
                    let ends = ends.or_else(|| woken.and_then(|pump| gate.park(pump).err()));
                    own(ends, &owners);
                }
            });
            let stopper = thread::spawn({
                let (gate, owners) = (Arc::clone(&gate), Arc::clone(&owners));
                move || own(gate.close("unsubscribed"), &owners)
            });
            own(gate.park(7).err(), &owners);
            waker.join().unwrap();
            stopper.join().unwrap();
            assert_eq!(owners.load(Ordering::SeqCst), 1, "exactly one ends the stream");
        });
    }
}

//! The gate of a stream: who may start a handler call, and where the loop's state waits while the stream rests (S7).
//!
//! One lock decides both, so that of a wake-up and an unsubscribe exactly one gets hold of a resting loop, and a loop
//! that is about to rest can miss neither that the gate was closed nor that it was woken: it leaves its waker where it will
//! be woken first, and rests then.

use crate::sync::Mutex;

/// `P` is the state of the loop, `C` the cause for which the gate was closed.
pub(crate) struct Gate<P, C> {
    state: Mutex<State<P, C>>,
}

struct State<P, C> {
    parked: Option<P>,
    closed: Option<C>,
    /// The loop was woken while it was at work.
    was_roused: bool,
}

/// What becomes of a loop that wants to rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parked<P, C> {
    /// Its state is left to whoever wakes or ends the stream.
    Rests,
    /// It was woken meanwhile and goes on.
    Roused(P),
    /// The gate is closed.
    Closed { state: P, cause: C },
}

impl<P, C: Clone> Gate<P, C> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                parked: None,
                closed: None,
                was_roused: false,
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

    /// Leaves the loop's state to whoever wakes or ends the stream; gives it back when that has happened already.
    pub(crate) fn park(&self, loop_state: P) -> Parked<P, C> {
        let mut state = self.state.lock();
        if let Some(cause) = state.closed.clone() {
            return Parked::Closed {
                state: loop_state,
                cause,
            };
        }
        if std::mem::take(&mut state.was_roused) {
            return Parked::Roused(loop_state);
        }
        state.parked = Some(loop_state);
        Parked::Rests
    }

    /// Takes the state of a resting loop. A loop at work will not rest before it has gone round once more.
    pub(crate) fn rouse(&self) -> Option<P> {
        let mut state = self.state.lock();
        let parked = state.parked.take();
        state.was_roused = parked.is_none();
        parked
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
            // Whoever finds the gate closed with the loop's state in hand ends the stream.
            let rest = |gate: &TestGate, mut pump: u8| loop {
                match gate.park(pump) {
                    Parked::Rests => return 0,
                    Parked::Roused(roused) => pump = roused,
                    Parked::Closed { .. } => return 1,
                }
            };
            let waker = thread::spawn({
                let (gate, owners) = (Arc::clone(&gate), Arc::clone(&owners));
                move || {
                    if let Some(pump) = gate.rouse() {
                        owners.fetch_add(rest(&gate, pump), Ordering::SeqCst);
                    }
                }
            });
            let stopper = thread::spawn({
                let (gate, owners) = (Arc::clone(&gate), Arc::clone(&owners));
                move || {
                    if gate.close("unsubscribed").is_some() {
                        owners.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            owners.fetch_add(rest(&gate, 7), Ordering::SeqCst);
            waker.join().unwrap();
            stopper.join().unwrap();
            assert_eq!(owners.load(Ordering::SeqCst), 1, "exactly one ends the stream");
        });
    }

    #[test]
    fn a_wake_up_before_the_loop_rests_is_not_lost() {
        loom::model(|| {
            let gate = Arc::new(TestGate::new());
            let waker = thread::spawn({
                let gate = Arc::clone(&gate);
                move || gate.rouse()
            });
            let parked = gate.park(7);
            let woken = waker.join().unwrap();
            match parked {
                Parked::Rests => assert_eq!(woken, Some(7), "the wake-up finds a loop at rest"),
                Parked::Roused(_) => assert_eq!(woken, None, "one of them has the loop"),
                Parked::Closed { .. } => unreachable!("nobody closes the gate"),
            }
        });
    }
}

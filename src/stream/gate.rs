//! The gate of a stream: who may start a handler call, and where the loop's state waits while the stream rests (S7).
//!
//! One lock decides both, so that of a wake-up, an unsubscribe and a word from outside exactly one gets hold of a resting
//! loop, and a loop that is about to rest can miss neither that the gate was closed, nor what it was told, nor that it was
//! woken: it leaves its waker where it will be woken first, and rests then.

use crate::sync::Mutex;

/// `P` is the state of the loop, `C` the cause for which the gate was closed, `S` what the loop can be told.
pub(crate) struct Gate<P, C, S> {
    state: Mutex<State<P, C, S>>,
}

struct State<P, C, S> {
    parked: Option<P>,
    closed: Option<C>,
    /// What the loop was told and has not heeded yet. A newer word takes the place of an older one.
    told: Option<S>,
    /// The loop was woken while it was at work.
    was_roused: bool,
}

/// What the gate has for a loop that is about to go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passage<C, S> {
    /// A handler call may start; it counts as started from then on.
    Open,
    /// The loop was told something, which it heeds before it goes on.
    Told(S),
    /// The gate is closed.
    Closed(C),
}

/// What becomes of a loop that wants to rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parked<P> {
    /// Its state is left to whoever wakes or ends the stream.
    Rests,
    /// It was woken or told something meanwhile, and goes on.
    Roused(P),
    /// The gate is closed.
    Closed(P),
}

impl<P, C: Clone, S> Gate<P, C, S> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                parked: None,
                closed: None,
                told: None,
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

    /// Why the gate is closed, if it is.
    pub(crate) fn closed(&self) -> Option<C> {
        self.state.lock().closed.clone()
    }

    /// Tells the loop something that it heeds before its next handler call. Whoever gets the loop's state here has to let
    /// it run; otherwise the loop is at work, or the stream has ended.
    pub(crate) fn tell(&self, word: S) -> Option<P> {
        let mut state = self.state.lock();
        state.told = Some(word);
        state.parked.take()
    }

    /// Whether the loop, at work, has something to heed first.
    pub(crate) fn calls(&self) -> bool {
        let state = self.state.lock();
        state.closed.is_some() || state.told.is_some()
    }

    /// Asked by the loop before each handler call.
    pub(crate) fn pass(&self) -> Passage<C, S> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.closed {
            return Passage::Closed(cause.clone());
        }
        state.told.take().map_or(Passage::Open, Passage::Told)
    }

    /// Leaves the loop's state to whoever wakes or ends the stream; gives it back when that has happened already.
    pub(crate) fn park(&self, loop_state: P) -> Parked<P> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Parked::Closed(loop_state);
        }
        if std::mem::take(&mut state.was_roused) || state.told.is_some() {
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

    type TestGate = Gate<u8, &'static str, u8>;

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
                        let starts = gate.pass() == Passage::Open;
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
                    Parked::Closed(_) => return 1,
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

    /// What a loop does that finds nothing to do: heeds what it was told, and rests.
    fn heed_and_rest(gate: &TestGate, mut pump: u8, heeded: &AtomicUsize) {
        loop {
            if let Passage::Told(word) = gate.pass() {
                heeded.store(usize::from(word), Ordering::SeqCst);
            }
            match gate.park(pump) {
                Parked::Rests => return,
                Parked::Roused(roused) => pump = roused,
                Parked::Closed(_) => unreachable!("nobody closes the gate"),
            }
        }
    }

    #[test]
    fn no_call_starts_after_a_word_before_the_word_is_heeded() {
        loom::model(|| {
            let gate = Arc::new(TestGate::new());
            let was_told = Arc::new(AtomicUsize::new(0));
            let caller = thread::spawn({
                let (gate, was_told) = (Arc::clone(&gate), Arc::clone(&was_told));
                move || {
                    let mut has_heeded = false;
                    for _ in 0..2 {
                        let must_heed = was_told.load(Ordering::SeqCst) == 1 && !has_heeded;
                        match gate.pass() {
                            Passage::Told(_) => has_heeded = true,
                            Passage::Open => assert!(!must_heed, "a call started past a word"),
                            Passage::Closed(_) => unreachable!("nobody closes the gate"),
                        }
                    }
                }
            });
            assert_eq!(gate.tell(1), None);
            was_told.store(1, Ordering::SeqCst);
            caller.join().unwrap();
        });
    }

    #[test]
    fn the_newest_word_is_heeded_whoever_wakes_the_loop() {
        loom::model(|| {
            let gate = Arc::new(TestGate::new());
            let heeded = Arc::new(AtomicUsize::new(0));
            let waker = thread::spawn({
                let (gate, heeded) = (Arc::clone(&gate), Arc::clone(&heeded));
                move || {
                    if let Some(pump) = gate.rouse() {
                        heed_and_rest(&gate, pump, &heeded);
                    }
                }
            });
            let teller = thread::spawn({
                let (gate, heeded) = (Arc::clone(&gate), Arc::clone(&heeded));
                move || {
                    for word in [1, 2] {
                        if let Some(pump) = gate.tell(word) {
                            heed_and_rest(&gate, pump, &heeded);
                        }
                    }
                }
            });
            heed_and_rest(&gate, 7, &heeded);
            waker.join().unwrap();
            teller.join().unwrap();
            assert_eq!(heeded.load(Ordering::SeqCst), 2, "the newest word was heeded");
            assert_eq!(gate.close("unsubscribed"), Some(7), "and the loop rests");
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
                Parked::Closed(_) => unreachable!("nobody closes the gate"),
            }
        });
    }
}

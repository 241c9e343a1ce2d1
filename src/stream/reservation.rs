//! Names that are being registered in several steps: one registration at a time.
//!
//! Whoever keeps a read model claims its stream in the log, prepares the model's tables, and registers the stream then. Of two who do that
//! at once in one store, the one who fails would let go of the claim on which the other one's stream relies.

use std::collections::HashSet;
use std::sync::Arc;

use crate::sync::Mutex;

pub(crate) struct Reservations {
    names: Mutex<HashSet<Arc<str>>>,
}

/// The right to register a name. It ends when this is dropped.
pub(crate) struct Reservation {
    reservations: Arc<Reservations>,
    name: Arc<str>,
}

impl Reservations {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::new(HashSet::new()),
        })
    }

    /// Nothing: somebody else in this store registers the name just now.
    pub(crate) fn reserve(self: &Arc<Self>, name: &Arc<str>) -> Option<Reservation> {
        let is_new = self.names.lock().insert(Arc::clone(name));
        is_new.then(|| Reservation {
            reservations: Arc::clone(self),
            name: Arc::clone(name),
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.names.lock().remove(&self.name);
    }
}

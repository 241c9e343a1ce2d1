//! Which tenants are open, and what becomes of whoever asks for one. Pure: it decides, `host` does.
//!
//! A tenant without a seat is closed:
//!
//! ```text
//!            begin_open            opened             begin_close
//!   (none) -------------> Opening --------> Open(n) --------------> Closing ---+
//!     ^  |                   | gone           | n = 0                          | gone
//!     |  | begin_delete      |                +-- begin_delete --> Deleting ---+
//!     |  +---------> Deleting|                                                 |
//!     +----------------------+-------------------------------------------------+
//! ```
//!
//! So each tenant is opened once, however many ask; nobody gets hold of one that is being closed; and only one that nobody holds is
//! closed, but by `shut`, which is the end of all.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

/// The seats of all tenants that are not closed. `S` is an open tenant, `W` what those wait for who ask while it is opened.
pub(crate) struct Table<S, W> {
    seats: BTreeMap<Arc<str>, Seat<S, W>>,
    /// How many wait until there is room for one more.
    room_wanted: usize,
    /// Counts what happens to open tenants, so that an old look at one can be told.
    moment: u64,
    is_reaped: bool,
    is_shut: bool,
}

enum Seat<S, W> {
    Opening(W),
    Open(Open<S>),
    Closing,
    Deleting,
}

struct Open<S> {
    tenant: S,
    handles: usize,
    opened_at: Instant,
    used_at: Instant,
    /// The moment at which it was last taken or given back.
    used: u64,
}

/// What becomes of whoever asks for a tenant.
#[derive(Debug)]
pub(crate) enum Answer<S, W> {
    /// It is theirs, until `release`.
    Taken(S),
    /// Somebody opens it.
    Opening(W),
    /// It is being closed or deleted: ask again when that is over.
    Ending,
    /// It is closed: find room, and begin to open it.
    Absent,
    Shut,
}

/// What becomes of whoever wants to delete a tenant.
#[derive(Debug)]
pub(crate) enum Removal<S> {
    /// Theirs to delete, when it was open after closing it.
    Begun(Option<S>),
    /// So many hold it.
    Held(usize),
    /// Something else is under way: ask again when that is over.
    Later,
    Shut,
}

/// An open tenant that nobody holds, as it was looked at.
#[derive(Debug)]
pub(crate) struct Unused<T> {
    pub(crate) name: Arc<str>,
    pub(crate) tenant: T,
    used: u64,
}

/// What is to be seen of one seat.
pub(crate) struct Seen {
    pub(crate) name: Arc<str>,
    pub(crate) stage: Stage,
    pub(crate) handles: usize,
    /// When it was opened, and last taken or given back.
    pub(crate) since: Option<(Instant, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Opening,
    Open,
    Closing,
    Deleting,
}

impl<S: Clone, W: Clone> Table<S, W> {
    pub(crate) fn new() -> Self {
        Self {
            seats: BTreeMap::new(),
            room_wanted: 0,
            moment: 0,
            is_reaped: false,
            is_shut: false,
        }
    }

    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn take(&mut self, name: &str, now: Instant) -> Answer<S, W> {
        if self.is_shut {
            return Answer::Shut;
        }
        let used = self.next_moment();
        match self.seats.get_mut(name) {
            None => Answer::Absent,
            Some(Seat::Opening(outcome)) => Answer::Opening(outcome.clone()),
            Some(Seat::Closing | Seat::Deleting) => Answer::Ending,
            Some(Seat::Open(open)) => {
                open.handles += 1;
                open.used_at = now;
                open.used = used;
                Answer::Taken(open.tenant.clone())
            }
        }
    }

    /// Gives back what was taken. It is the same tenant still, because none is closed that is held, or all were shut meanwhile.
    pub(crate) fn release(&mut self, name: &str, now: Instant) {
        let used = self.next_moment();
        if let Some(Seat::Open(open)) = self.seats.get_mut(name) {
            open.handles -= 1;
            open.used_at = now;
            open.used = used;
        }
    }

    /// `false`, when somebody else was first.
    pub(crate) fn begin_open(&mut self, name: &Arc<str>, outcome: W) -> bool {
        let may_open = !self.is_shut && !self.seats.contains_key(name);
        if may_open {
            self.seats.insert(Arc::clone(name), Seat::Opening(outcome));
        }
        may_open
    }

    /// The tenant is open, and taken by whoever began to open it. `false`, when all were shut meanwhile.
    pub(crate) fn opened(&mut self, name: &Arc<str>, tenant: S, now: Instant) -> bool {
        if self.is_shut {
            return false;
        }
        let used = self.next_moment();
        let open = Open {
            tenant,
            handles: 1,
            opened_at: now,
            used_at: now,
            used,
        };
        self.seats.insert(Arc::clone(name), Seat::Open(open));
        true
    }

    /// What was opened, closed or deleted is over.
    pub(crate) fn gone(&mut self, name: &str) {
        self.seats.remove(name);
    }

    /// The open tenants that nobody holds, the one first that was used longest ago; with `before` those alone that were last used
    /// then or earlier.
    pub(crate) fn unused<T>(&self, before: Option<Instant>, see: impl Fn(&S) -> T) -> Vec<Unused<T>> {
        let mut unused: Vec<_> = self
            .seats
            .iter()
            .filter_map(|(name, seat)| match seat {
                Seat::Open(open)
                    if open.handles == 0 && before.is_none_or(|before| open.used_at <= before) =>
                {
                    Some(Unused {
                        name: Arc::clone(name),
                        tenant: see(&open.tenant),
                        used: open.used,
                    })
                }
                _ => None,
            })
            .collect();
        unused.sort_by_key(|unused| unused.used);
        unused
    }

    /// The tenant is the caller's to close, unless it was used since it was looked at.
    pub(crate) fn begin_close<T>(&mut self, looked_at: &Unused<T>) -> Option<S> {
        let seat = self.seats.get_mut(&looked_at.name)?;
        match seat {
            Seat::Open(open) if open.used == looked_at.used && open.handles == 0 => {}
            _ => return None,
        }
        match std::mem::replace(seat, Seat::Closing) {
            Seat::Open(open) => Some(open.tenant),
            _ => None,
        }
    }

    pub(crate) fn begin_delete(&mut self, name: &Arc<str>) -> Removal<S> {
        if self.is_shut {
            return Removal::Shut;
        }
        let tenant = match self.seats.get(name) {
            None => None,
            Some(Seat::Open(open)) if open.handles > 0 => return Removal::Held(open.handles),
            Some(Seat::Open(open)) => Some(open.tenant.clone()),
            Some(Seat::Opening(_) | Seat::Closing | Seat::Deleting) => return Removal::Later,
        };
        self.seats.insert(Arc::clone(name), Seat::Deleting);
        Removal::Begun(tenant)
    }

    /// Hands out nothing any more. What is open is the caller's to close, whoever holds it.
    pub(crate) fn shut(&mut self) -> Vec<(Arc<str>, S)> {
        self.is_shut = true;
        let mut open = Vec::new();
        for (name, seat) in &mut self.seats {
            if matches!(seat, Seat::Open(_))
                && let Seat::Open(shut) = std::mem::replace(seat, Seat::Closing)
            {
                open.push((Arc::clone(name), shut.tenant));
            }
        }
        open
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(crate) fn room_wanted(&mut self, more: Room) {
        match more {
            Room::Wanted => self.room_wanted += 1,
            Room::NotWanted => self.room_wanted -= 1,
        }
    }

    /// Whether more wait for room than tenants are being closed.
    pub(crate) fn wants_room(&self) -> bool {
        let ends = |seat: &&Seat<S, W>| matches!(seat, Seat::Closing | Seat::Deleting);
        self.room_wanted > self.seats.values().filter(ends).count()
    }

    /// `false`, when somebody looks for idle tenants already.
    pub(crate) fn begin_reaping(&mut self) -> bool {
        !std::mem::replace(&mut self.is_reaped, true)
    }

    pub(crate) fn end_reaping(&mut self) {
        self.is_reaped = false;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        let see = |(name, seat): (&Arc<str>, &Seat<S, W>)| {
            let (stage, open) = match seat {
                Seat::Opening(_) => (Stage::Opening, None),
                Seat::Open(open) => (Stage::Open, Some(open)),
                Seat::Closing => (Stage::Closing, None),
                Seat::Deleting => (Stage::Deleting, None),
            };
            Seen {
                name: Arc::clone(name),
                stage,
                handles: open.map_or(0, |open| open.handles),
                since: open.map(|open| (open.opened_at, open.used_at)),
            }
        };
        self.seats.iter().map(see).collect()
    }

    /// What is under way with a tenant.
    pub(crate) fn stage(&self, name: &str) -> Option<Stage> {
        Some(match self.seats.get(name)? {
            Seat::Opening(_) => Stage::Opening,
            Seat::Open(_) => Stage::Open,
            Seat::Closing => Stage::Closing,
            Seat::Deleting => Stage::Deleting,
        })
    }
}

/// Whether somebody waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Wanted,
    NotWanted,
}

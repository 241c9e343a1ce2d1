//! A log under test, which can be opened, and opened again.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::builder::StoreBuilder;
use crate::error::{BoxError, OpenError};
use crate::fault::{FaultPoint, Faults};
use crate::log::broken::Sabotage;
use crate::store::Store;

/// One new, empty log, for one proof.
pub trait TestLog: Send + Sync + 'static {
    /// Opens the log, with [`StoreBuilder::open_log`]. The builder has what the proof wants, and hooks of the kit.
    ///
    /// # Errors
    /// Whatever keeps it from being opened; the proof fails with it.
    fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError>;

    /// What the log can do beyond the least. Of a log without [`Reopened`](Capability::Reopened) a proof opens one store alone.
    fn has(&self, capability: Capability) -> bool;

    /// Changes what the log has stored, past every store, as somebody does with a tool of the database. Called for a log that
    /// [can be changed so](Capability::Tampered), which may be open.
    ///
    /// # Errors
    /// Whatever keeps it from being changed; the proof fails with it.
    fn tamper(&self, change: Tampering<'_>) -> Result<(), BoxError> {
        Err(format!("this log cannot be changed past its stores: {change:?}").into())
    }
}

/// What a log may be able to do, and need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// What was committed is there when the log is opened again. Without it proofs that come to a restart go on with the same store.
    Reopened,
    /// Several stores may have the log open at the same time, those of one process at least.
    Shared,
    /// It can be changed past its stores, so that what they do about that can be seen.
    Tampered,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reopened, Self::Shared, Self::Tampered];
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reopened => "a log that can be opened again",
            Self::Shared => "a log that several stores may have open",
            Self::Tampered => "a log that can be changed past its stores",
        })
    }
}

/// What is to be changed past the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tampering<'a> {
    /// Remove the events after this sequence, the newest of the log.
    RemoveEventsAfter(u64),
    /// Store another position for a durable stream, as [`StoredCursor::placed_at`](crate::contract::StoredCursor::placed_at) has it.
    MoveCursor {
        /// The stream's name.
        stream: &'a str,
        /// The position.
        position: u64,
    },
    /// Let the cursor of a durable stream be one of another log, as [`StoredCursor::of_log`](crate::contract::StoredCursor::of_log) has it.
    GiveCursor {
        /// The stream's name.
        stream: &'a str,
        /// The id of the other log.
        log_id: &'a str,
    },
}

/// A log under test with what a proof does to it.
pub struct Subject {
    log: Box<dyn TestLog>,
    /// The store of a log that cannot be opened again, which ends with it.
    store: OnceLock<Store>,
    wake_ups: WakeUps,
    sabotage: Option<Sabotage>,
}

/// What becomes of the bus's wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WakeUps {
    Arrive,
    AreLost { poll_interval: Duration },
}

impl Subject {
    /// A new, empty log.
    pub fn new(log: impl TestLog) -> Self {
        Self {
            log: Box::new(log),
            store: OnceLock::new(),
            wake_ups: WakeUps::Arrive,
            sabotage: None,
        }
    }

    /// Loses every wake-up, whatever the proof says.
    pub fn losing_wake_ups(mut self, poll_interval: Duration) -> Self {
        self.wake_ups = WakeUps::AreLost { poll_interval };
        self
    }

    /// Lets the log break a promise.
    pub fn breaking(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// Whether the log can do something.
    pub fn has(&self, capability: Capability) -> bool {
        self.log.has(capability)
    }

    /// Opens the log with default options.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn open(&self) -> Store {
        self.open_with(|builder| builder)
    }

    /// Opens the log. One that cannot be opened again keeps the options that it was opened with first.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn open_with(&self, options: impl FnOnce(StoreBuilder) -> StoreBuilder) -> Store {
        self.open_faulty(options, |_| false)
    }

    /// Opens the log with a hook at the failure points.
    pub(crate) fn open_faulty(
        &self,
        options: impl FnOnce(StoreBuilder) -> StoreBuilder,
        hook: impl Fn(FaultPoint) -> bool + Send + Sync + 'static,
    ) -> Store {
        let loses_wake_ups = self.wake_ups != WakeUps::Arrive;
        let mut builder = options(Store::builder());
        if let WakeUps::AreLost { poll_interval } = self.wake_ups {
            builder = builder.poll_interval(poll_interval);
        }
        if let Some(sabotage) = self.sabotage {
            builder = builder.sabotage(sabotage);
        }
        let builder = builder.faults(Faults::new(move |point| {
            hook(point) || (loses_wake_ups && point == FaultPoint::Wake)
        }));
        let open = || match self.log.open(builder) {
            Ok(store) => store,
            Err(error) => panic!("the log cannot be opened: {error}"),
        };
        match self.log.has(Capability::Reopened) {
            true => open(),
            false => self.store.get_or_init(open).clone(),
        }
    }

    /// Ends what runs, and opens the log again. A log that cannot be opened again goes on with the same store, so that the proof has to
    /// end its streams itself.
    ///
    /// # Panics
    /// The store cannot be closed, or the log not be opened.
    pub async fn reopen(&self, store: Store) -> Store {
        if self.log.has(Capability::Reopened)
            && let Err(error) = store.close().await
        {
            panic!("the store cannot be closed: {error}");
        }
        drop(store);
        self.open()
    }

    /// Changes the log past its stores.
    ///
    /// # Panics
    /// It cannot be changed so.
    pub fn tamper(&self, change: Tampering<'_>) {
        if let Err(error) = self.log.tamper(change) {
            panic!("the log cannot be changed by hand, {change:?}: {error}");
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Subject")
            .field("wake_ups", &self.wake_ups)
            .field("sabotage", &self.sabotage)
            .finish_non_exhaustive()
    }
}

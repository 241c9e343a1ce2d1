//! A clock that a test moves.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::builder::StoreBuilder;
use crate::clock::Clock;

/// A clock that stands until the test moves it, for the stores that are [given](with_clock) it. Clones are one clock.
///
/// It says at what time events are recorded, [`EventRecord::recorded_at`](crate::EventRecord::recorded_at), and so what
/// [`Start::At`](crate::Start::At), [`Prune::older_than`](crate::Prune::older_than) and statistics by day compare. It says how old events
/// are: [`StreamStatus::oldest_unhandled`](crate::StreamStatus::oldest_unhandled), and with it whether
/// [`Store::health`](crate::Store::health) calls a lag too old, and the metric `millstream_stream_delay_seconds`.
///
/// Everything else follows the system's clock: when a stream was paused, when a dead letter was set aside and how old it is, how long a
/// stream has stood still. Pauses between retries, timeouts, checkpoints and limits are timers of tokio, which
/// `tokio::time::pause` and `advance` move.
///
/// Recorded time never decreases along the log: a clock that was set back records the time of the newest event, until it is past that.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::{Duration, UNIX_EPOCH};
///
/// use millstream::testing::{Recorder, TestClock, with_clock};
/// use millstream::{DurableStream, NewEvent, Start, Store};
///
/// let new_year = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
/// let clock = TestClock::at(new_year);
/// let store = with_clock(Store::builder(), &clock).in_memory()?;
/// store.append([NewEvent::new("counted", 1)]).await?;
/// clock.advance(Duration::from_secs(3600));
/// store.append([NewEvent::new("counted", 2)]).await?;
///
/// let recorder = Recorder::new();
/// let from = DurableStream::new("late").start(Start::At(new_year + Duration::from_secs(60)));
/// let stream = store.stream_all_durable(&from, recorder.handler()).await?;
/// stream.caught_up().await?;
/// assert_eq!(recorder.sequences(), [2]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TestClock {
    clock: Clock,
}

impl TestClock {
    /// A clock that stands at this time, which is kept in microseconds.
    pub fn at(time: SystemTime) -> Self {
        Self {
            clock: Clock::standing_at(time.into()),
        }
    }

    /// What time it is.
    pub fn now(&self) -> SystemTime {
        self.clock.now().into()
    }

    /// Sets it, forward or back.
    pub fn set(&self, time: SystemTime) {
        self.clock.change(|_| time.into());
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.clock.change(|now| now.after(by));
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TestClock").field(&self.now()).finish()
    }
}

/// Lets the stores that the builder opens tell the time from this clock.
pub fn with_clock(builder: StoreBuilder, clock: &TestClock) -> StoreBuilder {
    builder.clock(clock.clock.clone())
}

//! What the tests of a program need: the feature `testing`, for `[dev-dependencies]`.
//!
//! | to test | there is |
//! | --- | --- |
//! | what a handler was given | [`Recorder`] |
//! | what a program does when a handler fails, panics or hangs | [`Failing`] and [`Mishap`] |
//! | what depends on when events were recorded | [`TestClock`] and [`with_clock`] |
//! | that nothing rests on being woken | [`deaf`] |
//! | what a projection makes of events | `Given` |
//!
//! Tests wait for a state and never for time: [`Store::settled`](crate::Store::settled) waits until every stream has handled
//! everything. `docs/testing.md` shows how it goes together.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use millstream::testing::{Failing, Mishap, Recorder};
//! use millstream::{DurableStream, NewEvent, Store};
//!
//! let store = Store::in_memory()?;
//! let recorder = Recorder::new();
//! let failing = Failing::new().at(2, Mishap::error().times(1));
//! let handle = failing.around(recorder.handler());
//! let stream = store.stream_all_durable(&DurableStream::new("ledger"), handle).await?;
//!
//! for number in 1..=3 {
//!     store.append([NewEvent::new("counted", number)]).await?;
//! }
//! store.settled().await?;
//! assert_eq!(recorder.sequences(), [1, 2, 3], "the second was retried, and nothing was skipped");
//! assert_eq!(stream.status().failures, 1);
//! # Ok(()) }
//! ```

mod clock;
mod failing;
#[cfg(feature = "sqlite")]
mod given;
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing.md")]
mod page {}
mod patience;
mod recorder;

use crate::builder::StoreBuilder;
use crate::fault::{FaultPoint, Faults};

pub use crate::testing::clock::{TestClock, with_clock};
pub use crate::testing::failing::{Failing, Mishap};
#[cfg(feature = "sqlite")]
pub use crate::testing::given::Given;
pub use crate::testing::recorder::Recorder;

/// A store that loses every wake-up: nobody is told when a batch is committed, and streams find it when the store looks around, at the
/// [poll interval](StoreBuilder::poll_interval) (D8).
///
/// Whatever a test of a program says of events that are handled late is true on such a store; with an ordinary one it is true by
/// chance.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use millstream::testing::{Recorder, deaf};
/// use millstream::{NewEvent, Store};
///
/// let store = deaf(Store::builder().poll_interval(Duration::from_millis(5))).in_memory()?;
/// let recorder = Recorder::new();
/// let _stream = store.stream_all(recorder.handler()).await?;
/// store.append([NewEvent::new("counted", 1)]).await?;
/// recorder.until(|batches| batches.len() == 1).await;
/// # Ok(()) }
/// ```
pub fn deaf(builder: StoreBuilder) -> StoreBuilder {
    builder.faults(Faults::new(|point| point == FaultPoint::Wake))
}

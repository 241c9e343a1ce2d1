//! Appends by several writers at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::order::Order;
use crate::peer::{Failure, Peer, Writer};
use crate::protocol::{Measured, Plan};
use crate::run::work;

/// Orders of one writer.
const ORDERS: usize = 100;

/// What one writer did.
#[derive(Default)]
pub(super) struct Written {
    /// Events that were acknowledged.
    pub(super) events: u64,
    /// Appends that were not.
    pub(super) failed: u64,
    pub(super) error: Option<String>,
}

impl Written {
    /// Takes the outcome of one append.
    pub(super) fn add(&mut self, events: usize, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.events += events as u64,
            Err(error) => {
                self.failed += 1;
                self.error.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

pub(super) async fn measure<P: Peer>(
    peer: &Arc<P>,
    plan: &Plan,
    writers: usize,
    batch: usize,
) -> Result<Measured, Failure> {
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs_f64(plan.seconds);
    let writers: Vec<_> = (0..writers)
        .map(|number| work::start::<P, _>(write(peer.writer(), number, batch, deadline)))
        .collect();
    let mut measured = Measured::default();
    for writer in writers {
        let written = writer.await?;
        measured.events += written.events;
        measured.failed += written.failed;
        measured.error = measured.error.or(written.error);
    }
    measured.value = measured.events as f64 / begin.elapsed().as_secs_f64();
    let stored = peer.stored().await?;
    measured.lost = measured.events.saturating_sub(stored);
    let most = measured.events + measured.failed * batch as u64;
    measured.doubled = stored.saturating_sub(most);
    Ok(measured)
}

/// One writer: append after append, each to one of its orders.
async fn write(mut writer: impl Writer, number: usize, batch: usize, deadline: Instant) -> Written {
    let mut written = Written::default();
    let mut appends = 0;
    while Instant::now() < deadline {
        let order = number * ORDERS + appends % ORDERS;
        let first = written.events;
        let orders: Vec<_> = (first..first + batch as u64)
            .map(|n| Order::new(n, order))
            .collect();
        written.add(batch, writer.append(&orders).await);
        appends += 1;
    }
    written
}

/// Fills a log with as many events as there is time for.
pub(super) async fn fill<P: Peer>(
    peer: &Arc<P>,
    plan: &Plan,
    events: u64,
    batch: usize,
) -> Result<Measured, Failure> {
    let deadline = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let mut writer = peer.writer();
    let filling = work::start::<P, _>(async move {
        let mut filled = 0;
        while filled < events && Instant::now() < deadline {
            let order = (filled / batch as u64) as usize % ORDERS;
            let orders: Vec<_> = (filled..filled + batch as u64)
                .map(|n| Order::new(n, order))
                .collect();
            writer.append(&orders).await?;
            filled += batch as u64;
        }
        Ok::<_, Failure>(filled)
    });
    let events = filling.await??;
    Ok(Measured {
        events,
        ..Measured::default()
    })
}

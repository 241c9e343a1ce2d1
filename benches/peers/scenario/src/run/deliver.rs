//! One writer appends, streams are called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::order::{self, Order};
use crate::peer::{Failure, Kind, Peer, Subscription, Wants, Writer};
use crate::protocol::{Measured, Plan};
use crate::run::append::Written;
use crate::run::drain::drain;
use crate::run::work;
use crate::sink::{Sink, Spread};

/// The writer is never further ahead of the handlers than so many calls, so that the rate is that of the delivery and
/// the wait afterwards is short.
const AHEAD_MAX: u64 = 20_000;

/// Between the registration of the streams and the first append, so that those that poll have begun to.
const SETTLE: Duration = Duration::from_millis(150);

/// The streams of a scenario.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    count: usize,
    kind: Kind,
    spread: Spread,
}

impl Streams {
    pub(super) fn new(count: usize, kind: Kind, spread: Spread) -> Self {
        Self { count, kind, spread }
    }

    /// How often handlers are called with so many events.
    fn calls(self, events: u64) -> u64 {
        match self.spread {
            Spread::All => events * self.count as u64,
            Spread::Own => events,
        }
    }

    fn order(self, n: u64) -> Order {
        Order::new(n, (n % self.count as u64) as usize)
    }
}

/// Registers all streams, and gives where their events go.
pub(super) async fn subscribe<P: Peer>(peer: &Arc<P>, streams: Streams) -> Result<Arc<Sink>, Failure> {
    let sink = Arc::new(Sink::new(streams.count, streams.spread));
    for stream in 0..streams.count {
        let wants = match streams.spread {
            Spread::All => Wants::All,
            Spread::Own => Wants::Order(order::name(stream)),
        };
        let subscription = Subscription {
            stream,
            kind: streams.kind,
            wants,
            sink: Arc::clone(&sink),
        };
        let peer = Arc::clone(peer);
        work::start::<P, _>(async move { peer.subscribe(subscription).await }).await??;
    }
    sleep(SETTLE).await;
    Ok(sink)
}

pub(super) async fn measure<P: Peer>(
    peer: &Arc<P>,
    plan: &Plan,
    streams: Streams,
    batch: usize,
) -> Result<Measured, Failure> {
    let sink = subscribe(peer, streams).await?;
    let mut writer = peer.writer();
    let ahead = Arc::clone(&sink);
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs_f64(plan.seconds);
    let producer = work::start::<P, _>(async move {
        let mut written = Written::default();
        while Instant::now() < deadline {
            if streams.calls(written.events).saturating_sub(ahead.handled()) > AHEAD_MAX {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            let numbers = written.events..written.events + batch as u64;
            let orders: Vec<_> = numbers.map(|n| streams.order(n)).collect();
            written.add(batch, writer.append(&orders).await);
        }
        written
    });
    let mut measured = measured(producer.await?);
    let limit = Duration::from_secs_f64(plan.drain_seconds);
    drain(&sink, streams.calls(measured.events), limit, &mut measured).await;
    measured.value = per_second(&sink, begin);
    Ok(measured)
}

pub(super) async fn measure_delay<P: Peer>(
    peer: &Arc<P>,
    plan: &Plan,
    per_second: u32,
) -> Result<Measured, Failure> {
    let streams = Streams::new(1, Kind::Live, Spread::All);
    let sink = subscribe(peer, streams).await?;
    let events = (plan.seconds * f64::from(per_second)) as usize;
    sink.measure_delays(events);
    let mut writer = peer.writer();
    let clock = Arc::clone(&sink);
    // A store too slow for the rate does fewer.
    let deadline = Instant::now() + Duration::from_secs_f64(plan.seconds * 1.5);
    let producer = work::start::<P, _>(async move {
        let mut tick = interval(Duration::from_secs(1) / per_second);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = Written::default();
        while written.events < events as u64 && Instant::now() < deadline {
            tick.tick().await;
            let orders = [streams.order(written.events)];
            clock.appending(written.events);
            written.add(1, writer.append(&orders).await);
        }
        written
    });
    let mut measured = measured(producer.await?);
    let limit = Duration::from_secs_f64(plan.drain_seconds);
    drain(&sink, measured.events, limit, &mut measured).await;
    let delays = sink.delays([0.5, 0.99, 0.999]);
    measured.value = delays[0];
    measured.delay = Some(delays);
    Ok(measured)
}

pub(super) fn measured(written: Written) -> Measured {
    Measured {
        events: written.events,
        failed: written.failed,
        error: written.error,
        ..Measured::default()
    }
}

/// Handled events in the time up to the last of them.
pub(super) fn per_second(sink: &Sink, begin: Instant) -> f64 {
    let time = sink.last_at().saturating_duration_since(begin);
    match sink.handled() {
        0 => 0.0,
        handled => handled as f64 / time.as_secs_f64(),
    }
}

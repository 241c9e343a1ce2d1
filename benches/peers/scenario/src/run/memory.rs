//! How much memory it takes when a handler does not return while much is appended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::order::Order;
use crate::peer::{Failure, Kind, Peer, Writer};
use crate::process;
use crate::protocol::{Measured, Plan};
use crate::run::append::Written;
use crate::run::deliver::{self, Streams};
use crate::run::drain::drain;
use crate::run::work;
use crate::sink::Spread;

pub(super) async fn measure<P: Peer>(
    peer: &Arc<P>,
    plan: &Plan,
    bytes: u64,
    batch: usize,
) -> Result<Measured, Failure> {
    let sink = deliver::subscribe(peer, Streams::new(1, Kind::Live, Spread::All)).await?;
    let idle = process::resident();
    sink.close();
    let mut writer = peer.writer();
    let deadline = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let size = serde_json::to_string(&Order::large(0, 0))?.len() as u64;
    let producer = work::start::<P, _>(async move {
        let mut written = Written::default();
        while written.events * size < bytes && Instant::now() < deadline {
            let numbers = written.events..written.events + batch as u64;
            let orders: Vec<_> = numbers.map(|n| Order::large(n, 0)).collect();
            written.add(batch, writer.append(&orders).await);
        }
        written
    });
    let mut measured = deliver::measured(producer.await?);
    measured.burst = (measured.events * size) as f64 / f64::from(1 << 20);
    sink.open();
    let limit = Duration::from_secs_f64(plan.drain_seconds);
    drain(&sink, measured.events, limit, &mut measured).await;
    measured.value = process::peak() - idle;
    Ok(measured)
}

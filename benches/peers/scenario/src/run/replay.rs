//! A new stream is given all of a log that another process filled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::peer::{Failure, Kind, Peer, Subscription, Wants};
use crate::protocol::{Measured, Plan};
use crate::run::deliver::per_second;
use crate::run::drain::drain;
use crate::run::work;
use crate::sink::{Sink, Spread};

pub(super) async fn measure<P: Peer>(peer: &Arc<P>, plan: &Plan, events: u64) -> Result<Measured, Failure> {
    let sink = Arc::new(Sink::new(1, Spread::All));
    let subscription = Subscription {
        stream: 0,
        kind: Kind::Replay,
        wants: Wants::All,
        sink: Arc::clone(&sink),
    };
    let mut measured = Measured {
        events,
        ..Measured::default()
    };
    let limit = Duration::from_secs_f64(plan.seconds);
    let begin = Instant::now();
    let replaying = Arc::clone(peer);
    let subscribed = work::start::<P, _>(async move { replaying.subscribe(subscription).await });
    // Some return when they are done, some at once.
    if let Ok(subscribed) = tokio::time::timeout(limit, subscribed).await {
        subscribed??;
    }
    let left = limit.saturating_sub(begin.elapsed());
    drain(&sink, events, left, &mut measured).await;
    measured.value = per_second(&sink, begin);
    Ok(measured)
}

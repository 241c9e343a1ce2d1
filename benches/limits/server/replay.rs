//! How fast a history is replayed.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use millstream::{Durability, EventQuery, Store};
use tokio::runtime::Runtime;

use crate::fill;
use crate::replay::replay;
use crate::report::{Report, Target, per_second};
use crate::server::Server;
use crate::{Failure, Scale};

const SCHEMA: &str = "limits_replay";
const COPY: &str =
    "COPY event (sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata)
    TO STDOUT (FORMAT binary)";

pub(super) fn measure(
    runtime: &Runtime,
    server: &Server,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants("pg_replay_1m") {
        return Ok(());
    }
    let rounds = runtime.block_on(async {
        let relaxed = Store::builder().durability(Durability::Relaxed);
        let store = server.store(SCHEMA, relaxed).await?;
        fill::fill_store(&store, scale.history).await?;
        let plain = server.plain(SCHEMA).await?;
        // What the server would do now and then is done before, so that both sides find the same.
        plain.batch_execute("VACUUM ANALYZE event").await?;
        let events = store.head() as usize;
        let mut rounds = Vec::new();
        for round in 0..scale.rounds {
            let ours = replay(&store, &EventQuery::all(), &format!("all-{round}")).await?;
            let limit = copy(&plain).await?;
            println!(
                "  {:.0} and {:.0} ms",
                ours.as_secs_f64() * 1e3,
                limit.as_secs_f64() * 1e3
            );
            rounds.push((per_second(events, ours), per_second(events, limit)));
        }
        store.close().await?;
        Ok::<_, Failure>(rounds)
    })?;
    report.add("pg_replay_1m", "events/s", &rounds, Target::AtLeast(0.5));
    Ok(())
}

/// Copies the columns of all events out, and looks at none of them.
async fn copy(client: &tokio_postgres::Client) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut rows = pin!(client.copy_out(COPY).await?);
    let mut bytes = 0;
    while let Some(row) = rows.next().await {
        bytes += row?.len();
    }
    if bytes == 0 {
        return Err("nothing was copied".into());
    }
    Ok(started.elapsed())
}

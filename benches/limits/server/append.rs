//! How fast events get in.

use std::time::{Duration, Instant};

use futures::future::{join3, try_join_all};
use millstream::Store;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use crate::append::append;
use crate::order::{Order, TYPE};
use crate::report::{Report, Target, per_second};
use crate::server::Server;
use crate::{Failure, Scale};

const WRITERS: usize = 64;
const RECORDED_AT: i64 = 1_700_000_000_000_000;

const ROW: &str = "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata)
    VALUES ($1, 0, 1, $2, $3, 1, NULL, $4, NULL)";

const ROWS: &str = "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata)
    SELECT sequence, 0, 1, $2, $3, 1, NULL, payload, NULL FROM unnest($1::bigint[], $4::text[]) AS row (sequence, payload)";

/// How the plain side writes the rows of a transaction. Begin, rows and commit are sent together in either case.
#[derive(Clone, Copy)]
enum Plain {
    /// One prepared statement per row, all on their way at once.
    Rows,
    /// One prepared statement, which is given a column at a time.
    Arrays,
}

/// Both sides write to tables that millstream made, each in a schema of its own.
pub(super) fn measure(
    runtime: &Runtime,
    server: &Server,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let sides = [
        ("pg_append_64_writers", Plain::Rows, Target::AtLeast(0.5)),
        ("pg_append_64_writers_arrays", Plain::Arrays, Target::AtLeast(0.0)),
    ];
    for (scenario, plain, target) in sides {
        if !report.wants(scenario) {
            continue;
        }
        let rounds = runtime.block_on(rounds(server, scenario, plain, scale))?;
        report.add(scenario, "events/s", &rounds, target);
    }
    Ok(())
}

async fn rounds(
    server: &Server,
    scenario: &str,
    plain: Plain,
    scale: Scale,
) -> Result<Vec<(f64, f64)>, Failure> {
    let limit_schema = format!("limits_{scenario}_plain");
    let schema = format!("limits_{scenario}");
    let store = server.store(&schema, Store::builder()).await?;
    server
        .store(&limit_schema, Store::builder())
        .await?
        .close()
        .await?;
    let looking = server.plain(&schema).await?;
    let client = server.plain(&limit_schema).await?;
    let mut next = 1;
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        let before = store.head();
        let started = Instant::now();
        append(&store, WRITERS, scale.commits / 4, 1).await?;
        let ours = started.elapsed();
        let events = store.head() - before;
        let group = events.div_ceil(transactions(&looking, before).await?);
        let limit = insert(&client, plain, &mut next, events, group).await?;
        let rate = |time| per_second(events as usize, time);
        println!(
            "  {group} rows in a transaction, {:.0} and {:.0}",
            rate(ours),
            rate(limit)
        );
        rounds.push((rate(ours), rate(limit)));
    }
    store.close().await?;
    Ok(rounds)
}

/// In how many transactions the events after this one were written: each of them has a number at the server.
async fn transactions(client: &Client, after: u64) -> Result<u64, Failure> {
    let sql = "SELECT count(DISTINCT xmin::text) FROM event WHERE sequence > $1";
    let row = client.query_one(sql, &[&(after as i64)]).await?;
    Ok(row.try_get::<_, i64>(0)? as u64)
}

/// Inserts so many events, in transactions of one size, one after the other.
async fn insert(
    client: &Client,
    plain: Plain,
    next: &mut i64,
    events: u64,
    group: u64,
) -> Result<Duration, Failure> {
    let (row, rows) = (client.prepare(ROW).await?, client.prepare(ROWS).await?);
    let started = Instant::now();
    let mut left = events as i64;
    while left > 0 {
        let sequences: Vec<i64> = (*next..*next + left.min(group as i64)).collect();
        *next += sequences.len() as i64;
        left -= sequences.len() as i64;
        let payloads = sequences
            .iter()
            .map(|sequence| serde_json::to_string(&Order::new(*sequence as u64)));
        let payloads = payloads.collect::<Result<Vec<_>, _>>()?;
        let (begun, written, committed) = match plain {
            Plain::Rows => {
                let inserts = sequences.iter().zip(&payloads).map(async |(sequence, payload)| {
                    client
                        .execute(&row, &[sequence, &RECORDED_AT, &TYPE, payload])
                        .await
                });
                let inserts = async { try_join_all(inserts).await.map(|_| ()) };
                join3(
                    client.batch_execute("BEGIN"),
                    inserts,
                    client.batch_execute("COMMIT"),
                )
                .await
            }
            Plain::Arrays => {
                let inserts = async {
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                        [&sequences, &RECORDED_AT, &TYPE, &payloads];
                    client.execute(&rows, &parameters).await.map(|_| ())
                };
                join3(
                    client.batch_execute("BEGIN"),
                    inserts,
                    client.batch_execute("COMMIT"),
                )
                .await
            }
        };
        begun?;
        written?;
        committed?;
    }
    Ok(started.elapsed())
}

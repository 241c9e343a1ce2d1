//! How fast read models are built from a history: on demand, in files of their own.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use millstream::rusqlite::{Connection, Transaction};
use millstream::{BoxError, EventBatch, EventQuery, Projection, ReadModels, Store, View};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::append::history;
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale};

/// Events of one transaction, on both sides: the default of read models.
const TRANSACTION_EVENTS: usize = 10_000;
const SCHEMA: &str = "CREATE TABLE counted (key TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID";
const COUNT: &str = "INSERT INTO counted VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1";

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let (wants_projection, wants_view) = (report.wants("project_1m"), report.wants("view_1m"));
    if !wants_projection && !wants_view {
        return Ok(());
    }
    let path = history(runtime, folder, scale.history)?;
    let store = Store::open(&path)?;
    let (by_tag, by_payload) = runtime.block_on(keys(&store))?;
    let (mut projection, mut view) = (Vec::new(), Vec::new());
    for round in 0..scale.rounds {
        if wants_projection {
            let ours = runtime.block_on(project(&store, &folder.join(format!("project-{round}.db"))))?;
            let limit = plain(&folder.join(format!("project-plain-{round}.db")), &by_tag)?;
            projection.push((per_second(by_tag.len(), ours), per_second(by_tag.len(), limit)));
        }
        if wants_view {
            let ours = runtime.block_on(keep_view(&store, &folder.join(format!("view-{round}.db"))))?;
            let limit = plain(&folder.join(format!("view-plain-{round}.db")), &by_payload)?;
            view.push((
                per_second(by_payload.len(), ours),
                per_second(by_payload.len(), limit),
            ));
        }
    }
    if wants_projection {
        report.add("project_1m", "events/s", &projection, Target::AtLeast(0.50));
    }
    if wants_view {
        report.add("view_1m", "events/s", &view, Target::AtLeast(0.35));
    }
    runtime.block_on(store.close())?;
    Ok(())
}

/// Counts events by their tag: a thousand keys.
#[derive(Clone)]
struct Counts;

impl Projection for Counts {
    fn name(&self) -> &str {
        "counts"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::all()
    }

    fn schema(&self) -> &str {
        SCHEMA
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mut count = tx.prepare_cached(COUNT)?;
        for event in batch {
            count.execute([event.tags().next()])?;
        }
        Ok(())
    }
}

/// What the view reads of an order: ten thousand keys.
#[derive(Deserialize)]
struct Ordered {
    customer: String,
}

/// What it keeps.
#[derive(Serialize, Deserialize)]
struct Customer {
    orders: u64,
}

fn customers() -> View<Customer> {
    View::<Customer>::new("customer", 1)
        .try_key(|event| {
            event
                .payload()
                .decode()
                .map(|order: Ordered| Some(order.customer))
        })
        .evolve(|customer, _| {
            let orders = customer.map_or(0, |customer| customer.orders) + 1;
            Some(Customer { orders })
        })
}

/// From the registration of a new projection until it is at the head.
async fn project(store: &Store, path: &Path) -> Result<Duration, Failure> {
    let models = ReadModels::open(path)?;
    let started = Instant::now();
    let model = models.on_demand(store, Counts).await?;
    model.catch_up().await?;
    let elapsed = started.elapsed();
    let sum = "SELECT sum(count) FROM counted";
    let counted: i64 = model
        .read(move |connection| connection.query_row(sum, [], |row| row.get(0)))
        .await?;
    expect(counted, store.head())?;
    Ok(elapsed)
}

/// The same with a view.
async fn keep_view(store: &Store, path: &Path) -> Result<Duration, Failure> {
    let models = ReadModels::open(path)?;
    let started = Instant::now();
    let documents = models.view_on_demand(store, customers()).await?;
    documents.catch_up().await?;
    let elapsed = started.elapsed();
    let listed: Vec<(String, Customer)> = documents.list("").try_collect().await?;
    let counted: u64 = listed.iter().map(|(_, customer)| customer.orders).sum();
    expect(counted as i64, store.head())?;
    Ok(elapsed)
}

/// The limit: the same SQL in transactions of the same size, over keys that are in memory.
fn plain(path: &Path, keys: &[String]) -> Result<Duration, Failure> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL")?;
    connection.execute_batch(SCHEMA)?;
    let started = Instant::now();
    let mut count = connection.prepare(COUNT)?;
    for transaction in keys.chunks(TRANSACTION_EVENTS) {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for key in transaction {
            count.execute([key])?;
        }
        connection.execute_batch("COMMIT")?;
    }
    Ok(started.elapsed())
}

/// The keys of all events, by tag and by payload.
async fn keys(store: &Store) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut by_tag, mut by_payload) = (Vec::new(), Vec::new());
    let mut reader = store.read(&EventQuery::all());
    while let Some(batch) = reader.try_next().await? {
        for event in &batch {
            by_tag.extend(event.tags().next().map(str::to_owned));
            by_payload.push(event.payload().decode::<Ordered>()?.customer);
        }
    }
    Ok((by_tag, by_payload))
}

fn expect(counted: i64, events: u64) -> Result<(), Failure> {
    match u64::try_from(counted) == Ok(events) {
        true => Ok(()),
        false => Err(format!("{counted} events were counted, there are {events}").into()),
    }
}

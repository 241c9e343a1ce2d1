//! evento on SQLite. Its connections are opened here with WAL and `synchronous=FULL`.
//!
//! An order is an aggregate, and its routing key. Events are written through `Executor::write`, which is what `commit()`
//! calls first; the snapshot that `commit()` stores with a second transaction is spared. A subscription polls every 300 ms,
//! takes a chunk, and stores its position after each event; there is no other kind.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evento::migrator::{Migrate, Plan};
use evento::sql::RwSqlite;
use evento::{Context, Event, Executor, Rw, Sqlite, SubscribeHandler};
use scenario::{Failure, Order, Peer, Sink, Subscription, Wants, Writer, number_in};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use ulid::Ulid;

const AGGREGATE: &str = "peers/Order";
const EVENT: &str = "OrderPlaced";

/// More than it acknowledges from one poll to the next. The default, 300, would limit it.
const CHUNK: u16 = 10_000;

/// SQLite has one writer at a time: one connection that waits in the pool instead of for a lock.
const WRITERS: u32 = 1;
const READERS: u32 = 4;

struct Evento {
    executor: RwSqlite,
    reader: SqlitePool,
}

impl Peer for Evento {
    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("log.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(60));
        let pool = |connections| {
            let pool = SqlitePoolOptions::new().max_connections(connections);
            pool.acquire_timeout(Duration::from_secs(600))
                .connect_with(options.clone())
        };
        let writer = pool(WRITERS).await?;
        let migrator = evento::sql_migrator::new::<sqlx::Sqlite>()?;
        migrator
            .run(&mut *writer.acquire().await?, &Plan::apply_all())
            .await?;
        let reader = pool(READERS).await?;
        let executor = Rw::from((Sqlite::from(reader.clone()), Sqlite::from(writer)));
        Ok(Self { executor, reader })
    }

    fn writer(&self) -> Appends {
        Appends {
            executor: self.executor.clone(),
            versions: HashMap::new(),
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let Subscription {
            stream, wants, sink, ..
        } = subscription;
        let builder = evento::subscribe(format!("stream-{stream}")).chunk_size(CHUNK);
        let builder = match wants {
            Wants::All => builder.all(),
            Wants::Order(order) => builder.routing_key(order),
        };
        let running = builder
            .handler(Handler { stream, sink })
            .run(&self.executor)
            .await?;
        // Dropping it would end it.
        std::mem::forget(running);
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM event")
            .fetch_one(&self.reader)
            .await?;
        Ok(count as u64)
    }
}

struct Handler {
    stream: usize,
    sink: Arc<Sink>,
}

impl SubscribeHandler<RwSqlite> for Handler {
    fn handle<'a>(
        &'a self,
        context: &'a Context<'_, RwSqlite>,
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>
    where
        Self: Sync + 'a,
    {
        Box::pin(async {
            let n = number_in(&context.event.data).expect("events have numbers");
            self.sink.handle(self.stream, n).await;
            Ok(())
        })
    }

    fn aggregator_type(&self) -> &'static str {
        AGGREGATE
    }

    fn event_name(&self) -> &'static str {
        EVENT
    }
}

struct Appends {
    executor: RwSqlite,
    /// The version of each aggregate, which an event has to carry.
    versions: HashMap<String, i32>,
}

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut versions = HashMap::new();
        let mut events = Vec::with_capacity(orders.len());
        for order in orders {
            let known = self.versions.get(&order.order).copied().unwrap_or(0);
            let version: &mut i32 = versions.entry(order.order.clone()).or_insert(known);
            *version += 1;
            events.push(Event {
                id: Ulid::new(),
                name: EVENT.to_owned(),
                aggregator_id: order.order.clone(),
                aggregator_type: AGGREGATE.to_owned(),
                version: *version,
                routing_key: Some(order.order.clone()),
                data: serde_json::to_vec(order)?,
                metadata: Vec::new(),
                timestamp: now.as_secs(),
                timestamp_subsec: now.subsec_millis(),
            });
        }
        self.executor.write(events).await?;
        self.versions.extend(versions);
        Ok(())
    }
}

fn main() {
    scenario::main::<Evento>()
}

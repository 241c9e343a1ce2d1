//! eventcore with eventcore-sqlite. The connection is opened here with WAL and `synchronous=FULL`.
//!
//! An order is a stream. Streams with a cursor are projectors: `run_projection` polls, gives each of them every event, and
//! stores the position after each one. It is told to poll ten times as often as by default. For live streams there is only
//! `EventReader`, which can select a stream, so these poll by themselves.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eventcore::{ProjectionConfig, run_projection};
use eventcore_sqlite::SqliteEventStore;
use eventcore_sqlite::rusqlite::Connection;
use eventcore_types::{
    BatchSize, Event, EventFilter, EventPage, EventReader, EventStore, Projector, StreamId, StreamPosition,
    StreamPrefix, StreamVersion, StreamWrites,
};
use scenario::{Failure, Kind, Order, Peer, Sink, Subscription, Wants, Writer};
use serde::{Deserialize, Serialize};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The events of one poll, as many as a projector takes.
const PAGE_EVENTS: usize = 1000;

#[derive(Clone, Serialize, Deserialize)]
struct Placed {
    stream: StreamId,
    order: Order,
}

impl Event for Placed {
    fn stream_id(&self) -> &StreamId {
        &self.stream
    }

    fn event_type_name() -> &'static str {
        "order-placed"
    }
}

struct Handler {
    name: String,
    stream: usize,
    wants: Wants,
    sink: Arc<Sink>,
}

impl Projector for Handler {
    type Event = Placed;
    type Error = Infallible;
    type Context = ();

    fn apply(&mut self, event: Placed, _: StreamPosition, (): &mut ()) -> Result<(), Infallible> {
        if self.wants.wants(&event.order.order) {
            self.sink.handle_blocking(self.stream, event.order.n);
        } else {
            self.sink.skip();
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

struct Eventcore {
    store: Arc<SqliteEventStore>,
    path: PathBuf,
}

impl Peer for Eventcore {
    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("log.db");
        let connection = Connection::open(&path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let store = SqliteEventStore::from_connection(connection);
        store.migrate().await?;
        Ok(Self {
            store: Arc::new(store),
            path,
        })
    }

    fn writer(&self) -> Appends {
        Appends {
            store: Arc::clone(&self.store),
            versions: HashMap::new(),
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let store = Arc::clone(&self.store);
        let is_live = subscription.kind == Kind::Live;
        let handler = Handler {
            name: format!("stream-{}", subscription.stream),
            stream: subscription.stream,
            wants: subscription.wants,
            sink: subscription.sink,
        };
        tokio::spawn(async move {
            let ended = if is_live {
                poll(&store, &handler).await
            } else {
                project(&store, handler).await
            };
            if let Err(error) = ended {
                eprintln!("{error}");
            }
        });
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        let connection = Connection::open(&self.path)?;
        let count: i64 =
            connection.query_row("SELECT count(*) FROM eventcore_events", [], |row| row.get(0))?;
        Ok(count as u64)
    }
}

/// A stream with a cursor.
async fn project(store: &SqliteEventStore, handler: Handler) -> Result<(), Failure> {
    let config = ProjectionConfig::default()
        .continuous()
        .poll_interval(POLL_INTERVAL)
        .empty_poll_backoff(POLL_INTERVAL);
    Ok(run_projection(handler, store, config).await?)
}

/// A stream without one.
async fn poll(store: &SqliteEventStore, handler: &Handler) -> Result<(), Failure> {
    let filter = match &handler.wants {
        Wants::All => EventFilter::all(),
        Wants::Order(order) => EventFilter::prefix(StreamPrefix::try_new(order.as_str())?),
    };
    let limit = BatchSize::new(PAGE_EVENTS);
    let mut page = EventPage::first(limit);
    loop {
        let events = store.read_events::<Placed>(filter.clone(), page).await?;
        if events.is_empty() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        for (event, position) in events {
            handler.sink.handle(handler.stream, event.order.n).await;
            page = EventPage::after(position, limit);
        }
    }
}

struct Appends {
    store: Arc<SqliteEventStore>,
    /// The version of each stream, which an append has to name.
    versions: HashMap<StreamId, usize>,
}

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let mut writes = StreamWrites::new();
        let mut appended = Vec::with_capacity(orders.len());
        for order in orders {
            let stream = StreamId::try_new(order.order.as_str())?;
            let version = self.versions.get(&stream).copied().unwrap_or(0);
            let event = Placed {
                stream: stream.clone(),
                order: order.clone(),
            };
            writes = writes
                .register_stream(stream.clone(), StreamVersion::new(version))?
                .append(event)?;
            appended.push(stream);
        }
        self.store.append_events(writes).await?;
        for stream in appended {
            *self.versions.entry(stream).or_default() += 1;
        }
        Ok(())
    }
}

fn main() {
    scenario::main::<Eventcore>()
}

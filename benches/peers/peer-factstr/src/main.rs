//! factstr-sqlite. It opens its file with WAL and `synchronous=FULL` itself, and its calls block.
//!
//! It has no tags, so an order is an event type here: the cheapest thing that its queries select by.

use std::path::Path;
use std::sync::Arc;

use factstr::{DurableStream, EventQuery, EventStore, HandleStream, NewEvent};
use factstr_sqlite::SqliteStore;
use scenario::{Failure, Kind, Order, Peer, Subscription, Wants, Writer};

struct Factstr(Arc<SqliteStore>);

impl Peer for Factstr {
    const BLOCKS: bool = true;

    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        Ok(Self(Arc::new(SqliteStore::open(folder.join("log.db"))?)))
    }

    fn writer(&self) -> Appends {
        Appends(Arc::clone(&self.0))
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let Subscription {
            stream,
            kind,
            wants,
            sink,
        } = subscription;
        let handle = HandleStream::new(move |events| {
            let sink = Arc::clone(&sink);
            async move {
                for event in &events {
                    let n = event.payload["n"].as_u64().expect("events have numbers");
                    sink.handle(stream, n).await;
                }
                Ok(())
            }
        });
        let durable = DurableStream::new(format!("stream-{stream}"));
        let stream = match (kind, wants) {
            (Kind::Live, Wants::All) => self.0.stream_all(handle)?,
            (Kind::Live, Wants::Order(order)) => {
                self.0.stream_to(&EventQuery::for_event_types([order]), handle)?
            }
            (_, Wants::All) => self.0.stream_all_durable(&durable, handle)?,
            (_, Wants::Order(order)) => {
                let query = EventQuery::for_event_types([order]);
                self.0.stream_to_durable(&durable, &query, handle)?
            }
        };
        // Dropping it would end it.
        std::mem::forget(stream);
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        Ok(self.0.query(&EventQuery::all())?.event_records.len() as u64)
    }
}

struct Appends(Arc<SqliteStore>);

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let events = orders
            .iter()
            .map(|order| Ok(NewEvent::new(order.order.clone(), serde_json::to_value(order)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        self.0.append(events)?;
        Ok(())
    }
}

fn main() {
    scenario::main::<Factstr>()
}

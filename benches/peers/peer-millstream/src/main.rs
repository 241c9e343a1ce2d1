//! millstream, this checkout. `Durability::Full`, the default: every acknowledged append is synced.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use millstream::{DurableStream, EventBatch, EventQuery, HandleStream, NewEvent, Store};
use scenario::{Failure, Kind, Order, Peer, Subscription, Wants, Writer, number_in};

struct Millstream(Store);

impl Peer for Millstream {
    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        Ok(Self(Store::open(folder.join("log.db"))?))
    }

    fn writer(&self) -> Appends {
        Appends(self.0.clone())
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let Subscription {
            stream,
            kind,
            wants,
            sink,
        } = subscription;
        let query = match wants {
            Wants::All => EventQuery::all(),
            Wants::Order(order) => EventQuery::tags([order]),
        };
        let handle = HandleStream::new(move |batch: EventBatch| {
            let sink = Arc::clone(&sink);
            async move {
                for event in &batch {
                    let n = number_in(event.payload().as_str().as_bytes()).expect("events have numbers");
                    sink.handle(stream, n).await;
                }
                Ok::<_, Infallible>(())
            }
        });
        let stream = match kind {
            Kind::Live => self.0.stream_to(&query, handle).await?,
            Kind::Durable | Kind::Replay => {
                let durable = DurableStream::new(format!("stream-{stream}"));
                self.0.stream_to_durable(&durable, &query, handle).await?
            }
        };
        stream.detach();
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        let batches = self.0.read(&EventQuery::all());
        Ok(batches
            .try_fold(0, async |count, batch| Ok(count + batch.len() as u64))
            .await?)
    }
}

struct Appends(Store);

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let events = orders
            .iter()
            .map(|order| NewEvent::new("order-placed", order).tag(&order.order));
        self.0.append(events).await?;
        Ok(())
    }
}

fn main() {
    scenario::main::<Millstream>()
}

//! What one writes by hand: a table in SQLite, and `tokio::sync::broadcast` for what is new.
//!
//! It is written with some care: one thread writes, commits in groups and broadcasts in the order of the commits; a
//! cursor is stored with the next group. A live receiver that was too slow has lost what the channel has dropped, which
//! is what the channel says of itself; one with a cursor goes back to the table.

mod log;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::Connection;
use scenario::{Failure, Kind, Order, Peer, Sink, Subscription, Wants, Writer, number_in};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::log::{Batch, Request, Row};

/// Batches that the channel keeps for receivers that are behind.
const CHANNEL: usize = 1024;
const QUEUED_MAX: usize = 4096;
const PAGE_ROWS: usize = 1000;

struct HandWritten {
    queue: mpsc::Sender<Request>,
    news: broadcast::Sender<Batch>,
    reader: Arc<Mutex<Connection>>,
}

impl Peer for HandWritten {
    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("log.db");
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let (news, _) = broadcast::channel(CHANNEL);
        let (writer, sender) = (log::open(&path)?, news.clone());
        thread::spawn(move || log::write(writer, queued, sender));
        let reader = Arc::new(Mutex::new(log::open(&path)?));
        Ok(Self { queue, news, reader })
    }

    fn writer(&self) -> Appends {
        Appends(self.queue.clone())
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let handler = Handler {
            stream: subscription.stream,
            wants: subscription.wants,
            sink: subscription.sink,
        };
        let news = self.news.subscribe();
        if subscription.kind == Kind::Live {
            tokio::spawn(receive(news, handler));
            return Ok(());
        }
        let cursor = Cursor {
            name: format!("stream-{}", subscription.stream).into(),
            position: 0,
            reader: Arc::clone(&self.reader),
            queue: self.queue.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = follow(news, handler, cursor).await {
                eprintln!("{error}");
            }
        });
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let count: i64 = reader.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
        Ok(count as u64)
    }
}

struct Handler {
    stream: usize,
    wants: Wants,
    sink: Arc<Sink>,
}

impl Handler {
    async fn handle(&self, rows: &[Row]) {
        for row in rows.iter().filter(|row| self.wants.wants(&row.order)) {
            let n = number_in(row.payload.as_bytes()).expect("events have numbers");
            self.sink.handle(self.stream, n).await;
        }
    }
}

/// A live stream.
async fn receive(mut news: broadcast::Receiver<Batch>, handler: Handler) {
    loop {
        match news.recv().await {
            Ok(batch) => handler.handle(&batch).await,
            // They are gone.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// How far a stream with a name has got.
struct Cursor {
    name: Arc<str>,
    position: i64,
    reader: Arc<Mutex<Connection>>,
    queue: mpsc::Sender<Request>,
}

impl Cursor {
    /// Everything in the table that comes after it.
    async fn catch_up(&mut self, handler: &Handler) -> Result<(), Failure> {
        loop {
            let (reader, after) = (Arc::clone(&self.reader), self.position);
            let page = spawn_blocking(move || {
                let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                log::read(&reader, after, PAGE_ROWS)
            });
            let page = page.await??;
            if page.is_empty() {
                return Ok(());
            }
            self.take(&page, handler).await?;
        }
    }

    /// What of it is new, and stores how far that is.
    async fn take(&mut self, rows: &[Row], handler: &Handler) -> Result<(), Failure> {
        let new = rows.partition_point(|row| row.position <= self.position);
        let Some(last) = rows[new..].last() else {
            return Ok(());
        };
        handler.handle(&rows[new..]).await;
        self.position = last.position;
        let (name, position) = (Arc::clone(&self.name), self.position);
        self.queue.send(Request::Cursor { name, position }).await?;
        Ok(())
    }
}

/// A stream with a stored cursor. It subscribed before it reads, so what is committed meanwhile comes twice, not never.
async fn follow(
    mut news: broadcast::Receiver<Batch>,
    handler: Handler,
    mut cursor: Cursor,
) -> Result<(), Failure> {
    cursor.catch_up(&handler).await?;
    loop {
        match news.recv().await {
            Ok(batch) => cursor.take(&batch, &handler).await?,
            Err(RecvError::Lagged(_)) => cursor.catch_up(&handler).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

struct Appends(mpsc::Sender<Request>);

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let rows = orders.iter().map(|order| {
            Ok(Row {
                position: 0,
                order: order.order.clone(),
                payload: serde_json::to_string(order)?,
            })
        });
        let rows = rows.collect::<Result<_, serde_json::Error>>()?;
        let (done, answer) = oneshot::channel();
        self.0.send(Request::Append { rows, done }).await?;
        answer.await?
    }
}

fn main() {
    scenario::main::<HandWritten>()
}

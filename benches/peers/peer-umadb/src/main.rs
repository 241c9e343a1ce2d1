//! umadb-core, in process. It syncs its file twice for every commit, and cannot be told otherwise.
//!
//! The crate has a writer thread that commits in groups, and reads; the rest is in umadb's server. What is here is what
//! the server does, with its constants and without the network: a queue to the writer thread, and subscribers that
//! read what is new whenever the head moves.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use scenario::{Cannot, Failure, Kind, Order, Peer, Subscription, Wants, Writer, number_in};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::{DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem, DcbResult, DcbSequencedEvent};

const QUEUED_MAX: usize = 1024;
const GROUP_EVENTS_MAX: usize = 2048;
const READ_EVENTS_MAX: u32 = 1024;
const READERS_PER_CORE: usize = 4;

struct Umadb {
    database: Arc<UmaDb>,
    queue: mpsc::Sender<WriterThreadRequest>,
    head: watch::Receiver<Option<u64>>,
    readers: Arc<Semaphore>,
}

impl Peer for Umadb {
    type Writer = Appends;

    async fn open(folder: &Path) -> Result<Self, Failure> {
        let options = StorageOptions::default().db_path(folder.join("uma.db"));
        let mvcc = Arc::new(Mvcc::new(false, options)?);
        let database = Arc::new(UmaDb::from_arc(Arc::clone(&mvcc)));
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let (head_sender, head) = watch::channel(database.head()?);
        thread::spawn(move || writer_thread_blocking(mvcc, queued, head_sender, GROUP_EVENTS_MAX));
        let readers = thread::available_parallelism()?.get() * READERS_PER_CORE;
        Ok(Self {
            database,
            queue,
            head,
            readers: Arc::new(Semaphore::new(readers)),
        })
    }

    fn writer(&self) -> Appends {
        Appends(self.queue.clone())
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<(), Failure> {
        let Subscription {
            stream,
            kind,
            wants,
            sink,
        } = subscription;
        if kind == Kind::Durable {
            return Err(Cannot("it stores no position for a subscriber").into());
        }
        let query = match wants {
            Wants::All => None,
            Wants::Order(order) => Some(DcbQuery::with_items([DcbQueryItem::new().tags([order])])),
        };
        let mut head = self.head.clone();
        let readers = Arc::clone(&self.readers);
        let database = Arc::clone(&self.database);
        tokio::spawn(async move {
            let mut start = None;
            loop {
                let permit = Arc::clone(&readers).acquire_owned().await?;
                head.borrow_and_update();
                let (database, query) = (Arc::clone(&database), query.clone());
                let events = spawn_blocking(move || {
                    let _permit = permit;
                    read(&database, query, start)
                });
                let events = events.await??;
                if events.is_empty() {
                    head.changed().await?;
                }
                for event in events {
                    start = Some(event.position + 1);
                    let n = number_in(&event.event.data).expect("events have numbers");
                    sink.handle(stream, n).await;
                }
            }
            #[expect(unreachable_code, reason = "says what the errors are")]
            Ok::<_, Failure>(())
        });
        Ok(())
    }

    async fn stored(&self) -> Result<u64, Failure> {
        Ok(self.database.head()?.unwrap_or(0))
    }
}

fn read(database: &UmaDb, query: Option<DcbQuery>, start: Option<u64>) -> DcbResult<Vec<DcbSequencedEvent>> {
    database
        .read(query, start, false, Some(READ_EVENTS_MAX))?
        .collect()
}

struct Appends(mpsc::Sender<WriterThreadRequest>);

impl Writer for Appends {
    async fn append(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let events = orders
            .iter()
            .map(|order| {
                let event = DcbEvent::new()
                    .event_type("order-placed")
                    .tags([order.order.as_str()]);
                Ok(event.data(serde_json::to_vec(order)?))
            })
            .collect::<Result<_, serde_json::Error>>()?;
        let (response_tx, response) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events,
            condition: None,
            tracking_info: None,
            response_tx,
            cancel: None,
        };
        self.0
            .send(request)
            .await
            .map_err(|_| "the writer thread has ended")?;
        response.await??;
        Ok(())
    }
}

fn main() {
    scenario::main::<Umadb>()
}

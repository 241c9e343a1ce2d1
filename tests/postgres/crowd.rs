//! Fifty who write at once, with delays before their commits, and three other processes that read meanwhile: complete and in order.
//!
//! The delays are the server's: a deferred trigger dawdles for each row, when the commit has arrived and before it is made. So
//! transactions are under way at the same time, and end in an order that nobody chose.

use std::collections::BTreeMap;
use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::future::join_all;
use millstream::{DurableStream, EventBatch, EventQuery, HandleStream, NewEvent, Store};
use tokio::sync::mpsc;

use crate::common::in_time;
use crate::common::postgres::{Database, database, on_connection, with_parameter};

const WRITERS: usize = 50;
const APPENDS: usize = 4;
/// How many sessions are seen to wait for each other at some moment, so that the delays are worth something.
const WAITING_MIN: i64 = 10;
const LOOK_MAX: Duration = Duration::from_secs(20);

const DAWDLES: &str = "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(random() * 0.006); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER event_dawdles AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION dawdle()";

/// What a reader is told: how it reads, how many events there will be, and where.
const ORDERS: &str = "MILLSTREAM_CROWD_ORDERS";
const HOWS: [&str; 3] = ["follows", "is given", "reads again and again"];
/// A reader whose parent died must not wait for ever.
const LIFETIME: Duration = Duration::from_secs(120);
const FINISHED: &str = "> complete ";
const WAITING_LINES_MAX: usize = 1_024;

fn size(writer: usize, number: usize) -> usize {
    1 + (writer + number) % 3
}

fn events_of(writer: usize, number: usize) -> impl Iterator<Item = NewEvent> {
    let said = move |index| format!("{writer} {number} {index}");
    (0..size(writer, number)).map(move |index| NewEvent::new("said", said(index)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3_fifty_writers_that_dawdle_before_their_commits_are_read_completely_and_in_order() {
    let Some(database) = database() else { return };
    let sessions = format!("crowd_{}", database.schema);
    let address = with_parameter(&database.address, "application_name", &sessions);
    let connect = || database.builder().readers(1).connect(&address);
    let first = connect().await.expect("opens");
    database.execute(DAWDLES).expect("the trigger is made");
    let total: usize = (0..WRITERS)
        .flat_map(|writer| (0..APPENDS).map(move |number| size(writer, number)))
        .sum();
    let readers: Vec<Reader> = HOWS.map(|how| Reader::start(how, total, &database)).into();
    let stores = join_all((1..WRITERS).map(|_| connect())).await;
    let mut stores: Vec<Store> = stores.into_iter().map(|store| store.expect("opens")).collect();
    stores.push(first);
    let writers = stores.iter().enumerate().map(|(writer, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut ranges = BTreeMap::new();
            for number in 0..APPENDS {
                let appended = store.append(events_of(writer, number)).await.expect("appends");
                ranges.insert(appended.first_sequence, (writer, number));
            }
            ranges
        })
    });
    let writers: Vec<_> = writers.collect();
    let waiting_max = in_time("many wait at once", most_that_wait(&database, &sessions)).await;
    assert!(waiting_max >= WAITING_MIN, "{waiting_max} sessions");
    let written = in_time("all is written", join_all(writers)).await;
    let mut expected = BTreeMap::new();
    written
        .into_iter()
        .for_each(|ranges| expected.extend(ranges.expect("a writer ends in order")));
    let mut said: Vec<(u64, String)> = Vec::new();
    for (first, (writer, number)) in expected {
        assert_eq!(first, said.len() as u64 + 1, "each append has a range of its own");
        for index in 0..size(writer, number) {
            said.push((said.len() as u64 + 1, format!("{writer} {number} {index}")));
        }
    }
    assert_eq!(said.len(), total);
    for reader in readers {
        reader.has_read(&said).await;
    }
}

/// Looks until so many sessions wait for another one at the same moment, or for long enough.
async fn most_that_wait(database: &Database, sessions: &str) -> i64 {
    let (address, sessions) = (database.address.clone(), sessions.to_owned());
    let looking = move || {
        on_connection(&address, async move |client| {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
            let (mut most, until) = (0, Instant::now() + LOOK_MAX);
            while most < WAITING_MIN && Instant::now() < until {
                let row = client
                    .query_one(sql, &[&sessions])
                    .await
                    .expect("activity is shown");
                most = row.get::<_, i64>(0).max(most);
            }
            most
        })
    };
    tokio::task::spawn_blocking(looking).await.expect("it looks")
}

fn digest(said: &[(u64, String)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    said.hash(&mut hasher);
    hasher.finish()
}

/// Another process that reads.
struct Reader {
    how: &'static str,
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Reader {
    fn start(how: &'static str, total: usize, database: &Database) -> Self {
        let orders = format!("{how}\n{total}\n{}\n{}", database.schema, database.address);
        let mut process = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "crowd::run_as_reader", "--nocapture"])
            .env(ORDERS, orders)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = process.stdout.take().expect("it was piped");
        let (tell, lines) = mpsc::channel(WAITING_LINES_MAX);
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // Whoever reads may have gone.
            lines.for_each(|line| drop(tell.blocking_send(line)));
        });
        Self { how, process, lines }
    }

    async fn has_read(mut self, said: &[(u64, String)]) {
        let expected = format!("{FINISHED}{}", digest(said));
        let mut heard = Vec::new();
        let reading = async {
            while let Some(line) = self.lines.recv().await {
                if line.starts_with(FINISHED) {
                    return line;
                }
                heard.push(line);
            }
            panic!("the one who {} ended: {heard:#?}", self.how);
        };
        let line = in_time("it has read everything", reading).await;
        assert_eq!(line, expected, "the one who {}", self.how);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test of its own: what the other processes run.
#[test]
fn run_as_reader() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let words: Vec<&str> = orders.split('\n').collect();
    let [how, total, schema, address] = words[..] else {
        panic!("four words are needed: {words:?}");
    };
    let total: usize = total.parse().expect("a number");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let read = runtime.block_on(async {
        let builder = Store::builder().schema(schema).window_bytes(1 << 12);
        let store = builder.connect(address).await.expect("opens");
        let read = tokio::time::timeout(LIFETIME, read(how, &store, total)).await;
        read.expect("somebody writes")
    });
    for (index, (sequence, _)) in read.iter().enumerate() {
        assert_eq!(*sequence, index as u64 + 1, "who {how} finds a hole");
    }
    println!("\n{FINISHED}{}", digest(&read));
}

fn said(batch: &EventBatch) -> impl Iterator<Item = (u64, String)> {
    let decode = |event: &millstream::EventRecord| event.payload().decode::<String>().expect("a text");
    batch.iter().map(move |event| (event.sequence(), decode(event)))
}

async fn read(how: &str, store: &Store, total: usize) -> Vec<(u64, String)> {
    let all = EventQuery::all();
    let mut read = Vec::new();
    if how == HOWS[0] {
        let mut batches = store.follow(&all);
        while read.len() < total {
            let batch = batches.try_next().await.expect("follows").expect("it has no end");
            read.extend(said(&batch));
        }
    } else if how == HOWS[1] {
        let (give, mut given) = mpsc::channel(WAITING_LINES_MAX);
        let handler = HandleStream::new(move |batch: EventBatch| {
            let (give, all) = (give.clone(), said(&batch).collect::<Vec<_>>());
            async move {
                for one in all {
                    give.send(one).await.map_err(std::io::Error::other)?;
                }
                Ok::<_, std::io::Error>(())
            }
        });
        let ledger = DurableStream::new("ledger");
        let _stream = store
            .stream_all_durable(&ledger, handler)
            .await
            .expect("registers");
        while read.len() < total {
            read.push(given.recv().await.expect("the stream goes on"));
        }
    } else {
        while read.len() < total {
            let batches: Vec<EventBatch> = store.read(&all).try_collect().await.expect("reads");
            let now: Vec<_> = batches.iter().flat_map(said).collect();
            assert!(now.starts_with(&read), "what was read once is read again");
            read = now;
        }
    }
    read
}

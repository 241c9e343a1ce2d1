//! R1 and D6 over processes that are killed: a program that keeps a model and appends is killed again and again, and what it leaves is a fold
//! over the log.

use std::env;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millstream::{EventQuery, Ownership, ServerModelOptions, Store};

use crate::common::in_time;
use crate::fixture::{Counts, Place, append_types, folded, in_memory, models, rows};

/// Where the log is, for a child.
const ORDERS: &str = "MILLSTREAM_SERVER_MODEL_ORDERS";
/// A child whose parent died must not run for ever.
const LIFETIME: Duration = Duration::from_secs(60);
const KILLS: u64 = 12;

fn standby() -> ServerModelOptions {
    ServerModelOptions::default()
        .ownership(Ownership::Standby)
        .transaction_events_max(20)
}

async fn open(address: &str, schema: &str) -> Store {
    let builder = Store::builder()
        .schema(schema)
        .owner_silence_max(Duration::from_secs(1));
    builder.connect(address).await.expect("opens")
}

/// Not a test of its own: what the other process runs.
#[test]
fn run_as_child() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let (schema, address) = orders.split_once(' ').expect("a schema and an address");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let working = async {
            let store = open(address, schema).await;
            let appending = async {
                loop {
                    append_types(&store, &["a", "b", "a"]).await;
                }
            };
            let keeping = async {
                let model = models(&store).project_with(Counts::new(1), &standby()).await;
                model.expect("it is kept").stopped().await
            };
            tokio::join!(appending, keeping);
        };
        let _ = tokio::time::timeout(LIFETIME, working).await;
    });
}

fn start(place: &Place) -> Child {
    let orders = format!("{} {}", place.database.schema, place.database.address);
    Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "child::run_as_child", "--nocapture"])
        .env(ORDERS, orders)
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// Waits until there is more of the model than there was.
async fn grows(place: &Place, before: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let sql = "SELECT coalesce((SELECT position FROM millstream_model), 0)";
        let position = match place.database.execute("SELECT 1 FROM millstream_model") {
            Ok(_) => place.database.number(sql) as u64,
            Err(_) => 0,
        };
        if position > before {
            return position;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nobody goes on after {before}"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_processes_that_are_killed_repeat_and_lose_nothing() {
    let Some(place) = Place::new() else { return };
    // There is always one that stands by.
    let (mut owner, mut position) = (start(&place), 0);
    for kill in 0..KILLS {
        let next = start(&place);
        // A little more than the first batch each time, so that it dies at different moments.
        position = grows(&place, position + 3 * kill).await;
        owner.kill().expect("it can be killed");
        owner.wait().expect("it ends");
        owner = next;
    }
    grows(&place, position).await;
    owner.kill().expect("it can be killed");
    owner.wait().expect("it ends");
    let store = open(&place.database.address, &place.database.schema).await;
    let model = models(&store)
        .project_with(Counts::new(1), &standby())
        .await
        .unwrap();
    in_time("it is at the head", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(in_memory(&model).await.len() as u64, store.head());
}

//! Crashes of a process that keeps a read model on the log's server, rebuilds it and goes over to new versions: after each kill the rows of what
//! serves are a fold over the log up to where the model says it is, no event was applied twice, and nothing stays of what was not
//! wanted any more (R1, R2).

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults};
use millstream::tokio_postgres::{Transaction, types::Type};
use millstream::{
    BoxError, EventBatch, EventQuery, FailurePolicy, ReadModelError, Retry, ServerModel, ServerModelOptions,
    ServerModels, ServerProjection, Store,
};
use serde::{Deserialize, Serialize};

use crate::Dice;
use crate::child::open;
use crate::common::postgres::database;
use crate::models::{Checked, Health, RUNS_PER_VERSION, append, selected, stream};
use crate::process::{LIFETIME, Process, Task, number, obey, stop_at};
use crate::source::{Place, Server, Source};

const ORDERS: &str = "MILLSTREAM_SERVER_MODEL_CRASH_ORDERS";
const KILLS_PER_LOG: u64 = 24;
const KILL_WITHIN: Duration = Duration::from_millis(400);

const POINTS: [(FaultPoint, u64); 5] = [
    (FaultPoint::BeforeModel, 40),
    (FaultPoint::AfterModel, 40),
    (FaultPoint::BeforeLetter, 4),
    (FaultPoint::BeforeSwitch, 2),
    (FaultPoint::AfterSwitch, 2),
];

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Orders {
    place: Place,
    version: u32,
    seed: u64,
    task: Task,
}

/// Counts events by type, and remembers which it has seen: one that comes twice violates the primary key.
#[derive(Clone)]
struct Counted {
    version: u32,
    health: Health,
}

impl ServerProjection for Counted {
    fn name(&self) -> &str {
        "counted"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn query(&self) -> EventQuery {
        EventQuery::types(selected(self.version).to_vec())
    }

    fn schema(&self) -> &str {
        "CREATE TABLE counted (type text PRIMARY KEY, count bigint NOT NULL);
         CREATE TABLE seen (sequence bigint PRIMARY KEY)"
    }

    async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let sequences: Vec<i64> = batch.iter().map(|event| event.sequence() as i64).collect();
        let types: Vec<&str> = batch.iter().map(|event| event.event_type()).collect();
        let sql = "WITH seen AS (INSERT INTO seen SELECT unnest($1))
            INSERT INTO counted SELECT type, count(*) FROM unnest($2) type GROUP BY type
            ON CONFLICT (type) DO UPDATE SET count = counted.count + excluded.count";
        tx.execute_typed(sql, &[(&sequences, Type::INT8_ARRAY), (&types, Type::TEXT_ARRAY)])
            .await?;
        types.iter().try_for_each(|name| self.health.check(name))
    }
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    obey(ORDERS, 2, work);
}

async fn work(orders: Orders) {
    let dice = Dice::new(orders.seed);
    let fatal = orders.task.fatal(&POINTS);
    let builder = Store::builder().window_bytes(1 << (12 + dice.below(10)));
    let store = open(with_faults(builder, stop_at(fatal)), &orders.place).await;
    let options = ServerModelOptions::default()
        .retry(Retry::never())
        .transaction_events_max(20 + dice.below(100) as usize)
        .on_failure(FailurePolicy::park().letters_max(1_000_000));
    let health = Health::of(orders.task, &POINTS, &dice);
    append(&store, &dice, dice.below(60)).await;
    let counted = Counted {
        version: orders.version,
        health,
    };
    let model = ServerModels::of(&store)
        .expect("it is on a server")
        .project_with(counted, &options)
        .await
        .expect("a read model goes on after a crash");
    if health == Health::Well {
        finish(&store, &model).await;
        return;
    }
    let is_awaited = [Some(FaultPoint::BeforeSwitch), Some(FaultPoint::AfterSwitch)]
        .contains(&fatal.map(|(point, _)| point));
    let end = Instant::now() + LIFETIME;
    while Instant::now() < end {
        append(&store, &dice, 1 + dice.below(12)).await;
        match dice.below(6) {
            // What an ill program could not apply, and a fair one has applied, would end it.
            0 if health == Health::Fair => {
                if let Ok(rebuild) = model.rebuild().await {
                    match dice.below(3) {
                        0 if !is_awaited => rebuild.cancel(),
                        1 if !is_awaited => rebuild.detach(),
                        _ => rebuild.finished().await.expect("it is rebuilt"),
                    }
                }
            }
            1 => drop(store.dead_letters(&stream(orders.version)).retry_all().await),
            2 => drop(model.caught_up().await),
            _ => {}
        }
    }
    panic!("nobody came to kill this process");
}

async fn finish(store: &Store, model: &ServerModel) {
    model.caught_up().await.expect("it catches up and serves");
    let letters = store.dead_letters(model.stream().unwrap().name().unwrap());
    let retried = letters.retry_all().await.expect("letters can be retried");
    assert_eq!(retried.failed, 0, "{retried:?}");
    loop {
        match model.rebuild().await {
            Ok(rebuild) => break rebuild.finished().await.expect("it is rebuilt"),
            Err(ReadModelError::RebuildUnderWay { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    store.close().await.expect("nothing hinders closing");
}

#[test]
fn killed_processes_leave_read_models_on_a_server_that_equal_a_fold_over_the_log() {
    let kills = number("MILLSTREAM_KILLS").unwrap_or(24);
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(3));
    let mut seen = Seen::default();
    for first in (0..kills).step_by(KILLS_PER_LOG as usize) {
        let last = kills.min(first + KILLS_PER_LOG);
        let Some(database) = database() else { return };
        series(&Place::of(&database), seed ^ first, first..last, &mut seen);
        database.remove_models();
    }
    println!("{kills} kills of read models on a server: {seen:?}; seed {seed}");
    assert!(seen.abandoned > 0 || kills < KILLS_PER_LOG, "{seen:?}");
}

/// What there was to see, so that a run which proves nothing is noticed.
#[derive(Debug, Default)]
struct Seen {
    events: usize,
    builds: i64,
    letters: usize,
    behind: usize,
    /// Processes that left a build which does not serve.
    abandoned: usize,
}

fn series(place: &Place, seed: u64, kills: std::ops::Range<u64>, seen: &mut Seen) {
    let dice = Dice::new(seed);
    let mut run = 0;
    for kill in kills {
        let task = Task::of(kill, 8, &POINTS, &dice);
        live_and_check(place, run, task, &dice, seen);
        run += 1;
    }
    live_and_check(place, run, Task::Finish, &dice, seen);
    let mut source = source(place).expect("there is a log");
    let end = read(&mut source);
    assert!(
        end.letters.is_empty() && end.position == end.head,
        "all is applied: {}",
        end.position
    );
    assert_eq!(builds(&mut source), 1, "nothing is left of other builds");
    seen.events += end.log.len();
    seen.builds += end.build;
}

fn live_and_check(place: &Place, run: u32, task: Task, dice: &Dice, seen: &mut Seen) {
    let orders = Orders {
        place: place.clone(),
        version: 1 + run / RUNS_PER_VERSION,
        seed: dice.roll(),
        task,
    };
    let mut process = Process::spawn("server_models::child", ORDERS, &orders);
    let lived = process.live(task, KILL_WITHIN, dice);
    drop(process);
    lived.unwrap_or_else(|problem| panic!("{problem}\nafter {orders:?}"));
    let Some(mut source) = source(place) else { return };
    let checked = read(&mut source);
    checked.check(&orders);
    seen.letters += checked.letters.len();
    seen.behind += usize::from(checked.position < checked.head);
    seen.abandoned += usize::from(builds(&mut source) > 1);
}

/// The log on the server; nothing, before there are tables.
fn source(place: &Place) -> Option<Server> {
    match Source::open(place).expect("the log can be read") {
        Some(Source::Server(server)) => Some(server),
        Some(Source::File(_)) | None => None,
    }
}

/// How many builds have tables.
fn builds(server: &mut Server) -> i64 {
    let sql = "SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, current_schema() || '_')";
    server.one(sql, &[]).unwrap().get(0)
}

fn read(server: &mut Server) -> Checked {
    let log = pairs(server, "SELECT sequence, type FROM event");
    let mut checked = Checked::without_model(log);
    // The process may have died before it made the tables.
    let is_made = "SELECT to_regclass('millstream_model_build') IS NOT NULL";
    if !server.one(is_made, &[]).unwrap().get::<_, bool>(0) {
        return checked;
    }
    let serving = "SELECT build, version, namespace, position FROM millstream_model_build JOIN millstream_model USING (build)
        WHERE state = 'serving'";
    let serving = server.all(serving, &[]).unwrap();
    let Some(row) = serving.first() else {
        return checked;
    };
    let namespace: &str = row.get(2);
    checked.build = row.get(0);
    checked.version = row.get::<_, i64>(1) as u32;
    checked.position = row.get(3);
    checked.seen = pairs::<i64>(
        server,
        &format!("SELECT sequence, 0::bigint FROM {namespace}.seen"),
    )
    .into_keys()
    .collect();
    let counted = format!("SELECT type, count FROM {namespace}.counted");
    let counted = server.all(&counted, &[]).unwrap();
    checked.counted = counted.iter().map(|row| (row.get(0), row.get(1))).collect();
    let letters = format!(
        "SELECT first_sequence, last_sequence FROM dead_letter WHERE stream = '{}'",
        stream(checked.version)
    );
    let letters: BTreeMap<i64, i64> = pairs(server, &letters);
    checked.letters = letters
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .collect();
    checked
}

/// Numbers, and what stands beside them.
fn pairs<V: for<'a> tokio_postgres::types::FromSql<'a>>(server: &mut Server, sql: &str) -> BTreeMap<i64, V> {
    let rows = server.all(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

//! Crashes of a process that keeps read models in both places, rebuilds it and goes over to new versions: after each kill the rows of what
//! serves are a fold over the log up to where the model says it is, and no event was applied twice (R1, R2).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults};
use millstream::rusqlite::{Connection, Transaction};
use millstream::{
    BoxError, Durability, EventBatch, EventQuery, FailurePolicy, ModelOptions, NewEvent, Projection,
    ReadModel, ReadModelError, ReadModels, Retry, Store,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::inside::Inside;
use crate::process::{LIFETIME, Points, Process, Task, number, obey, stop_at};
use crate::{Dice, inside};

const ORDERS: &str = "MILLSTREAM_MODEL_CRASH_ORDERS";
const KILLS_PER_FILE: u64 = 40;
const KILL_WITHIN: Duration = Duration::from_millis(120);
/// Every so many processes the program is a newer one.
pub(crate) const RUNS_PER_VERSION: u32 = 9;

const POINTS: [(FaultPoint, u64); 6] = [
    (FaultPoint::BeforeModel, 40),
    (FaultPoint::AfterModel, 40),
    (FaultPoint::InModel, 40),
    (FaultPoint::BeforeLetter, 4),
    (FaultPoint::BeforeSwitch, 2),
    (FaultPoint::AfterSwitch, 2),
];

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Orders {
    dir: PathBuf,
    version: u32,
    seed: u64,
    task: Task,
}

/// Counts events by type, and remembers which it has seen: one that comes twice violates the primary key.
#[derive(Clone)]
pub(crate) struct Counted {
    name: &'static str,
    version: u32,
    health: Health,
}

/// What can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Neither `bad` events nor `sick` ones.
    Ill,
    /// All but `bad` events.
    Fair,
    Well,
}

impl Health {
    /// Of the process that is told to do this.
    pub(crate) fn of(task: Task, points: &Points, dice: &Dice) -> Self {
        match (task, task.fatal(points)) {
            (Task::Finish, _) => Self::Well,
            (_, Some((FaultPoint::BeforeLetter, _))) => Self::Ill,
            (_, Some(_)) => Self::Fair,
            (_, None) => [Self::Ill, Self::Fair][dice.below(2) as usize],
        }
    }

    /// Refuses what cannot be applied.
    pub(crate) fn check(self, event_type: &str) -> Result<(), BoxError> {
        let needed = match event_type {
            "bad" => Self::Well,
            "sick" => Self::Fair,
            _ => Self::Ill,
        };
        match self < needed {
            true => Err("it cannot be applied".into()),
            false => Ok(()),
        }
    }
}

pub(crate) const TYPES: [&str; 5] = ["a", "b", "c", "bad", "sick"];

/// What the versions select.
pub(crate) fn selected(version: u32) -> &'static [&'static str] {
    match version % 2 {
        1 => &TYPES,
        _ => &["b", "c", "bad", "sick"],
    }
}

impl Projection for Counted {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn query(&self) -> EventQuery {
        EventQuery::types(selected(self.version).to_vec())
    }

    fn schema(&self) -> &str {
        "CREATE TABLE counted (type TEXT PRIMARY KEY, count INTEGER NOT NULL);
         CREATE TABLE seen (sequence INTEGER PRIMARY KEY)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            tx.prepare_cached("INSERT INTO seen VALUES (?1)")?
                .execute([event.sequence() as i64])?;
            tx.prepare_cached(
                "INSERT INTO counted VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            )?
            .execute([event.event_type()])?;
            self.health.check(event.event_type())?;
        }
        Ok(())
    }
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    obey(ORDERS, 2, work);
}

async fn work(orders: Orders) {
    let dice = Dice::new(orders.seed);
    let builder = Store::builder()
        .durability(Durability::Relaxed)
        .window_bytes(1 << (12 + dice.below(10)));
    let store = with_faults(builder, stop_at(orders.task.fatal(&POINTS)))
        .open(orders.dir.join("log.db"))
        .expect("the file opens after a crash");
    let models = ReadModels::open(orders.dir.join("views.db")).expect("the list opens after a crash");
    let options = ModelOptions::default()
        .retry(Retry::never())
        .transaction_events_max(1 + dice.below(60) as usize)
        .on_failure(FailurePolicy::park().letters_max(1_000_000));
    let health = Health::of(orders.task, &POINTS, &dice);
    let counted = |name, version| Counted {
        name,
        version,
        health,
    };
    append(&store, &dice, dice.below(60)).await;
    let model = models
        .project_with(&store, counted("counted", orders.version), &options)
        .await
        .expect("a read model goes on after a crash");
    let inside = inside::keep(&store, counted(inside::NAME, 1), &dice).await;
    if health == Health::Well {
        inside::finish(&store, &inside).await;
        finish(&store, &model).await;
        return;
    }
    let end = Instant::now() + LIFETIME;
    while Instant::now() < end {
        append(&store, &dice, 1 + dice.below(12)).await;
        match dice.below(8) {
            // What an ill program could not apply, and a fair one has applied, would end it.
            0 if health == Health::Fair => {
                if let Ok(rebuild) = model.rebuild().await {
                    match dice.below(3) {
                        0 => rebuild.cancel(),
                        1 => rebuild.detach(),
                        _ => rebuild.finished().await.expect("it is rebuilt"),
                    }
                }
            }
            1 => drop(store.dead_letters(&stream(orders.version)).retry_all().await),
            2 => drop(model.caught_up().await),
            3 => drop(store.dead_letters("inside@1").retry_all().await),
            _ => {}
        }
    }
    panic!("nobody came to kill this process");
}

pub(crate) fn stream(version: u32) -> String {
    format!("counted@{version}")
}

async fn finish(store: &Store, model: &ReadModel) {
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

pub(crate) async fn append(store: &Store, dice: &Dice, batches: u64) {
    for _ in 0..batches {
        let kind = |dice: &Dice| match dice.below(200) {
            0 => "bad",
            1 => "sick",
            other => TYPES[other as usize % 3],
        };
        let events = (0..1 + dice.below(4)).map(|_| NewEvent::new(kind(dice), 1));
        store
            .append(events)
            .await
            .expect("an append works until the kill");
    }
}

#[test]
fn killed_processes_leave_read_models_that_equal_a_fold_over_the_log() {
    let kills = number("MILLSTREAM_KILLS").unwrap_or(200);
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(1));
    let mut seen = Seen::default();
    for first in (0..kills).step_by(KILLS_PER_FILE as usize) {
        let last = kills.min(first + KILLS_PER_FILE);
        series(seed ^ first, first..last, &mut seen);
    }
    println!("{kills} kills of read models: {seen:?}; seed {seed}");
}

/// What there was to see, so that a run which proves nothing is noticed.
#[derive(Debug, Default)]
struct Seen {
    events: usize,
    builds: i64,
    letters: usize,
    letters_inside: usize,
    behind: usize,
}

fn series(seed: u64, kills: std::ops::Range<u64>, seen: &mut Seen) {
    let mut dir = TempDir::with_prefix_in("models-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    dir.disable_cleanup(true);
    let dice = Dice::new(seed);
    let mut run = 0;
    for kill in kills {
        let task = Task::of(kill, 10, &POINTS, &dice);
        live_and_check(dir.path(), run, task, &dice, seen);
        run += 1;
    }
    live_and_check(dir.path(), run, Task::Finish, &dice, seen);
    let end = Checked::read(dir.path());
    assert!(
        end.letters.is_empty() && end.position == end.head,
        "all is applied: {}",
        end.position
    );
    Inside::read(dir.path()).expect("it was kept").check_end();
    seen.events += end.log.len();
    seen.builds += end.build;
    dir.disable_cleanup(false);
}

fn live_and_check(dir: &Path, run: u32, task: Task, dice: &Dice, seen: &mut Seen) {
    let orders = Orders {
        dir: dir.to_owned(),
        version: 1 + run / RUNS_PER_VERSION,
        seed: dice.roll(),
        task,
    };
    let mut process = Process::spawn("models::child", ORDERS, &orders);
    let lived = process.live(task, KILL_WITHIN, dice);
    drop(process);
    lived.unwrap_or_else(|problem| panic!("{problem}\nafter {orders:?}"));
    if let Some(inside) = Inside::read(dir) {
        inside.check(&format!("{orders:?}"));
        seen.letters_inside += inside.letters.len();
    }
    if dir.join("views.db").exists() {
        let checked = Checked::read(dir);
        checked.check(&orders);
        seen.letters += checked.letters.len();
        seen.behind += usize::from(checked.position < checked.head);
    }
}

/// What SQL finds of what serves.
pub(crate) struct Checked {
    /// The events of the log, with their types.
    pub(crate) log: BTreeMap<i64, String>,
    pub(crate) head: i64,
    pub(crate) build: i64,
    pub(crate) version: u32,
    pub(crate) position: i64,
    pub(crate) seen: BTreeSet<i64>,
    pub(crate) counted: BTreeMap<String, i64>,
    /// What the dead letters of what serves stand for.
    pub(crate) letters: BTreeSet<i64>,
}

impl Checked {
    /// A log, and nothing that serves.
    pub(crate) fn without_model(log: BTreeMap<i64, String>) -> Self {
        Self {
            head: log.keys().next_back().copied().unwrap_or(0),
            log,
            build: 0,
            version: 1,
            position: 0,
            seen: BTreeSet::new(),
            counted: BTreeMap::new(),
            letters: BTreeSet::new(),
        }
    }

    fn read(dir: &Path) -> Self {
        let log = Connection::open(dir.join("log.db")).unwrap();
        let views = Connection::open(dir.join("views.db")).unwrap();
        let events: BTreeMap<i64, String> = pairs(
            &log,
            "SELECT sequence, name FROM event JOIN event_type ON id = type",
        );
        let serving = "SELECT build, version, file FROM read_model WHERE state = 'serving'";
        let serving: Option<(i64, u32, String)> = views
            .query_row(serving, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .ok();
        let mut checked = Self::without_model(events);
        let Some((build, version, file)) = serving else {
            return checked;
        };
        let model = Connection::open(dir.join(file)).unwrap();
        let sound: String = model
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
        // The process may have died before it made the tables.
        let Ok(position) = model.query_row("SELECT position FROM millstream_build", [], |row| row.get(0))
        else {
            return checked;
        };
        (checked.build, checked.version, checked.position) = (build, version, position);
        checked.seen = pairs::<i64, i64>(&model, "SELECT sequence, 0 FROM seen")
            .into_keys()
            .collect();
        checked.counted = pairs(&model, "SELECT type, count FROM counted");
        let letters = format!(
            "SELECT first_sequence, last_sequence FROM dead_letter WHERE stream = '{}'",
            stream(version)
        );
        let letters: BTreeMap<i64, i64> = pairs(&log, &letters);
        checked.letters = letters
            .into_iter()
            .flat_map(|(first, last)| first..=last)
            .collect();
        checked
    }

    pub(crate) fn check(&self, orders: &impl std::fmt::Debug) {
        let is_selected = |name: &str| selected(self.version).contains(&name);
        let mut folded = BTreeMap::new();
        for (sequence, name) in &self.log {
            if self.seen.contains(sequence) {
                assert!(is_selected(name), "{sequence} is not selected\nafter {orders:?}");
                *folded.entry(name.clone()).or_insert(0) += 1;
            } else if *sequence <= self.position && is_selected(name) {
                assert!(
                    self.letters.contains(sequence),
                    "{sequence} of version {} is lost, at {}\nafter {orders:?}",
                    self.version,
                    self.position
                );
            }
        }
        assert_eq!(self.counted, folded, "\nafter {orders:?}");
        let beyond = self.seen.range(self.position + 1..).next();
        assert_eq!(beyond, None, "applied beyond {}\nafter {orders:?}", self.position);
    }
}

pub(crate) fn pairs<K: Ord + rusqlite::types::FromSql, V: rusqlite::types::FromSql>(
    connection: &Connection,
    sql: &str,
) -> BTreeMap<K, V> {
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

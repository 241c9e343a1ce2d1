//! Crashes of processes that append under idempotency keys: whatever was on its way when one of them died is asked for again by
//! the next one, and every key has exactly one batch in the log, which all answers for it name (L6).
//!
//! Often two processes work at once, and go through the same keys.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults};
use millstream::{AppendedOnce, Durability, EventQuery, NewEvent, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::Dice;
use crate::child::open;
use crate::common::postgres::{Database, database};
use crate::process::{LIFETIME, Process, Task, number, obey, stop_at};
use crate::source::{Place, Source};

const ORDERS: &str = "MILLSTREAM_ONCE_CRASH_ORDERS";
const KILLS_PER_FILE: u64 = 30;
const KILL_WITHIN: Duration = Duration::from_millis(150);
const WRITERS: u64 = 4;

const POINTS: [(FaultPoint, u64); 3] = [
    (FaultPoint::BeforeCommit, 40),
    (FaultPoint::AfterCommit, 40),
    (FaultPoint::AfterPublish, 40),
];

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Orders {
    /// For the journals.
    dir: PathBuf,
    place: Place,
    seed: u64,
    task: Task,
}

/// The journals: which keys were begun, and what was answered.
const BEGUN: &str = "begun";
const ANSWERED: &str = "answered";

/// A key is used by one writer, and says what is appended with it.
fn key(writer: u64, number: u64) -> String {
    format!("writer:{writer}:{number}")
}

fn events_of(writer: u64, number: u64) -> impl Iterator<Item = NewEvent> {
    let count = 1 + (number * 7 + writer) % 5;
    (0..count).map(move |index| {
        let key = key(writer, number);
        NewEvent::new("made-once", json!({ "key": key, "index": index })).tag(key)
    })
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    obey(ORDERS, 2, work);
}

async fn work(orders: Orders) {
    let dice = Dice::new(orders.seed);
    let fatal = orders.task.fatal(&POINTS);
    let builder = Store::builder().durability(Durability::Relaxed);
    let store = open(with_faults(builder, stop_at(fatal)), &orders.place).await;
    let begun = read_begun(&orders.dir);
    let journals = [BEGUN, ANSWERED].map(|name| journal(&orders.dir, name));
    let worker = Arc::new(Worker {
        store,
        dice,
        journals,
    });
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (worker, last) = (Arc::clone(&worker), begun.get(&writer).copied());
        let task = orders.task;
        writers.spawn(async move { worker.write(writer, last, task).await });
    }
    while let Some(outcome) = writers.join_next().await {
        outcome.expect("a writer works until the kill");
    }
    worker.store.close().await.expect("nothing hinders closing");
}

struct Worker {
    store: Store,
    dice: Dice,
    journals: [File; 2],
}

impl Worker {
    async fn write(&self, writer: u64, last: Option<u64>, task: Task) {
        // Nobody knows what became of the last one; and of those before some are asked for again.
        if let Some(last) = last {
            self.make(writer, last).await;
            for _ in 0..3 {
                self.make(writer, self.dice.below(last + 1)).await;
            }
        }
        if matches!(task, Task::Finish) {
            return;
        }
        let end = Instant::now() + LIFETIME;
        for number in last.map_or(0, |last| last + 1).. {
            assert!(Instant::now() < end, "nobody came to kill this process");
            self.make(writer, number).await;
            if self.dice.below(5) == 0 {
                assert!(self.make(writer, number).await.is_repetition);
            }
        }
    }

    /// Appends what belongs to a key, sometimes on the condition that it is not there.
    async fn make(&self, writer: u64, number: u64) -> AppendedOnce {
        self.note(0, &format!("{writer} {number}"));
        let (key, events) = (key(writer, number), events_of(writer, number));
        let once = if self.dice.below(2) == 0 {
            self.store.append_once(&key, events).await
        } else {
            let of_key = EventQuery::tags([key.as_str()]);
            self.store.append_once_if(&key, events, &of_key, 0).await
        };
        let once = once.expect("an append works until the kill");
        let (first, last) = (once.appended.first_sequence, once.appended.last_sequence);
        self.note(1, &format!("{key} {first} {last}"));
        once
    }

    /// A line is one write, so that a kill leaves whole lines.
    fn note(&self, journal: usize, line: &str) {
        let line = format!("{line}\n");
        (&self.journals[journal])
            .write_all(line.as_bytes())
            .expect("the journal takes lines");
    }
}

fn journal(dir: &Path, name: &str) -> File {
    let file = File::options().append(true).create(true).open(dir.join(name));
    file.expect("the journal opens")
}

/// The last number that each writer has begun with.
fn read_begun(dir: &Path) -> BTreeMap<u64, u64> {
    let text = fs::read_to_string(dir.join(BEGUN)).unwrap_or_default();
    let mut begun = BTreeMap::new();
    for line in text.lines() {
        let (writer, number) = line.split_once(' ').expect("two numbers");
        let number: u64 = number.parse().expect("a number");
        let newest = begun.entry(writer.parse().expect("a number")).or_insert(number);
        *newest = number.max(*newest);
    }
    begun
}

#[test]
fn appends_under_keys_are_made_once_whatever_is_killed_and_asked_for_again() {
    kill_writers(90, |dir| Some((Place::File(dir.join("log.db")), None)));
}

#[test]
fn appends_under_keys_on_a_server_are_made_once_whatever_is_killed_and_asked_for_again() {
    kill_writers(30, |_| {
        database().map(|database| (Place::of(&database), Some(database)))
    });
}

/// Kills so often by default. Without a log there is nothing to kill for.
fn kill_writers(kills: u64, begin: impl Fn(&Path) -> Option<(Place, Option<Database>)>) {
    let kills = number("MILLSTREAM_KILLS").unwrap_or(kills);
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(2));
    let mut seen = Seen::default();
    for first in (0..kills).step_by(KILLS_PER_FILE as usize) {
        let last = kills.min(first + KILLS_PER_FILE);
        let mut dir = TempDir::with_prefix_in("once-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        dir.disable_cleanup(true);
        let Some((place, _database)) = begin(dir.path()) else {
            return;
        };
        series(dir.path(), &place, seed ^ first, first..last, &mut seen);
        dir.disable_cleanup(false);
    }
    println!("{kills} kills of appends under keys: {seen:?}; seed {seed}");
    assert!(seen.got_through > 0 || kills < KILLS_PER_FILE, "{seen:?}");
}

/// What there was to see, so that a run which proves nothing is noticed.
#[derive(Debug, Default)]
struct Seen {
    keys: usize,
    /// Appends that were committed although nobody was answered.
    got_through: usize,
}

fn series(dir: &Path, place: &Place, seed: u64, kills: std::ops::Range<u64>, seen: &mut Seen) {
    let dice = Dice::new(seed);
    for kill in kills {
        let task = Task::of(kill, 5, &POINTS, &dice);
        live(dir, place, task, &dice);
        seen.got_through += check(dir, place, task);
    }
    live(dir, place, Task::Finish, &dice);
    check(dir, place, Task::Finish);
    seen.keys += batches_by_key(place).len();
}

/// One life of a process, or of two, of which the other one is killed with the first.
fn live(dir: &Path, place: &Place, task: Task, dice: &Dice) {
    let orders = |task| Orders {
        dir: dir.to_owned(),
        place: place.clone(),
        seed: dice.roll(),
        task,
    };
    let told = orders(task);
    let is_last = matches!(task, Task::Finish);
    let other =
        (!is_last && dice.below(2) == 0).then(|| Process::spawn("once::child", ORDERS, &orders(Task::GoOn)));
    let mut process = Process::spawn("once::child", ORDERS, &told);
    let lived = process.live(task, KILL_WITHIN, dice);
    drop(other);
    drop(process);
    lived.unwrap_or_else(|problem| panic!("{problem}\nafter {told:?}"));
}

/// The batches that SQL finds, by the key in the payload: the first and the last event of each.
fn batches_by_key(place: &Place) -> BTreeMap<String, Vec<(u64, u64)>> {
    // The process may have died before it made the tables.
    let source = Source::open(place).expect("the log can be read");
    let found = source.map(|mut source| source.batches_by_key().expect("the log can be read"));
    found.unwrap_or_default()
}

/// Compares the log with the journals, and says how many appends are in it that nobody was told of.
fn check(dir: &Path, place: &Place, task: Task) -> usize {
    let found = batches_by_key(place);
    for (key, batches) in &found {
        assert_eq!(batches.len(), 1, "{key} was appended at {batches:?}");
    }
    let answered = fs::read_to_string(dir.join(ANSWERED)).unwrap_or_default();
    let mut told = BTreeMap::new();
    for line in answered.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let range = (words[1].parse::<u64>().unwrap(), words[2].parse::<u64>().unwrap());
        let first = told.entry(words[0].to_owned()).or_insert(range);
        assert_eq!(*first, range, "two answers for {}", words[0]);
        assert_eq!(
            found.get(words[0]),
            Some(&vec![range]),
            "{} was answered",
            words[0]
        );
    }
    if matches!(task, Task::Finish) {
        for (writer, last) in read_begun(dir) {
            for number in 0..=last {
                let key = key(writer, number);
                assert!(found.contains_key(&key), "{key} was begun, and is not there");
            }
        }
    }
    found.keys().filter(|key| !told.contains_key(*key)).count()
}

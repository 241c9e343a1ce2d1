//! Two processes on one log: both append, both stand by for all streams, and at random one is killed, or stopped for longer than
//! an owner may be silent. Whatever they do, the log has everything that was acknowledged, once, without a hole (L2, L4), and every stream
//! handles everything, in order, and repeats no more than D3 allows.
//!
//! What is handled is written down in one file per stream, a line in one write, so that it outlives the process and stands in the
//! order in which it was done; what was acknowledged, in one per process. `MILLSTREAM_OWNER_KILLS=200` kills more often than the default of 12 times, `MILLSTREAM_SEED` repeats the
//! choices of a run that failed.

use std::collections::HashMap;
use std::env;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream::{EventBatch, EventQuery, HandleStream, NewEvent, Ownership, Store, StreamError};
use tokio::task::JoinSet;

use crate::child::{BATCHES_UNSTORED_MAX, Process, Role, SILENCE_MAX, durable};
use crate::common::in_time;
use crate::place::{Home, Place};
use crate::registered_after_a_kill;

const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
/// How many kills and stops there are.
const KILLS: u32 = 12;
/// Between two appends of a process.
const PAUSE: Duration = Duration::from_millis(4);

fn handled_file(place: &Place, name: &str) -> PathBuf {
    place.beside(&format!("handled-{name}"))
}

/// How the names of the files begin that say what was acknowledged.
const ACKNOWLEDGED: &str = "acknowledged-";

/// A file to which each line is appended with one write.
fn journal(path: PathBuf) -> File {
    let options = OpenOptions::new().append(true).create(true).open(path);
    options.expect("the file opens")
}

/// What a process does until it is killed.
pub(crate) async fn work(store: &Store, place: &Place, names: &[String]) {
    let mut tasks = JoinSet::new();
    for name in names {
        tasks.spawn(keep(store.clone(), place.clone(), name.clone()));
    }
    let process = std::process::id();
    let mut acknowledged = journal(place.beside(&format!("{ACKNOWLEDGED}{process}")));
    for number in 0_u64.. {
        let said = format!("{process} {number}");
        // A log that a stopped process holds is busy; then the number is left out.
        if let Ok(appended) = store.append([NewEvent::new("worked", &said)]).await {
            let line = format!("{} {said}\n", appended.first_sequence);
            let written = acknowledged.write_all(line.as_bytes());
            written.expect("the journal takes lines");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Registers a stream again and again, whenever it was lost.
async fn keep(store: Store, place: Place, name: String) {
    let file = Arc::new(journal(handled_file(&place, &name)));
    loop {
        let file = Arc::clone(&file);
        let handler = HandleStream::new(move |batch: EventBatch| {
            let line = format!("{} {}\n", std::process::id(), batch.last_sequence());
            let written = (&*file).write_all(line.as_bytes());
            async move { written }
        });
        match store
            .stream_all_durable(&durable(&name, Role::Worker), handler)
            .await
        {
            Ok(stream) => drop(stream.stopped().await),
            Err(StreamError::Storage(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A small generator, whose choices can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

pub(crate) async fn d6_two_processes_that_are_killed_and_stopped_handle_everything_in_order(home: Home) {
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("MILLSTREAM_SEED={seed}");
    let kills = number("MILLSTREAM_OWNER_KILLS").unwrap_or(KILLS.into());
    let mut dice = Dice(seed);
    let place = &home.place;
    let store = place.open().await;
    let start = || Process::start(place, Role::Worker, &STREAMS);
    let mut processes = [start(), start()];
    let mut stopped = 0;
    for _ in 0..kills {
        let head = store.store_head().await;
        let both = [0, 1].map(|_| head + 10 + dice.below(40));
        in_time("they append", store.appended(both[0])).await;
        let chosen = dice.below(2) as usize;
        if dice.below(3) == 0 {
            stopped += 1;
            processes[chosen].signal("STOP");
            // Shorter than an owner may be silent, or longer.
            let silence = SILENCE_MAX.mul_f64(0.3 + dice.below(20) as f64 / 10.0);
            tokio::time::sleep(silence).await;
            processes[chosen].signal("CONT");
        } else {
            processes[chosen].kill();
            processes[chosen] = start();
        }
    }
    in_time(
        "the survivors go on",
        store.appended(store.store_head().await + 20),
    )
    .await;
    processes.iter_mut().for_each(Process::kill);
    finish(&store, place).await;
    let acknowledged = check_acknowledged(&store, place).await;
    println!("{kills} kills and stops, {stopped} of them stops, {acknowledged} appends acknowledged");
}

/// Lets this process handle the rest, and checks all that was written down.
async fn finish(store: &Store, place: &Place) {
    let head = store.store_head().await;
    for name in STREAMS {
        let durable = durable(name, Role::Worker).ownership(Ownership::Fail);
        // Whoever had it is dead.
        let stream = registered_after_a_kill(place, store, &durable).await;
        let after = stream.started_after();
        in_time("the rest is handled", stream.wait_for(head))
            .await
            .unwrap();
        let text = std::fs::read_to_string(handled_file(place, name)).unwrap();
        let newest = check(name, &text);
        assert!(
            after <= newest,
            "{name}: the cursor {after} is ahead of {newest}, which was handled last"
        );
        let repeated = newest - after;
        assert!(
            repeated <= u64::from(BATCHES_UNSTORED_MAX),
            "{name}: {repeated} are handled again"
        );
    }
}

/// Checks that everything that was acknowledged is in the log, where it was said to be, that nothing is there twice, and that there is no
/// hole. Says how much was acknowledged.
async fn check_acknowledged(store: &Store, place: &Place) -> usize {
    let events = store.query(&EventQuery::all()).await.unwrap().events;
    let mut log = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.sequence(), index as u64 + 1, "there is a hole");
        let said: String = event.payload().decode().unwrap();
        let earlier = log.insert(said.clone(), event.sequence());
        assert_eq!(earlier, None, "{said:?} is there twice");
    }
    let mut acknowledged = 0;
    for entry in std::fs::read_dir(place.folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with(ACKNOWLEDGED)) {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let (sequence, said) = line.split_once(' ').expect("a number and what was said");
            let found = log.get(said).map(u64::to_string);
            assert_eq!(found.as_deref(), Some(sequence), "{said:?} was acknowledged");
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 0, "somebody appended something");
    acknowledged
}

/// Checks that each run begins where the one before it was, or so far before it as may be repeated, and goes on without a gap. Says how
/// far they came together. Each batch is one event.
fn check(name: &str, text: &str) -> u64 {
    let mut newest = 0;
    let mut last: HashMap<u32, u64> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let (process, sequence) = line.split_once(' ').expect("two numbers");
        let (process, sequence): (u32, u64) = (process.parse().unwrap(), sequence.parse().unwrap());
        let goes_on = last
            .insert(process, sequence)
            .is_some_and(|last| last + 1 == sequence);
        let begins = sequence <= newest + 1 && sequence + u64::from(BATCHES_UNSTORED_MAX) > newest;
        assert!(
            goes_on || begins,
            "{name}, line {index}: process {process} handled {sequence}, when {newest} was the newest"
        );
        newest = newest.max(sequence);
    }
    newest
}

/// What the parent asks of the log itself.
trait Asks {
    async fn store_head(&self) -> u64;
    async fn appended(&self, sequence: u64);
}

impl Asks for Store {
    async fn store_head(&self) -> u64 {
        self.query(&EventQuery::types(["none"])).await.unwrap().head
    }

    async fn appended(&self, sequence: u64) {
        while self.store_head().await < sequence {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[test]
fn a_gap_and_a_repetition_that_goes_too_far_are_noticed() {
    assert_eq!(check("fine", "1 1\n1 2\n2 2\n2 3\n1 3\n2 4\n1 5\n"), 5);
    let is_noticed = |text: String| std::panic::catch_unwind(|| check("broken", &text)).is_err();
    assert!(is_noticed("1 1\n1 3\n".to_owned()));
    let lines = |last: u64| {
        (1..=last)
            .map(|sequence| format!("1 {sequence}\n"))
            .collect::<String>()
    };
    assert!(!is_noticed(lines(8) + "2 1\n"));
    assert!(is_noticed(lines(9) + "2 1\n"));
}

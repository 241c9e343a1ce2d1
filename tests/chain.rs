//! Crashes of reactors: a process with a chain of three reactors is killed, at named failure points and at random moments, again and
//! again over one database file. After each kill a checker, which knows SQL and nothing of this crate, looks at what is in the
//! file: each event that a reactor has settled has its reaction, once, or waits as a dead letter; no other event has one (A1).
//!
//! The test runs its own binary as the process to kill, and the process kills itself with SIGKILL when its time has come.
//! `MILLSTREAM_KILLS=1000` kills more often than the default of 66 times, `MILLSTREAM_SEED` repeats the choices of a run that failed.
//! `--nocapture` shows the summary. The files of a series that failed are kept, and the failure names them.

#![cfg(unix)]

#[path = "chain/check.rs"]
mod check;
#[path = "chain/child.rs"]
mod child;

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::internals::FaultPoint;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::check::Found;

const ORDERS: &str = "MILLSTREAM_CHAIN_ORDERS";
/// After so many kills everything is let come to its end, and the next series begins over a new file.
const KILLS_PER_FILE: u64 = 22;
const KILL_WITHIN_MICROS: u64 = 250_000;
const SIGKILL: i32 = 9;

/// The reactors: their names, what they answer, and with what.
const LINKS: [(&str, &str, &str); 3] = [
    ("ask", "placed", "asked"),
    ("pay", "asked", "paid"),
    ("send", "paid", "sent"),
];

/// The points to be killed at, and among how many passes of a point the fatal one is chosen.
const POINTS: [(FaultPoint, u64); 10] = [
    (FaultPoint::BeforeCommit, 60),
    (FaultPoint::InReaction, 40),
    (FaultPoint::AfterCommit, 60),
    (FaultPoint::AfterPublish, 60),
    (FaultPoint::BeforeHandler, 60),
    (FaultPoint::AfterHandler, 60),
    (FaultPoint::AfterReaction, 40),
    (FaultPoint::BeforeCursor, 8),
    (FaultPoint::AfterCursor, 8),
    (FaultPoint::BeforeLetter, 8),
];

/// What a child is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Orders {
    file: PathBuf,
    seed: u64,
    task: Task,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Task {
    /// Dies at the given pass of an entry of [`POINTS`].
    DieAt { point: usize, pass: u64 },
    /// Dies at any time.
    DieWithin { micros: u64 },
    /// Lets every chain come to its end, closes the store, and ends.
    Finish,
}

/// A random generator that several threads can share.
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn below(&self, bound: u64) -> u64 {
        let step = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn task(&self, kill: u64) -> Task {
        // Of eleven kills each point gets one.
        match (kill % 11) as usize {
            point if point < POINTS.len() => Task::DieAt {
                point,
                pass: 1 + self.below(POINTS[point].1),
            },
            _ => Task::DieWithin {
                micros: self.below(KILL_WITHIN_MICROS),
            },
        }
    }
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    if let Ok(orders) = env::var(ORDERS) {
        child::obey(&serde_json::from_str(&orders).expect("the orders are those of the parent"));
    }
}

#[test]
fn a1_killed_reactors_lose_no_reaction_and_double_none() {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let kills: u64 = number("MILLSTREAM_KILLS").unwrap_or(66);
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let mut all = Found::default();
    for first in (0..kills).step_by(KILLS_PER_FILE as usize) {
        let dice = Dice::new(seed ^ first);
        let last = kills.min(first + KILLS_PER_FILE);
        all.add(&series(first..last, &dice));
    }
    println!("{kills} kills, {all}; seed {seed}");
    assert!(all.letters_seen > 0 || kills < 22, "letters were among it");
}

/// The kills over one database file.
fn series(kills: std::ops::Range<u64>, dice: &Dice) -> Found {
    let mut dir = TempDir::with_prefix_in("chain-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    // A panic leaves the files behind for a look.
    dir.disable_cleanup(true);
    let mut orders = Orders {
        file: dir.path().join("log.db"),
        seed: 0,
        task: Task::Finish,
    };
    let tasks: Vec<_> = kills.map(|kill| dice.task(kill)).chain([Task::Finish]).collect();
    let mut letters_seen = 0;
    for task in tasks {
        orders.seed = dice.below(u64::MAX);
        orders.task = task;
        live(&orders);
        let found = check::look(&orders.file);
        let found = found.unwrap_or_else(|problem| panic!("{problem}\nafter {orders:?}"));
        letters_seen += found.letters;
        if let Task::Finish = task {
            assert!(
                found.is_complete(),
                "something is missing: {found}\nafter {orders:?}"
            );
            dir.disable_cleanup(false);
            return Found {
                letters_seen,
                ..found
            };
        }
    }
    unreachable!("the last life is the one that finishes");
}

/// One life of the process.
fn live(orders: &Orders) {
    let status = Command::new(env::current_exe().expect("the path of this binary"))
        .args(["--exact", "child", "--nocapture"])
        .env(ORDERS, serde_json::to_string(orders).expect("orders are JSON"))
        .stdout(Stdio::null())
        .status()
        .expect("the binary runs");
    let is_as_told = match orders.task {
        Task::Finish => status.success(),
        Task::DieAt { .. } | Task::DieWithin { .. } => status.signal() == Some(SIGKILL),
    };
    assert!(is_as_told, "the process ended with {status} after {orders:?}");
}

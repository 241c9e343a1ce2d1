//! Crashes: a process that appends and handles is killed, at named failure points and at random moments, again and again
//! over one log, in a file or on a server. After each kill a checker, which knows SQL and nothing of this crate, compares what is in
//! the log with what the process had said before it died (L1, L2, L4, S1, S2, S3, D1, D2, D3, D5).
//!
//! The test runs its own binary as the process to kill. `MILLSTREAM_KILLS=10000` kills more often than the default of 100
//! times in a file and 12 times on a server, `MILLSTREAM_SEED` repeats the choices of a run that failed; the moments of a kill cannot be repeated exactly.
//! `--nocapture` shows the summary. The files of a series that failed are kept, and the failure names them.

#[path = "crash/check.rs"]
mod check;
#[path = "crash/child.rs"]
mod child;
#[path = "common/mod.rs"]
mod common;
#[path = "crash/index.rs"]
mod index;
#[path = "crash/inside.rs"]
mod inside;
#[path = "crash/keyed.rs"]
mod keyed;
#[path = "crash/models.rs"]
mod models;
#[path = "crash/once.rs"]
mod once;
#[path = "crash/process.rs"]
mod process;
#[path = "crash/server_models.rs"]
mod server_models;
#[path = "crash/source.rs"]
mod source;

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::internals::FaultPoint;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::check::{Checker, End, Repeats};
use crate::common::postgres::{Database, database};
use crate::process::{Process, Task, number, obey};
use crate::source::Place;

const ORDERS: &str = "MILLSTREAM_CRASH_ORDERS";
/// After so many kills the next series begins, over a new file.
const KILLS_PER_FILE: u32 = 25;
const KILL_WITHIN: Duration = Duration::from_millis(250);

/// The points to be killed at, and among how many passes of a point the fatal one is chosen.
const POINTS: [(FaultPoint, u64); 9] = [
    (FaultPoint::BeforeCommit, 60),
    (FaultPoint::AfterCommit, 60),
    (FaultPoint::AfterPublish, 60),
    (FaultPoint::BeforeHandler, 300),
    (FaultPoint::AfterHandler, 300),
    (FaultPoint::BeforeCursor, 40),
    (FaultPoint::AfterCursor, 40),
    (FaultPoint::BeforeUpkeep, 200),
    (FaultPoint::AfterUpkeep, 200),
];
/// Its place among them.
const AFTER_HANDLER: usize = 4;
/// The last ones are of the upkeep of the index.
const OF_UPKEEP: usize = 2;

/// When a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// At this entry of [`POINTS`].
    Point(usize),
    /// After so many batches that were handled quietly that the coalesced stream has reached its checkpoint's bound.
    QuietCatchUp,
    AnyTime,
    /// Of itself, when everything is handled.
    End,
}

impl Occasion {
    /// Of twelve kills each point gets one, and the quiet catch-up. On a server the index needs no upkeep of ours.
    fn of(kill: u64, place: &Place) -> Self {
        let points = match place {
            Place::File(_) => POINTS.len(),
            Place::Server { .. } => POINTS.len() - OF_UPKEEP,
        };
        match (kill % 12) as usize {
            point if point < points => Self::Point(point),
            9 => Self::QuietCatchUp,
            _ => Self::AnyTime,
        }
    }

    fn task(self, dice: &Dice) -> Task {
        let stop_at = |point, pass| Task::StopAt { point, pass };
        match self {
            Self::Point(point) => stop_at(point, 1 + dice.below(POINTS[point].1)),
            Self::QuietCatchUp => stop_at(AFTER_HANDLER, 1100 + dice.below(400)),
            Self::AnyTime => Task::GoOn,
            Self::End => Task::Finish,
        }
    }
}

/// What a child is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Orders {
    /// For the journals.
    dir: PathBuf,
    place: Place,
    run: u32,
    seed: u64,
    /// The first stream catches up with a long history alone: no commit, and no other stream's cursor, takes its cursor
    /// along.
    is_quiet: bool,
    task: Task,
}

/// A random generator that several threads can share.
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn roll(&self) -> u64 {
        let step = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// A number for what an event says, equal in all processes that run this binary.
fn digest<'a>(event_type: &str, tags: impl Iterator<Item = &'a str>, payload: &str) -> u64 {
    let mut tags: Vec<&str> = tags.collect();
    tags.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (event_type, tags, payload).hash(&mut hasher);
    hasher.finish()
}

/// Not a test of its own: what the killed process runs.
#[test]
fn child() {
    obey(ORDERS, 4, child::work);
}

#[test]
fn killed_processes_lose_nothing_and_repeat_no_more_than_the_checkpoint_allows() {
    kill_processes(100, || Some(Series::in_a_file()));
}

#[test]
fn killed_processes_of_a_server_lose_nothing_and_repeat_no_more_than_the_checkpoint_allows() {
    kill_processes(12, || database().map(Series::on_a_server));
}

/// Kills so often by default. Without a log there is nothing to kill for.
fn kill_processes(kills: u64, begin: impl Fn() -> Option<Series>) {
    let kills = number("MILLSTREAM_KILLS").unwrap_or(kills);
    let seed = number("MILLSTREAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let mut summary = Summary::default();
    for first in (0..kills).step_by(KILLS_PER_FILE as usize) {
        let last = kills.min(first + u64::from(KILLS_PER_FILE));
        let Some(series) = begin() else { return };
        series.run(seed ^ first, first..last, &mut summary);
    }
    let Summary {
        acknowledged,
        events,
        pruned,
        repeats,
        keyed_repeats_max,
    } = summary;
    println!(
        "{kills} kills, {acknowledged} acknowledged of {events} committed events, {pruned} pruned; repeats: {}, keyed {keyed_repeats_max} of {} at most; seed {seed}",
        repeats.map(|stream| stream.to_string()).join(", "),
        keyed::CHECKPOINT + keyed::LOOKAHEAD,
    );
}

#[derive(Default)]
struct Summary {
    acknowledged: usize,
    events: usize,
    pruned: usize,
    repeats: [Repeats; 3],
    keyed_repeats_max: usize,
}

/// The kills over one log.
struct Series {
    dir: TempDir,
    place: Place,
    /// Is removed with this.
    _database: Option<Database>,
    dice: Dice,
    checker: Checker,
}

impl Series {
    fn in_a_file() -> Self {
        let dir = directory();
        let place = Place::File(dir.path().join("log.db"));
        Self::over(dir, place, None)
    }

    fn on_a_server(database: Database) -> Self {
        Self::over(directory(), Place::of(&database), Some(database))
    }

    fn over(dir: TempDir, place: Place, database: Option<Database>) -> Self {
        let checker = Checker::new(dir.path(), &place);
        Self {
            dir,
            place,
            _database: database,
            dice: Dice::new(0),
            checker,
        }
    }

    fn run(mut self, seed: u64, kills: std::ops::Range<u64>, summary: &mut Summary) {
        self.dice = Dice::new(seed);
        let mut run = 0;
        for kill in kills {
            self.live_and_check(run, Occasion::of(kill, &self.place));
            run += 1;
        }
        self.live_and_check(run, Occasion::End);
        summary.acknowledged += self.checker.acknowledged();
        summary.events += self.checker.head();
        summary.pruned += self.checker.pruned_through();
        let keyed = self.checker.keyed_repeats_max();
        summary.keyed_repeats_max = summary.keyed_repeats_max.max(keyed);
        let repeats = self.checker.repeats();
        for (sum, stream) in summary.repeats.iter_mut().zip(repeats) {
            *sum = sum.and(stream);
        }
        self.dir.disable_cleanup(false);
    }

    /// One life of the process, and the look at what it left.
    fn live_and_check(&mut self, run: u32, occasion: Occasion) {
        let orders = Orders {
            dir: self.dir.path().to_owned(),
            place: self.place.clone(),
            run,
            seed: self.dice.roll(),
            is_quiet: occasion == Occasion::QuietCatchUp,
            task: occasion.task(&self.dice),
        };
        let mut process = Process::spawn("child", ORDERS, &orders);
        let lived = process.live(orders.task, KILL_WITHIN, &self.dice);
        drop(process);
        let end = match orders.task {
            Task::Finish => End::Closed,
            Task::StopAt { .. } | Task::GoOn => End::Killed,
        };
        lived
            .map_err(Into::into)
            .and_then(|()| self.checker.check(run, end))
            .unwrap_or_else(|problem| panic!("{problem}\nafter {orders:?}"));
    }
}

/// For what the processes write down.
fn directory() -> TempDir {
    let mut dir = TempDir::with_prefix_in("crash-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    // A panic leaves the files behind for a look.
    dir.disable_cleanup(true);
    dir
}

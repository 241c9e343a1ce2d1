//! A process that is killed: what it is told to do, and how it lives until then.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use millstream::internals::FaultPoint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Dice;

/// What the child says when it stands at the failure point.
const AT_POINT: &str = "at point";
const LINGER: Duration = Duration::from_millis(8);
const PATIENCE: Duration = Duration::from_secs(50);
/// A child whose parent died must not work for ever.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);

/// The points to be killed at, and among how many passes of a point the fatal one is chosen.
pub(crate) type Points = [(FaultPoint, u64)];

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Goes on until it is killed.
    GoOn,
    /// Goes on, and stops one thread for ever at the given pass of a failure point, which is an entry of the [`Points`].
    StopAt { point: usize, pass: u64 },
    /// Makes good what was left undone, and ends.
    Finish,
}

impl Task {
    /// Of so many kills in a row each point gets one, and the others come at any time.
    pub(crate) fn of(kill: u64, in_a_row: u64, points: &Points, dice: &Dice) -> Self {
        let point = (kill % in_a_row) as usize;
        match points.get(point) {
            Some((_, passes)) => Self::StopAt {
                point,
                pass: 1 + dice.below(*passes),
            },
            None => Self::GoOn,
        }
    }

    /// Where the process is to be stopped, and at which pass.
    pub(crate) fn fatal(self, points: &Points) -> Option<(FaultPoint, u64)> {
        match self {
            Self::StopAt { point, pass } => Some((points[point].0, pass)),
            Self::GoOn | Self::Finish => None,
        }
    }
}

/// A number that whoever runs the test has given.
pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// In the process that is killed: does what the orders under a name say. In any other there are none, and nothing is done.
pub(crate) fn obey<Orders: DeserializeOwned, Work: Future<Output = ()>>(
    name: &str,
    threads: usize,
    work: impl FnOnce(Orders) -> Work,
) {
    let Ok(orders) = env::var(name) else { return };
    let orders = serde_json::from_str(&orders).expect("the orders are those of the parent");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work(orders));
}

/// Says on stdout that a point is passed for the given time, and stops the thread there.
pub(crate) fn stop_at(
    fatal: Option<(FaultPoint, u64)>,
) -> impl Fn(FaultPoint) -> bool + Send + Sync + 'static {
    let passes = AtomicU64::new(0);
    move |at| {
        let Some((_, pass)) = fatal.filter(|(point, _)| *point == at) else {
            return false;
        };
        if passes.fetch_add(1, Ordering::Relaxed) + 1 != pass {
            return false;
        }
        let mut stdout = io::stdout();
        // The test harness may have left a line unfinished.
        write!(stdout, "\n{AT_POINT}\n")
            .and_then(|()| stdout.flush())
            .expect("the parent listens");
        let end = Instant::now() + LIFETIME;
        // Whoever has work for the thread wakes it.
        while Instant::now() < end {
            std::thread::park_timeout(LIFETIME);
        }
        std::process::abort();
    }
}

/// A child, which does not outlive this value. Dropping it is the kill.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Runs a function of this binary with orders, which it finds under a name.
    pub(crate) fn spawn(function: &str, name: &str, orders: &impl Serialize) -> Self {
        let mut child = Command::new(env::current_exe().expect("the path of this binary"))
            .args(["--exact", function, "--nocapture"])
            .env(name, serde_json::to_string(orders).expect("orders are JSON"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (send, lines) = sync_channel(16);
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines.for_each(|line| drop(send.send(line)));
        });
        Self { child, lines }
    }

    /// Lets the process live as it was told to: for a while that a roll of the dice decides, at most the given one, if it is to be
    /// killed at any time.
    pub(crate) fn live(&mut self, task: Task, longest: Duration, dice: &Dice) -> Result<(), String> {
        let within = |longest: Duration| Duration::from_micros(dice.below(longest.as_micros() as u64));
        match task {
            Task::Finish => self.finished(),
            Task::StopAt { .. } => self.stopped_at_point(within(LINGER)),
            Task::GoOn => self.lives_for(within(longest)),
        }
    }

    /// Waits for the failure point, and then a little, while the rest of the process goes on as far as it can.
    fn stopped_at_point(&mut self, linger: Duration) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line == AT_POINT => return self.lives_for(linger),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err("the point was never reached".to_owned()),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
        }
    }

    fn lives_for(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
        }
    }

    /// Waits until the process has done what it was told and ended.
    fn finished(&mut self) -> Result<(), String> {
        match self.lives_for(PATIENCE) {
            Ok(()) => Err(format!("the process did not finish within {PATIENCE:?}")),
            Err(_) if self.child.wait().is_ok_and(|status| status.success()) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    fn ended(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => format!("the process ended by itself: {status}"),
            Err(error) => format!("the process is lost: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a process that has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

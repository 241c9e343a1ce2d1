//! What is shown while the work is going on: bars in a terminal, now and then a plain line elsewhere.
//!
//! All of it goes to the standard error, so that the summary can be piped somewhere.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use millstream::{StatusWatch, StreamState, StreamStatus};
use tokio::task::JoinHandle;
use tokio::time;

use crate::slices::Running;

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    appended: Arc<AtomicU64>,
    bars: MultiProgress,
    shown: JoinHandle<()>,
}

/// The line of a slice, and where it looks.
struct Line {
    name: &'static str,
    status: StatusWatch,
    bar: ProgressBar,
}

impl Progress {
    /// Shows how far the log and the slices are, until [`Progress::finish`].
    pub(crate) fn start(commits: u64, slices: &[Running]) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let total = bars.add(ProgressBar::new(commits).with_style(style(
            "{prefix:14} {wide_bar:.cyan/238} {human_pos}/{human_len} commits  {rate:>9}  {eta:>4} left",
        )));
        total.set_prefix("log");
        let lines = slices.iter().map(|running| {
            let bar = bars.add(ProgressBar::new_spinner().with_style(style("{prefix:14} {msg}")));
            bar.set_prefix(running.slice.name);
            Line {
                name: running.slice.name,
                status: running.stream.watch(),
                bar,
            }
        });
        let lines: Vec<_> = lines.collect();
        let appended = Arc::new(AtomicU64::new(0));
        let shown = if bars.is_hidden() {
            tokio::spawn(show_lines(commits, Arc::clone(&appended), lines))
        } else {
            tokio::spawn(show_bars(total, Arc::clone(&appended), lines))
        };
        Self {
            appended,
            bars,
            shown,
        }
    }

    /// One more commit is in the log.
    pub(crate) fn commit_appended(&self) {
        // A number to look at: nothing else depends on it.
        self.appended.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the bars away.
    pub(crate) async fn finish(self) {
        self.shown.abort();
        // Only ever the news that it was aborted.
        let _ = self.shown.await;
        // A terminal that is gone shows nothing anyway.
        let _ = self.bars.clear();
    }
}

async fn show_bars(total: ProgressBar, appended: Arc<AtomicU64>, lines: Vec<Line>) {
    let mut interval = time::interval(BAR_INTERVAL);
    loop {
        interval.tick().await;
        total.set_position(appended.load(Ordering::Relaxed));
        for line in &lines {
            line.bar.set_message(describe(&line.status.current()));
        }
    }
}

async fn show_lines(commits: u64, appended: Arc<AtomicU64>, lines: Vec<Line>) {
    let mut interval = time::interval(LINE_INTERVAL);
    // The first tick is now, when there is nothing to tell.
    interval.tick().await;
    loop {
        interval.tick().await;
        let appended = HumanCount(appended.load(Ordering::Relaxed));
        let mut text = format!("{appended} of {} commits appended", HumanCount(commits));
        for line in &lines {
            // Writing to a text cannot fail.
            let _ = write!(text, "; {} {}", line.name, describe(&line.status.current()));
        }
        // Nobody may be listening.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn describe(status: &StreamStatus) -> String {
    let (position, lag) = (HumanCount(status.position), HumanCount(status.lag));
    let state = match &status.state {
        StreamState::Retrying { attempt, .. } => format!(", attempt {attempt} failed"),
        StreamState::Stopped(_) => ", stopped".to_owned(),
        _ => String::new(),
    };
    format!("at {position}, {lag} behind{state}")
}

/// A template that is wrong shows the plain style: no reason to stop.
fn style(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{}/s", HumanCount(state.per_sec() as u64));
    };
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
}

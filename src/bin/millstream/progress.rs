//! How far a long command is: a bar with rate and remaining time, when somebody looks.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Events,
    Letters,
}

/// A bar on the standard error. Elsewhere than in a terminal it is nothing.
pub(crate) struct Progress(ProgressBar);

const REDRAWS_PER_SECOND: u8 = 10;

impl Progress {
    /// Begins at 0. Without a total there is a rate, and no remaining time.
    pub(crate) fn start(verb: &str, unit: Unit, total: Option<u64>) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            (Unit::Bytes, None) => "{prefix} {spinner} {bytes} {bytes_per_sec}",
            (Unit::Letters, _) => "{prefix} {spinner} {human_pos}/{human_len} {elapsed}",
            (Unit::Events, Some(_)) => "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} {eta} left",
            (Unit::Events, None) => "{prefix} {spinner} {human_pos} {per_sec}",
        };
        let style =
            ProgressStyle::with_template(template).expect("the template is one of five that are well formed");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        bar.set_prefix(verb.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// A handle for another thread.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// What is being done from now on.
    pub(crate) fn does(&self, verb: &'static str) {
        if self.0.prefix() != verb {
            self.0.set_prefix(verb);
        }
    }

    pub(crate) fn reached(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(crate) fn out_of(&self, total: u64) {
        self.0.set_length(total);
    }
}

impl Drop for Progress {
    /// Takes the bar away, also before an error is shown.
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

//! How processes that write to one file take turns: SQLite has no queue for them.
//!
//! Whoever waits looks again and again whether the file is free. Whoever has just written, and is back at once, would nearly always
//! come before the next look: a busy process would leave another one standing for hundreds of commits. So whoever knows of another
//! one that writes leaves the file free for a moment after each commit, for longer than those who wait pause between two looks.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// How long a connection waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// For so long whoever waits stays awake: on a fast disk a commit takes no longer.
const AWAKE_MAX: Duration = Duration::from_micros(150);
const LOOK_EVERY: Duration = Duration::from_micros(10);
/// Later the pauses are a part of what was waited until then, up to a bound. The system makes each of them some fifty microseconds longer.
/// SQLite itself would sleep for a millisecond at first and for a hundred later.
const PAUSE_PART: u32 = 32;
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// The file is left free for a part of the time for which it was held, within bounds: longer than whoever waited meanwhile pauses.
const FREE_PART: u32 = 16;
const FREE_MIN: Duration = Duration::from_micros(100);
const FREE_MAX: Duration = Duration::from_millis(10);
/// Another process that has not written for so long is not thought of any more.
const OTHERS_FOR: Duration = Duration::from_millis(50);

/// Has a connection wait for those who hold the file, for as long as one waits.
pub(super) fn be_patient(connection: &mut Connection) -> rusqlite::Result<()> {
    let mut waits_since = Instant::now();
    // SQLite counts the calls for what it waits for.
    let look_again = move |calls: i32| {
        if calls == 0 {
            waits_since = Instant::now();
        }
        match rest(waits_since.elapsed()) {
            Rest::Awake => stay_awake(LOOK_EVERY),
            // Nobody says when another process has let go of the file. Whoever is woken by something else looks once more.
            Rest::Asleep(pause) => thread::park_timeout(pause),
            Rest::Over => return false,
        }
        true
    };
    connection.busy_handler(Some(look_again))
}

/// What is done between two looks whether the file is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Awake,
    Asleep(Duration),
    /// It was waited for long enough.
    Over,
}

/// What to do after one has waited for so long.
fn rest(waited: Duration) -> Rest {
    if waited < AWAKE_MAX {
        Rest::Awake
    } else if waited < BUSY_TIMEOUT {
        Rest::Asleep((waited / PAUSE_PART).min(PAUSE_MAX))
    } else {
        Rest::Over
    }
}

/// Leaves the processor to others who need it.
fn stay_awake(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        thread::yield_now();
    }
}

/// What a writer knows of others who write to the file.
pub(super) struct Turns {
    /// The last sequence that is known here.
    head: u64,
    began_at: Instant,
    ended_at: Instant,
    /// The end of the last transaction that found what somebody else had appended.
    others_at: Option<Instant>,
    finds_others: bool,
}

impl Turns {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            head: 0,
            began_at: now,
            ended_at: now,
            others_at: None,
            finds_others: false,
        }
    }

    /// Before a transaction: lets another process go first, if there is one.
    pub(super) fn give_way(&self) {
        if self.others_at.is_none_or(|at| at.elapsed() > OTHERS_FOR) {
            return;
        }
        let free_until = self.ended_at + left_free(self.ended_at - self.began_at);
        // It may come back early.
        while let left = free_until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
    }

    /// A transaction begins.
    pub(super) fn begins(&mut self) {
        self.began_at = Instant::now();
    }

    /// This is the last sequence that it finds in the log.
    pub(super) fn sees(&mut self, head: u64) {
        self.finds_others = head > self.head;
        self.head = self.head.max(head);
    }

    /// The file is free. The transaction has appended up to here, if it appended something.
    pub(super) fn ends(&mut self, appended_through: u64) {
        self.ended_at = Instant::now();
        self.head = self.head.max(appended_through);
        if std::mem::take(&mut self.finds_others) {
            self.others_at = Some(self.ended_at);
        }
    }
}

/// For how long the file is left free after it was held for so long.
fn left_free(held: Duration) -> Duration {
    (held / FREE_PART).clamp(FREE_MIN, FREE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_looks_often_at_first_and_gives_up_after_its_time() {
        let (mut waited, mut looks_awake, mut looks) = (Duration::ZERO, 0, 0);
        loop {
            match rest(waited) {
                Rest::Awake => {
                    waited += LOOK_EVERY;
                    looks_awake += 1;
                }
                Rest::Asleep(pause) => {
                    assert!(pause <= PAUSE_MAX, "{pause:?}");
                    waited += pause;
                    looks += 1;
                }
                Rest::Over => break,
            }
        }
        assert_eq!(looks_awake, 15, "while commits of others take their time");
        assert!(
            waited >= BUSY_TIMEOUT && looks < 1_500,
            "{looks} looks in {waited:?}"
        );
    }

    #[test]
    fn the_file_is_left_free_for_longer_than_those_who_wait_pause() {
        // What the system adds to a pause.
        let added = Duration::from_micros(60);
        let mut held = Duration::from_micros(50);
        while held < BUSY_TIMEOUT {
            if let Rest::Asleep(pause) = rest(held) {
                assert!(left_free(held) >= pause + added.min(pause), "held for {held:?}");
            }
            held *= 2;
        }
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut turns = Turns::new();
        // What was there before counts as somebody else's, for a moment.
        turns.sees(7);
        turns.ends(9);
        assert!(turns.others_at.take().is_some());
        for head in 9..20 {
            turns.sees(head);
            turns.ends(head + 1);
        }
        assert_eq!(turns.others_at, None);
        turns.sees(21);
        turns.ends(0);
        assert!(turns.others_at.is_some(), "one event more than was appended here");
    }
}

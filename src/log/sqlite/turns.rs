//! How processes that write to one file take turns: SQLite has no queue for them.
//!
//! SQLite's lock is for whoever looks at the right moment, between two commits of another one. Who has to share it at every commit
//! is slow: each process finds the other one's pages in the place of its own, and its callers are asleep. So a process that
//! writes all the time, and knows of another one that writes, has a turn: as long as it lasts it holds the lock on a file beside the log.
//!
//! ```text
//! shop.db
//! shop.db-turn      locked by the process whose turn it is
//! ```
//!
//! Whoever wants to have a turn waits for that lock and lets those commits be. But it guards nothing, SQLite's own lock does: whoever writes
//! now and then comes in between two commits without a turn, and ends nobody's; and when a process is stopped while it has the turn, the
//! others do without.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::log::sqlite::connection::side_path;

/// How long a connection waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks. Looking more often takes the processor from whoever serves the disk. SQLite itself would sleep for a
/// millisecond at first and for a hundred later.
const PAUSE: Duration = Duration::from_micros(100);
/// So long the turns of several processes take. Who has waited for longer waits for something else: the pauses are a part of what was
/// waited until then.
const TURNS: Duration = Duration::from_millis(80);
const PAUSE_PART: u32 = 80;
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// A turn lasts for so long, and for as long as the commit takes that is then under way.
const TURN: Duration = Duration::from_millis(8);
/// By so much longer than those who wait mean to sleep the file is left free behind a turn: the system wakes them late.
const LATE: Duration = Duration::from_micros(250);
/// Whoever comes back so late writes now and then.
const AWAY: Duration = Duration::from_millis(1);
/// So many transactions in a row need no turn.
const FEW: u32 = 2;
/// Whoever waited for so long for a turn takes it without the lock, and does not wait for the next ones either for a while.
const PATIENCE: Duration = Duration::from_millis(400);
const GIVES_UP_FOR: Duration = Duration::from_secs(10);
/// Others that have not written for so many turns are not thought of any more.
const TURNS_ALONE_MAX: u32 = 10;

/// Has a connection wait for those who hold the file, for as long as one waits.
pub(super) fn be_patient(connection: &mut Connection) -> rusqlite::Result<()> {
    be_patient_for(connection, BUSY_TIMEOUT)
}

/// The same for so long at most.
pub(super) fn be_patient_for(connection: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    let mut waits_since = Instant::now();
    // SQLite counts the calls for what it waits for.
    let look_again = move |calls: i32| {
        if calls == 0 {
            waits_since = Instant::now();
        }
        let waited = waits_since.elapsed();
        if waited < patience {
            // Nobody says when another process has let go of the file. Whoever is woken by something else looks once more.
            thread::park_timeout(pause(waited));
        }
        waited < patience
    };
    connection.busy_handler(Some(look_again))
}

/// How long to sleep before the next look when one has waited for so long.
fn pause(waited: Duration) -> Duration {
    if waited < TURNS {
        PAUSE
    } else {
        (waited / PAUSE_PART).min(PAUSE_MAX)
    }
}

/// The turns of a writer, and what it knows of others who write to the file.
pub(super) struct Turns {
    turn: Option<Turn>,
    /// For how long the file is to be left free behind the last turn.
    free_for: Option<Duration>,
    /// Nothing: nobody else can write to this log.
    place: Option<Place>,
    /// When a turn was waited for in vain.
    gave_up_at: Option<Instant>,
    /// As of the last transaction: SQLite gives the file another version when somebody else has written.
    version: Option<i64>,
    /// When the last transaction ended, and how many came one right after the other.
    ended_at: Instant,
    in_a_row: u32,
    /// How many turns ago, or transactions that needed none, somebody else was found to have written. Nothing: nobody else writes.
    others: Option<u32>,
}

struct Turn {
    since: Instant,
    /// Nothing: it goes without. The file is left free behind it all the same.
    lock: Option<File>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // To close the file is not enough where the process has forked meanwhile.
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// Where the file is whose lock is the turn.
struct Place {
    path: PathBuf,
    is_made: bool,
}

impl Place {
    /// Makes the file if it is not there. Whoever leaves removes it, and those who wait for it then make another one for the next turn.
    fn open(&mut self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        match options.write(true).create(true).truncate(false).open(&self.path) {
            // Somebody else's. To read it is enough.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&self.path),
            file => {
                self.is_made = true;
                file
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_made {
            // Empty, and in nobody's way.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Turns {
    /// Of a log that nobody else can open.
    pub(super) fn alone() -> Self {
        Self {
            turn: None,
            free_for: None,
            place: None,
            gave_up_at: None,
            version: None,
            ended_at: Instant::now(),
            in_a_row: 0,
            others: None,
        }
    }

    pub(super) fn beside(log: &Path) -> Self {
        let place = Place {
            path: side_path(log, "-turn"),
            is_made: false,
        };
        Self {
            place: Some(place),
            ..Self::alone()
        }
    }

    /// Before a transaction: when others write as well, waits for a turn, if it takes one and has none.
    pub(super) fn take(&mut self) {
        if self.ended_at.elapsed() >= AWAY {
            self.begin_anew();
        }
        self.go_on();
    }

    /// It was away.
    fn begin_anew(&mut self) {
        self.turn = None;
        self.free_for = None;
        self.in_a_row = 0;
    }

    fn go_on(&mut self) {
        if self.others.is_none() {
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row <= FEW {
            self.begins_a_turn();
            return;
        }
        if self.turn.is_some() {
            return;
        }
        if let Some(time) = self.free_for.take() {
            self.leave_free(time);
        }
        if self.begins_a_turn() {
            let lock = self.wait().unwrap_or_else(|error| {
                tracing::debug!(%error, "the file of the turns cannot be locked");
                None
            });
            let since = Instant::now();
            self.turn = Some(Turn { since, lock });
        }
    }

    /// Counts the turns in which nobody else wrote. `false`: nobody else writes any more.
    fn begins_a_turn(&mut self) -> bool {
        self.others = self
            .others
            .map(|ago| ago + 1)
            .filter(|ago| *ago <= TURNS_ALONE_MAX);
        self.others.is_some()
    }

    /// Leaves the file free until it has been free for so long.
    fn leave_free(&self, time: Duration) {
        // It may come back early.
        while let left = time.saturating_sub(self.ended_at.elapsed())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
    }

    /// Waits for the lock. Nothing: it goes without.
    fn wait(&mut self) -> io::Result<Option<File>> {
        let Some(place) = &mut self.place else {
            return Ok(None);
        };
        let lock = place.open()?;
        let waits = self
            .gave_up_at
            .is_none_or(|gave_up_at| gave_up_at.elapsed() >= GIVES_UP_FOR);
        let began = Instant::now();
        // Whoever has it has just begun, mostly.
        let mut pause = TURN;
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    self.gave_up_at = None;
                    return Ok(Some(lock));
                }
                Err(TryLockError::WouldBlock) if !waits => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if began.elapsed() >= PATIENCE {
                self.gave_up_at = Some(Instant::now());
                return Ok(None);
            }
            thread::park_timeout(pause);
            pause = PAUSE;
        }
    }

    /// When the turn is over if nothing more is written.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.turn.as_ref().map(|_| self.ended_at + AWAY)
    }

    /// Ends the turn if nothing was written for so long.
    pub(super) fn end_if_over(&mut self) {
        if self.over_at().is_some_and(|over_at| over_at <= Instant::now()) {
            self.turn = None;
        }
    }

    /// The version of the file in a transaction.
    pub(super) fn finds(&mut self, version: i64) {
        if self
            .version
            .replace(version)
            .is_some_and(|known| known != version)
        {
            self.others = Some(0);
        }
    }

    /// The transaction is over, and what was done behind it: the file is free, for somebody else when the turn is over as well.
    pub(super) fn ends(&mut self) {
        self.ended_at = Instant::now();
        if let Some(Turn { since, .. }) = self.turn
            && let had = self.ended_at - since
            && had >= TURN
        {
            self.turn = None;
            self.free_for = Some(pause(had) + LATE);
        }
    }

    /// Another process writes as well.
    pub(super) fn has_others(&self) -> bool {
        self.others.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_looks_often_for_some_turns_and_rarely_later() {
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        let mut looks_within = |time| {
            while waited < time {
                waited += pause(waited);
                looks += 1;
            }
            looks
        };
        assert_eq!(looks_within(TURNS), 800);
        assert!(looks_within(BUSY_TIMEOUT) < 2_000);
    }

    /// Of a writer that has written all the time, and has just found what somebody else had written.
    fn busy_beside_others(log: &Path) -> Turns {
        let mut turns = Turns::beside(log);
        turns.finds(1);
        turns.finds(2);
        turns.in_a_row = FEW;
        turns
    }

    // `take` looks at the clock, to which nothing here listens: a machine may be slow.
    impl Turns {
        /// As if a transaction ended so long after the turn began.
        fn ends_after(&mut self, time: Duration) {
            self.turn.as_mut().expect("it has a turn").since = Instant::now() - time;
            self.ends();
        }

        fn has_lock(&self) -> bool {
            self.turn.as_ref().is_some_and(|turn| turn.lock.is_some())
        }
    }

    #[test]
    fn two_that_write_all_the_time_have_one_turn_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let mut one = busy_beside_others(&log);
        one.go_on();
        assert!(one.has_lock(), "nobody else has it");
        let in_an_hour = Instant::now() + Duration::from_secs(3_600);
        one.turn.as_mut().unwrap().since = in_an_hour;
        one.ends();
        one.go_on();
        assert_eq!(one.turn.as_ref().unwrap().since, in_an_hour, "it is not over");
        let two = thread::spawn(move || {
            let mut two = busy_beside_others(&log);
            two.go_on();
            while !two.has_lock() {
                // It has given up: this machine is slow.
                two.gave_up_at = None;
                two.ends_after(TURN);
                two.finds(1);
                two.finds(2);
                two.go_on();
            }
            two
        });
        while !two.is_finished() {
            one.ends_after(TURN);
            assert!(one.turn.is_none());
            one.finds(1);
            one.finds(2);
            one.go_on();
        }
        let two = two.join().unwrap();
        assert!(two.has_lock() && !one.has_lock());
    }

    #[test]
    fn the_file_is_left_free_for_longer_than_those_who_wait_sleep() {
        let folder = tempfile::tempdir().unwrap();
        for had in [8, 9, 100, 5_000].map(Duration::from_millis) {
            let mut turns = busy_beside_others(&folder.path().join("log.db"));
            turns.go_on();
            turns.ends_after(had);
            turns.go_on();
            let was_free = turns.turn.as_ref().expect("nobody else wants it").since - turns.ended_at;
            assert!(was_free > pause(had), "{was_free:?} after {had:?}");
        }
    }

    #[test]
    fn who_writes_now_and_then_waits_for_no_turn() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let (mut busy, mut other) = (busy_beside_others(&log), busy_beside_others(&log));
        busy.go_on();
        other.ended_at = Instant::now() - AWAY;
        other.take();
        assert_eq!(other.in_a_row, 1);
        for _ in 1..FEW {
            other.go_on();
        }
        assert!(other.turn.is_none());
        other.go_on();
        assert!(other.gave_up_at.is_some(), "it goes on, and waits for its turn");
    }

    #[test]
    fn a_turn_ends_when_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let mut turns = busy_beside_others(&log);
        assert_eq!(turns.over_at(), None);
        turns.go_on();
        turns.ended_at = Instant::now() + Duration::from_secs(3_600);
        turns.end_if_over();
        assert_eq!(turns.over_at(), Some(turns.ended_at + AWAY));
        turns.ended_at = Instant::now() - AWAY;
        turns.end_if_over();
        assert_eq!(turns.over_at(), None);
        let mut other = busy_beside_others(&log);
        other.go_on();
        assert!(other.has_lock());
    }

    #[test]
    fn a_turn_that_is_not_given_back_is_waited_for_once_in_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        let (mut stopped, mut other) = (busy_beside_others(&log), busy_beside_others(&log));
        stopped.go_on();
        let began = Instant::now();
        other.go_on();
        assert!(began.elapsed() >= PATIENCE);
        let gave_up_at = other.gave_up_at.expect("it is not given back");
        assert!(other.turn.is_some() && !other.has_lock());
        other.gave_up_at = Some(gave_up_at + GIVES_UP_FOR);
        other.ends_after(TURN);
        other.go_on();
        assert!(other.turn.is_some() && !other.has_lock());
        assert_eq!(other.gave_up_at, Some(gave_up_at + GIVES_UP_FOR), "it waited");
        other.gave_up_at = Some(gave_up_at - GIVES_UP_FOR);
        other.ends_after(TURN);
        other.go_on();
        assert!(other.gave_up_at > Some(gave_up_at), "it waits again");
        stopped.turn = None;
        other.ends_after(TURN);
        other.go_on();
        assert!(other.has_lock() && other.gave_up_at.is_none(), "it is free again");
    }

    #[test]
    fn who_cannot_lock_the_file_leaves_it_free_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut turns = busy_beside_others(&folder.path().join("missing").join("log.db"));
        turns.go_on();
        assert!(turns.turn.is_some() && !turns.has_lock());
        turns.ends_after(TURN);
        assert!(turns.turn.is_none() && turns.free_for.is_some());
    }

    #[test]
    fn who_is_alone_has_no_turns_and_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut turns = Turns::beside(&folder.path().join("log.db"));
        for _ in 0..10 {
            turns.finds(7);
            turns.ends();
            turns.take();
        }
        assert!(turns.turn.is_none() && !turns.has_others());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn who_does_not_write_any_more_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut turns = busy_beside_others(&folder.path().join("log.db"));
        for _ in 0..TURNS_ALONE_MAX {
            turns.go_on();
            turns.ends_after(TURN);
        }
        assert!(turns.has_others() && folder.path().join("log.db-turn").exists());
        turns.go_on();
        assert!(turns.turn.is_none() && !turns.has_others());
        turns.finds(3);
        turns.go_on();
        assert!(turns.has_lock());
        drop(turns);
        assert_eq!(
            folder.path().read_dir().unwrap().count(),
            0,
            "who leaves tidies up"
        );
    }
}

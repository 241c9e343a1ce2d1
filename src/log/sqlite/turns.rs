//! How processes that write to one file take turns: SQLite has no queue for them.
//!
//! Whoever waits looks again and again whether the file is free, and comes in between two commits of the one who writes, or not.
//! Looking often does not pay: two processes that took turns at every commit would each find the other one's pages in the place of its
//! own, and the processor that looks is missing where the disk is served. So whoever has had the file for a turn, and knows of another
//! one that writes, leaves it free for longer than those who wait sleep; and these sleep through most of a turn, and look often only when
//! its end is near.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// How long a connection waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// For so long, and for as long as the commit takes that is then under way, a process writes before it lets another one go first.
const TURN: Duration = Duration::from_millis(2);
/// The first look comes after a commit or two. SQLite itself would sleep for a millisecond at first and for a hundred later.
const PAUSE_FIRST: Duration = Duration::from_micros(400);
/// Whoever has the file still is having a turn, whose end is near after so long.
const TURN_NEARLY: Duration = Duration::from_micros(1_500);
/// The pauses when the end of a turn is near.
const PAUSE_NEAR: Duration = Duration::from_micros(100);
/// So long the turns of several processes take. Who has waited for longer waits for something else: the pauses are a part of what was
/// waited until then.
const TURNS: Duration = Duration::from_millis(20);
const PAUSE_PART: u32 = 8;
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// By so much longer than those who wait mean to sleep the file is left free: the system wakes them late.
const LATE: Duration = Duration::from_micros(150);
/// Another process that has not written for so long before a turn is not thought of any more.
const OTHERS_FOR: Duration = Duration::from_millis(50);

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
    if waited < PAUSE_FIRST {
        PAUSE_FIRST
    } else if waited < TURN_NEARLY {
        TURN_NEARLY - waited
    } else if waited < TURNS {
        PAUSE_NEAR
    } else {
        (waited / PAUSE_PART).min(PAUSE_MAX)
    }
}

/// What a writer knows of others who write to the file.
pub(super) struct Turns {
    /// As of the last transaction: SQLite gives the file another version when somebody else has written.
    version: Option<i64>,
    /// Since when the file is this writer's, and when its last transaction ended.
    since: Instant,
    ended_at: Instant,
    /// When a transaction found last what somebody else had written.
    others_at: Option<Instant>,
}

impl Turns {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            version: None,
            since: now,
            ended_at: now,
            others_at: None,
        }
    }

    /// Before a transaction: lets another process go first, if there is one and it is its turn.
    pub(super) fn give_way(&mut self) {
        let began = Instant::now();
        let Some(free_for) = self.leave_free(began) else {
            return;
        };
        // It may come back early.
        while let left = free_for.saturating_sub(began.elapsed())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
        self.since = Instant::now();
    }

    /// For how long to leave the file free now that a turn is over.
    fn leave_free(&mut self, now: Instant) -> Option<Duration> {
        let others_at = self.others_at?;
        let was_free = now - self.ended_at;
        if was_free >= PAUSE_MAX + LATE {
            self.since = now;
        }
        if self.since.saturating_duration_since(others_at) > OTHERS_FOR {
            self.others_at = None;
            return None;
        }
        let turn = self.ended_at.saturating_duration_since(self.since);
        if turn < TURN {
            return None;
        }
        Some((pause(turn) + LATE).saturating_sub(was_free))
    }

    /// The version of the file in a transaction.
    pub(super) fn finds(&mut self, version: i64) {
        if self
            .version
            .replace(version)
            .is_some_and(|known| known != version)
        {
            self.since = Instant::now();
            self.others_at = Some(self.since);
        }
    }

    /// The transaction is over, and what was done behind it: the file is free.
    pub(super) fn ends(&mut self) {
        self.ended_at = Instant::now();
    }

    /// Another process writes as well.
    pub(super) fn has_others(&self) -> bool {
        self.others_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_sleeps_through_a_turn_looks_often_at_its_end_and_rarely_later() {
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        let mut looks_within = |time| {
            while waited < time {
                waited += pause(waited);
                looks += 1;
            }
            looks
        };
        assert_eq!(looks_within(TURN_NEARLY), 2);
        assert_eq!(looks_within(TURN + TURN / 2), 2 + 15);
        assert!(looks_within(BUSY_TIMEOUT) < 1_300);
    }

    /// Of a writer that has just found what somebody else had written.
    fn beside_others() -> Turns {
        let mut turns = Turns::new();
        turns.finds(1);
        turns.finds(2);
        turns
    }

    #[test]
    fn the_file_is_left_free_for_longer_than_those_who_wait_sleep() {
        for held in [2, 3, 10, 100, 5_000].map(Duration::from_millis) {
            let mut turns = beside_others();
            turns.ended_at = turns.since + TURN / 2;
            assert_eq!(turns.leave_free(turns.ended_at), None, "the turn is not over");
            turns.ended_at = turns.since + held;
            let free_for = turns.leave_free(turns.ended_at).expect("the turn is over");
            assert!(free_for > pause(held), "{free_for:?} after {held:?}");
            let idle_until = turns.ended_at + free_for;
            assert!(
                turns.leave_free(idle_until).is_none_or(|left| left.is_zero()),
                "it was free"
            );
        }
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut turns = Turns::new();
        turns.finds(7);
        turns.finds(7);
        turns.ended_at = turns.since + 2 * TURN;
        assert!(!turns.has_others());
        assert_eq!(turns.leave_free(turns.ended_at), None);
    }

    #[test]
    fn who_does_not_write_any_more_is_forgotten() {
        let mut turns = beside_others();
        let left_free = (0..100).filter(|_| {
            turns.ended_at = turns.since + TURN;
            let leaves_free = turns.leave_free(turns.ended_at).is_some();
            turns.since = turns.ended_at;
            leaves_free
        });
        assert_eq!(
            left_free.count(),
            26,
            "once a turn for {OTHERS_FOR:?}, and once more"
        );
        assert!(!turns.has_others());
        turns.finds(3);
        assert!(turns.has_others());
        // One who writes rarely has no turn that is over.
        turns.ended_at = turns.since;
        assert_eq!(turns.leave_free(turns.ended_at + 2 * OTHERS_FOR), None);
        assert!(!turns.has_others());
    }
}

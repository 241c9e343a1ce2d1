//! Who rests, who is ready, who runs, and which threads there are. Pure: it neither sleeps nor calls anybody.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use crate::log::crew::{Duty, Ending};

pub(super) struct Roster {
    members: HashMap<u64, Member>,
    next_id: u64,
    /// Those who wait for a thread, in turn.
    ready: VecDeque<u64>,
    /// When those who rest are to take a turn.
    times: BTreeSet<(Instant, u64)>,
    /// Nobody will join any more.
    pub(super) is_closed: bool,
    pub(super) threads: usize,
    pub(super) asleep: usize,
    /// A thread is awake and about to come for who is ready.
    pub(super) looks: bool,
    /// Until when a thread sleeps that comes for those whose time it is.
    watched_until: Option<Instant>,
}

struct Member {
    stage: Stage,
    ending: Ending,
}

enum Stage {
    Resting { duty: Box<dyn Duty>, until: Instant },
    Ready(Box<dyn Duty>),
    Running { is_roused: bool },
}

/// Who comes for those who are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// Somebody who is awake; or nobody is needed.
    Comes,
    /// Somebody who sleeps.
    Sleeps,
    /// Nobody yet, and there may be one thread more.
    Lacks,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self {
            members: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            times: BTreeSet::new(),
            is_closed: false,
            threads: 0,
            asleep: 0,
            looks: false,
            watched_until: None,
        }
    }

    /// The number of one who may join.
    pub(super) fn place(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A member joins, and is ready.
    pub(super) fn begin(&mut self, id: u64, duty: Box<dyn Duty>, ending: Ending) {
        let stage = Stage::Ready(duty);
        self.members.insert(id, Member { stage, ending });
        self.ready.push_back(id);
    }

    /// A member goes, and nobody calls it any more.
    pub(super) fn leave(&mut self, id: u64) -> Option<Ending> {
        self.ready.retain(|ready| *ready != id);
        self.members.remove(&id).map(|member| member.ending)
    }

    /// Has a member take a turn, and says whether somebody may have to be called for it.
    pub(super) fn rouse(&mut self, id: u64) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        match std::mem::replace(&mut member.stage, Stage::Running { is_roused: true }) {
            Stage::Resting { duty, until } => {
                member.stage = Stage::Ready(duty);
                self.times.remove(&(until, id));
                self.ready.push_back(id);
                true
            }
            Stage::Ready(duty) => {
                member.stage = Stage::Ready(duty);
                false
            }
            Stage::Running { .. } => false,
        }
    }

    /// Those whose time it is are ready.
    pub(super) fn ripen(&mut self, now: Instant) {
        while let Some((until, id)) = self.times.first().copied().filter(|(until, _)| *until <= now) {
            self.times.remove(&(until, id));
            self.rouse(id);
        }
    }

    /// Takes the one who is ready for longest.
    pub(super) fn take(&mut self) -> Option<(u64, Box<dyn Duty>)> {
        let id = self.ready.pop_front()?;
        let member = self.members.get_mut(&id)?;
        match std::mem::replace(&mut member.stage, Stage::Running { is_roused: false }) {
            Stage::Ready(duty) => Some((id, duty)),
            stage => {
                member.stage = stage;
                None
            }
        }
    }

    /// A member has not done all it has to do, and waits for its next turn behind the others.
    pub(super) fn again(&mut self, id: u64, duty: Box<dyn Duty>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.stage = Stage::Ready(duty);
            self.ready.push_back(id);
        }
    }

    /// A member rests until this time; or not at all, if it was roused meanwhile.
    pub(super) fn rest(&mut self, id: u64, duty: Box<dyn Duty>, until: Instant) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if matches!(member.stage, Stage::Running { is_roused: true }) {
            return self.again(id, duty);
        }
        member.stage = Stage::Resting { duty, until };
        self.times.insert((until, id));
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Who comes for those who are ready, and watches the time for the others.
    pub(super) fn call(&self, threads_max: usize) -> Called {
        let is_nobody_needed = self.ready.is_empty() && self.is_watched();
        if is_nobody_needed || self.looks {
            Called::Comes
        } else if self.asleep > 0 {
            Called::Sleeps
        } else if self.threads < threads_max {
            Called::Lacks
        } else {
            Called::Comes
        }
    }

    /// Whether a thread sleeps until the earliest time, or there is none.
    fn is_watched(&self) -> bool {
        self.times
            .first()
            .is_none_or(|(earliest, _)| self.watched_until.is_some_and(|until| until <= *earliest))
    }

    /// Until when a thread that goes to sleep has to watch the time; nothing, when another one does.
    pub(super) fn watch(&mut self) -> Option<Instant> {
        let (earliest, _) = *self.times.first()?;
        if self.is_watched() {
            return None;
        }
        self.watched_until = Some(earliest);
        Some(earliest)
    }

    /// A thread that watched is awake.
    pub(super) fn watch_ends(&mut self, until: Instant) {
        if self.watched_until == Some(until) {
            self.watched_until = None;
        }
    }

    /// Nobody is left, and nobody will come.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.members.is_empty()
    }

    /// Whether a thread that has had nothing to do for long is one too many. Whoever joins an empty crew brings a thread.
    pub(super) fn can_spare_one(&self) -> bool {
        self.threads > 1 || self.members.is_empty()
    }
}

#[cfg(all(test, not(millstream_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::crew::Turn;

    struct Nothing;

    impl Duty for Nothing {
        fn turn(&mut self) -> Turn {
            Turn::Over
        }
    }

    /// A roster with so many members, all of whom are at rest until a minute from now.
    fn at_rest(members: usize) -> (Roster, Vec<u64>, Instant) {
        let mut roster = Roster::new();
        let until = Instant::now() + Duration::from_secs(60);
        let ids: Vec<u64> = (0..members).map(|_| roster.place()).collect();
        for id in &ids {
            roster.begin(*id, Box::new(Nothing), Ending::new(0));
            let (taken, duty) = roster.take().unwrap();
            assert_eq!(taken, *id);
            roster.rest(taken, duty, until);
        }
        (roster, ids, until)
    }

    #[test]
    fn who_is_roused_while_it_runs_does_not_rest() {
        let (mut roster, ids, until) = at_rest(1);
        assert!(roster.rouse(ids[0]));
        let (id, duty) = roster.take().unwrap();
        assert!(!roster.rouse(id), "the thread that runs it comes back to it");
        roster.rest(id, duty, until);
        let (id, duty) = roster.take().expect("ready once more");
        roster.rest(id, duty, until);
        assert!(roster.take().is_none(), "one word, one turn");
    }

    #[test]
    fn whoever_is_ready_waits_in_turn_and_once() {
        let (mut roster, ids, _) = at_rest(3);
        for id in [ids[2], ids[0], ids[2]] {
            roster.rouse(id);
        }
        let order: Vec<u64> = std::iter::from_fn(|| roster.take()).map(|(id, _)| id).collect();
        assert_eq!(order, [ids[2], ids[0]]);
    }

    #[test]
    fn a_time_that_has_come_rouses_and_one_that_was_put_off_does_not() {
        let (mut roster, ids, until) = at_rest(2);
        roster.rouse(ids[0]);
        let (id, duty) = roster.take().unwrap();
        roster.rest(id, duty, until + Duration::from_secs(1));
        roster.ripen(until);
        assert_eq!(roster.take().map(|(id, _)| id), Some(ids[1]));
        assert!(roster.take().is_none());
        roster.ripen(until + Duration::from_secs(1));
        assert_eq!(roster.take().map(|(id, _)| id), Some(ids[0]));
    }

    #[test]
    fn who_is_gone_is_roused_no_more() {
        let (mut roster, ids, until) = at_rest(2);
        roster.rouse(ids[0]);
        assert!(roster.leave(ids[0]).is_some());
        assert!(!roster.rouse(ids[0]));
        roster.ripen(until);
        let left: Vec<u64> = std::iter::from_fn(|| roster.take()).map(|(id, _)| id).collect();
        assert_eq!(left, [ids[1]]);
    }

    #[test]
    fn a_thread_is_called_or_started_only_when_nobody_comes_anyway() {
        let (mut roster, ids, until) = at_rest(2);
        roster.threads = 2;
        roster.watch();
        assert_eq!(roster.call(3), Called::Comes, "nobody is ready");
        roster.rouse(ids[0]);
        assert_eq!(roster.call(2), Called::Comes, "both come when they are done");
        assert_eq!(roster.call(3), Called::Lacks);
        roster.asleep = 1;
        assert_eq!(roster.call(3), Called::Sleeps);
        roster.looks = true;
        assert_eq!(roster.call(3), Called::Comes);
        roster.watch_ends(until);
        assert_eq!(
            roster.call(3),
            Called::Comes,
            "who looks watches before it sleeps"
        );
    }

    #[test]
    fn a_time_that_nobody_watches_is_a_reason_to_call() {
        let (mut roster, ids, until) = at_rest(3);
        roster.threads = 1;
        assert_eq!(roster.call(2), Called::Lacks);
        assert_eq!(roster.call(1), Called::Comes);
        roster.asleep = 1;
        assert_eq!(roster.call(2), Called::Sleeps);
        roster.watch();
        assert_eq!(roster.call(2), Called::Comes);
        roster.rouse(ids[0]);
        let (id, duty) = roster.take().unwrap();
        roster.rest(id, duty, until - Duration::from_secs(1));
        assert_eq!(
            roster.call(2),
            Called::Sleeps,
            "it is earlier than the one that is watched"
        );
    }

    #[test]
    fn the_last_thread_stays_for_as_long_as_there_are_members() {
        let (mut roster, ids, _) = at_rest(1);
        roster.threads = 2;
        assert!(roster.can_spare_one());
        roster.threads = 1;
        assert!(!roster.can_spare_one());
        roster.leave(ids[0]);
        assert!(roster.can_spare_one());
    }

    #[test]
    fn one_thread_watches_the_time_unless_an_earlier_one_turns_up() {
        let (mut roster, ids, until) = at_rest(2);
        assert_eq!(roster.watch(), Some(until));
        assert_eq!(roster.watch(), None);
        roster.rouse(ids[0]);
        let (id, duty) = roster.take().unwrap();
        let earlier = until - Duration::from_secs(1);
        roster.rest(id, duty, earlier);
        assert_eq!(roster.watch(), Some(earlier));
        roster.watch_ends(until);
        assert_eq!(roster.watch(), None, "the later watch is not the one that counts");
        roster.watch_ends(earlier);
        assert_eq!(roster.watch(), Some(earlier));
    }
}

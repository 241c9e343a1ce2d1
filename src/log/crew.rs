//! The threads that committers run on: one for a log by itself, a few for the logs of all tenants.
//!
//! A committer that has nothing to do rests here until its queue rouses it, or its time has come. A thread that has just
//! worked stays awake for a moment, because waking it costs about as much as a commit: whichever log the next call goes to,
//! that thread is there.
//!
//! Who is where is decided in `roster`, under one lock; this file sleeps, wakes, and calls the committers without it.

#[cfg(all(test, millstream_loom))]
mod models;
mod roster;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::log::crew::roster::{Called, Roster};
use crate::log::tempo::Tempo;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A committer, as the threads see it. When it panics it is dropped while its thread unwinds.
pub(crate) trait Duty: Send {
    /// Does what there is to do.
    fn turn(&mut self) -> Turn;
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done, and there may be more.
    Again,
    /// There is nothing to do before this time.
    Rest { until: Instant, expects: Expects },
    /// There will be nothing to do any more.
    Over,
}

/// Who is likely to come soon after a turn in which something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    Nobody,
    /// The processor is kept, for the shortest delay.
    One,
    /// They may need the processor themselves.
    Many,
}

/// How long a thread that has worked looks for work before it sleeps.
const LOOK_FOR: Duration = Duration::from_micros(50);
/// How long a thread sleeps that need not watch the time. Then it sees whether anybody does.
const NAP: Duration = unless_modelled(Duration::from_millis(250));
/// A thread that was not needed for so many naps in a row ends.
const NAPS_MAX: u32 = 40;
/// How long a member keeps a thread to itself while it has something to do. Then it is looked whose time has come.
const TURNS_FOR: Duration = unless_modelled(Duration::from_millis(5));

/// In a model no time passes, however long it takes: all its runs are to go the same way.
const fn unless_modelled(time: Duration) -> Duration {
    match cfg!(millstream_loom) {
        true => Duration::from_secs(3600),
        false => time,
    }
}

/// Threads, and who may run on them. They end with the last member, once the crew is dropped.
pub(crate) struct Crew {
    yard: Arc<Yard>,
    tempo: Arc<Tempo>,
}

impl Crew {
    /// As many threads as are needed at once, and no more than this.
    pub(crate) fn new(threads_max: usize) -> Self {
        Self {
            yard: Arc::new(Yard::new(threads_max)),
            tempo: Arc::new(Tempo::new()),
        }
    }

    /// How fast the members have been of late.
    pub(crate) fn tempo(&self) -> &Arc<Tempo> {
        &self.tempo
    }

    /// A place for one more member, which may be roused before it is there.
    pub(crate) fn place(&self) -> Place {
        Place {
            yard: Arc::clone(&self.yard),
            id: self.yard.roster.lock().place(),
        }
    }

    /// Lets a member work at its place, beginning now.
    pub(crate) fn begin(&self, place: &Place, duty: Box<dyn Duty>) -> io::Result<Ending> {
        let ending = Ending::new(self.yard.id());
        let mut roster = self.yard.roster.lock();
        if roster.threads == 0 {
            self.yard.enlist(&mut roster)?;
        }
        roster.begin(place.id, duty, ending.clone());
        self.yard.call(roster);
        Ok(ending)
    }

    /// Nobody joins any more: the threads end with the last member.
    pub(crate) fn close(&self) {
        self.yard.roster.lock().is_closed = true;
        self.yard.changed.notify_all();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where a member is roused.
#[derive(Clone)]
pub(crate) struct Place {
    yard: Arc<Yard>,
    id: u64,
}

impl Place {
    /// Has the member take a turn soon. Many such calls before it does are one.
    pub(crate) fn rouse(&self) {
        let mut roster = self.yard.roster.lock();
        if roster.rouse(self.id) {
            self.yard.call(roster);
        }
    }
}

/// Tells when a member is gone, and with it the file that it held.
#[derive(Clone)]
pub(crate) struct Ending(Arc<Ends>);

struct Ends {
    is_over: Mutex<bool>,
    changed: Condvar,
    crew: CrewId,
}

/// Tells crews apart that are there at the same time.
type CrewId = usize;

impl Ending {
    fn new(crew: CrewId) -> Self {
        Self(Arc::new(Ends {
            is_over: Mutex::new(false),
            changed: Condvar::new(),
            crew,
        }))
    }

    /// Blocks until the member is gone. On a thread of its crew it does not wait: it might be in its own way.
    pub(crate) fn wait(&self) {
        if ON_DUTY_FOR.get() == Some(self.0.crew) {
            return;
        }
        let mut is_over = self.0.is_over.lock();
        while !*is_over {
            is_over = self.0.changed.wait_until(is_over, Instant::now() + NAP);
        }
    }

    fn say(&self) {
        *self.0.is_over.lock() = true;
        self.0.changed.notify_all();
    }
}

thread_local! {
    /// Whose thread this is.
    static ON_DUTY_FOR: Cell<Option<CrewId>> = const { Cell::new(None) };
}

/// What the threads share.
struct Yard {
    roster: Mutex<Roster>,
    changed: Condvar,
    /// How many members are ready. Only a hint, for the thread that looks without the lock.
    ready: AtomicUsize,
    threads_max: usize,
}

impl Yard {
    fn new(threads_max: usize) -> Self {
        Self {
            roster: Mutex::new(Roster::new()),
            changed: Condvar::new(),
            ready: AtomicUsize::new(0),
            threads_max,
        }
    }

    fn id(self: &Arc<Self>) -> CrewId {
        Arc::as_ptr(self).addr()
    }

    /// Sees to it that somebody comes for those who are ready.
    fn call(self: &Arc<Self>, mut roster: MutexGuard<'_, Roster>) {
        // Relaxed: whoever acts on the hint takes the lock first.
        self.ready.store(roster.ready(), Ordering::Relaxed);
        match roster.call(self.threads_max) {
            Called::Comes => {}
            Called::Sleeps => {
                drop(roster);
                self.changed.notify_one();
            }
            Called::Lacks => {
                if let Err(error) = self.enlist(&mut roster) {
                    // Those who are there come as soon as they are free.
                    drop(roster);
                    tracing::warn!(%error, "a thread for committers could not be started");
                }
            }
        }
    }

    fn enlist(self: &Arc<Self>, roster: &mut Roster) -> io::Result<()> {
        let yard = Arc::clone(self);
        thread::Builder::new()
            .name(String::from("millstream"))
            .spawn(move || yard.work())?;
        roster.threads += 1;
        Ok(())
    }

    /// What a thread does.
    fn work(self: &Arc<Self>) {
        ON_DUTY_FOR.set(Some(self.id()));
        let mut naps = 0;
        let mut roster = self.roster.lock();
        loop {
            roster.ripen(Instant::now());
            let taken = roster.take();
            self.ready.store(roster.ready(), Ordering::Relaxed);
            if let Some((id, duty)) = taken {
                naps = 0;
                self.call(roster);
                roster = self.run(id, duty);
            } else if roster.is_over() || naps > NAPS_MAX && roster.can_spare_one() {
                break;
            } else {
                let is_roused;
                (roster, is_roused) = self.sleep(roster);
                naps = if is_roused { 0 } else { naps + 1 };
            }
        }
        roster.threads -= 1;
        drop(roster);
        self.changed.notify_all();
    }

    /// Calls a member until it rests, or others wait for the thread.
    fn run(self: &Arc<Self>, id: u64, duty: Box<dyn Duty>) -> MutexGuard<'_, Roster> {
        let mut duty = duty;
        let mut has_worked = false;
        let until = Instant::now() + TURNS_FOR;
        loop {
            let turn = catch_unwind(AssertUnwindSafe(move || {
                // Is dropped in here when it panics, or is done.
                let mut duty = duty;
                let turn = duty.turn();
                (turn != Turn::Over).then_some((turn, duty))
            }));
            match turn.ok().flatten() {
                Some((Turn::Again, back)) => {
                    has_worked = true;
                    duty = back;
                    if self.ready.load(Ordering::Relaxed) > 0 || Instant::now() >= until {
                        let mut roster = self.roster.lock();
                        roster.again(id, duty);
                        return roster;
                    }
                }
                Some((Turn::Rest { until, expects }, duty)) => {
                    let mut roster = self.roster.lock();
                    roster.rest(id, duty, until);
                    return match expects {
                        Expects::Nobody => roster,
                        _ if !has_worked => roster,
                        expects => self.look(roster, expects),
                    };
                }
                // A panic has been reported, and what the member owed to others was said when it was dropped.
                Some((Turn::Over, _)) | None => return self.part_from(id),
            }
        }
    }

    fn part_from(&self, id: u64) -> MutexGuard<'_, Roster> {
        let ending = self.roster.lock().leave(id);
        if let Some(ending) = ending {
            ending.say();
        }
        self.roster.lock()
    }

    /// Looks for work for a short while without sleeping. One thread at a time does.
    fn look<'a>(&'a self, mut roster: MutexGuard<'a, Roster>, expects: Expects) -> MutexGuard<'a, Roster> {
        if roster.looks || roster.ready() > 0 {
            return roster;
        }
        roster.looks = true;
        drop(roster);
        let until = Instant::now() + LOOK_FOR;
        while self.ready.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            match expects {
                Expects::Many => thread::yield_now(),
                Expects::One | Expects::Nobody => std::hint::spin_loop(),
            }
        }
        let mut roster = self.roster.lock();
        roster.looks = false;
        roster
    }

    /// Sleeps until somebody calls or a time has come, and says whether there was a reason.
    fn sleep<'a>(&'a self, mut roster: MutexGuard<'a, Roster>) -> (MutexGuard<'a, Roster>, bool) {
        let now = Instant::now();
        let watches = roster.watch();
        let until = watches.unwrap_or(now + NAP);
        roster.asleep += 1;
        let mut roster = self.changed.wait_until(roster, until);
        roster.asleep -= 1;
        if let Some(time) = watches {
            roster.watch_ends(time);
        }
        let is_roused = watches.is_some() || Instant::now() < until;
        (roster, is_roused)
    }
}

#[cfg(all(test, not(millstream_loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Does once per turn what it is told, and says who it is when it is dropped.
    struct Told {
        orders: Receiver<Order>,
        ends: Sender<bool>,
    }

    type Order = Box<dyn FnOnce() -> Turn + Send>;

    impl Duty for Told {
        fn turn(&mut self) -> Turn {
            match self.orders.try_recv() {
                Ok(order) => order(),
                Err(_) => Turn::Rest {
                    until: Instant::now() + Duration::from_secs(3600),
                    expects: Expects::Nobody,
                },
            }
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.ends.send(thread::panicking());
        }
    }

    /// Always has something to do, until it is enough.
    struct Busy(Arc<AtomicBool>);

    impl Duty for Busy {
        fn turn(&mut self) -> Turn {
            if self.0.load(Ordering::Relaxed) {
                Turn::Over
            } else {
                Turn::Again
            }
        }
    }

    struct Member {
        place: Place,
        orders: Sender<Order>,
        ending: Ending,
        ends: Receiver<bool>,
    }

    impl Member {
        fn of(crew: &Crew) -> Self {
            let (orders, taken) = mpsc::channel();
            let (say, ends) = mpsc::channel();
            let place = crew.place();
            let duty = Told {
                orders: taken,
                ends: say,
            };
            let ending = crew.begin(&place, Box::new(duty)).unwrap();
            Self {
                place,
                orders,
                ending,
                ends,
            }
        }

        fn tell(&self, order: impl FnOnce() -> Turn + Send + 'static) {
            self.orders.send(Box::new(order)).unwrap();
            self.place.rouse();
        }

        /// Lets it rest until then, when nobody rouses it.
        fn tell_at(&self, until: Instant, order: impl FnOnce() -> Turn + Send + 'static) {
            let expects = Expects::Nobody;
            self.tell(move || Turn::Rest { until, expects });
            self.orders.send(Box::new(order)).unwrap();
        }

        /// Whether it was dropped by a panic.
        fn ended(&self) -> bool {
            self.ending.wait();
            self.ends
                .try_recv()
                .expect("the file is released before the end is told")
        }
    }

    #[test]
    fn a_member_that_waits_for_its_disk_holds_nobody_up() {
        let crew = Crew::new(4);
        let members: Vec<Member> = (0..4).map(|_| Member::of(&crew)).collect();
        // Each of them ends only when all four are under way.
        let all = Arc::new(std::sync::Barrier::new(4));
        for member in &members {
            let all = Arc::clone(&all);
            member.tell(move || {
                all.wait();
                Turn::Over
            });
        }
        assert!(members.iter().all(|member| !member.ended()));
    }

    #[test]
    fn of_more_members_than_threads_each_has_its_turns() {
        let crew = Crew::new(2);
        let members: Vec<Member> = (0..50).map(|_| Member::of(&crew)).collect();
        for _ in 0..3 {
            members.iter().for_each(|member| member.tell(|| Turn::Again));
        }
        members.iter().for_each(|member| member.tell(|| Turn::Over));
        assert!(members.iter().all(|member| !member.ended()));
    }

    #[test]
    fn a_time_is_kept_while_others_wait_for_their_disks() {
        let crew = Crew::new(4);
        let [first, second, punctual] = [Member::of(&crew), Member::of(&crew), Member::of(&crew)];
        punctual.tell_at(Instant::now() + Duration::from_millis(20), || Turn::Over);
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        for member in [&first, &second] {
            let waits = Arc::clone(&waits);
            member.tell(move || {
                let _ = waits.lock().recv();
                Turn::Over
            });
        }
        assert!(!punctual.ended());
        drop(go_on);
        assert!(!first.ended() && !second.ended());
    }

    #[test]
    fn a_time_is_kept_while_others_have_more_to_do_all_the_time() {
        let crew = Crew::new(2);
        let punctual = Member::of(&crew);
        punctual.tell_at(Instant::now() + Duration::from_millis(20), || Turn::Over);
        let is_enough = Arc::new(AtomicBool::new(false));
        let busy = [(); 2].map(|()| {
            let duty = Busy(Arc::clone(&is_enough));
            crew.begin(&crew.place(), Box::new(duty)).unwrap()
        });
        assert!(!punctual.ended());
        is_enough.store(true, Ordering::Relaxed);
        busy.iter().for_each(Ending::wait);
    }

    #[test]
    fn one_that_panics_is_dropped_by_it_and_the_others_go_on() {
        let crew = Crew::new(1);
        let [broken, sound] = [Member::of(&crew), Member::of(&crew)];
        broken.tell(|| panic!("on purpose"));
        assert!(broken.ended());
        sound.tell(|| Turn::Over);
        assert!(!sound.ended());
    }

    #[test]
    fn nobody_waits_for_a_member_on_a_thread_of_its_crew() {
        let crew = Crew::new(1);
        let [one, other] = [Member::of(&crew), Member::of(&crew)];
        let of_other = other.ending.clone();
        one.tell(move || {
            of_other.wait();
            Turn::Over
        });
        assert!(!one.ended());
        other.tell(|| Turn::Over);
        assert!(!other.ended());
    }

    #[test]
    fn the_threads_end_with_the_last_member() {
        let crew = Crew::new(3);
        let members: Vec<Member> = (0..5).map(|_| Member::of(&crew)).collect();
        let yard = Arc::downgrade(&crew.yard);
        drop(crew);
        members.iter().for_each(|member| member.tell(|| Turn::Over));
        assert!(members.iter().all(|member| !member.ended()));
        drop(members);
        while yard.upgrade().is_some() {
            thread::yield_now();
        }
    }
}

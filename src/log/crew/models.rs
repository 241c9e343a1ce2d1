//! Loom models of the threads, and of the queue that rouses a member. One property each.

use loom::thread;

use super::*;
use crate::log::cursor::CursorCell;
use crate::log::queue::{Due, Queue, Taken};

/// Takes from its queue as a committer does, until the queue is closed and empty.
struct Taker {
    queue: Arc<Queue<u8>>,
    found: Arc<Mutex<Found>>,
}

#[derive(Default)]
struct Found {
    requests: Vec<u8>,
    cursors: Vec<u64>,
}

impl Duty for Taker {
    fn turn(&mut self) -> Turn {
        let work = match self.queue.take(Instant::now() + Duration::from_secs(3600)) {
            Taken::Work(work) => work,
            Taken::Nothing { until } => {
                let expects = Expects::Nobody;
                return Turn::Rest { until, expects };
            }
        };
        let is_over = work.is_closed && work.requests.is_empty() && work.cursors.is_empty();
        let mut found = self.found.lock();
        found.requests.extend(work.requests);
        found
            .cursors
            .extend(work.cursors.iter().map(|cell| cell.pick_up().0));
        if is_over { Turn::Over } else { Turn::Again }
    }
}

/// Threads of the model's own, so many of them.
fn crew(threads: usize) -> Crew {
    let crew = Crew::new(threads);
    crew.yard.roster.lock().threads = threads;
    crew
}

fn taker(crew: &Crew) -> (Arc<Queue<u8>>, Arc<Mutex<Found>>) {
    let place = crew.place();
    let queue = Arc::new(Queue::new(place.clone()));
    let found = Arc::new(Mutex::new(Found::default()));
    let duty = Taker {
        queue: Arc::clone(&queue),
        found: Arc::clone(&found),
    };
    crew.begin(&place, Box::new(duty)).unwrap();
    (queue, found)
}

/// Nobody joins any more: works until the last member is gone.
fn work_off(crew: Crew) {
    let yard = Arc::clone(&crew.yard);
    drop(crew);
    yard.work();
}

#[test]
fn what_was_accepted_before_the_close_is_worked_off() {
    loom::model(|| {
        let crew = crew(1);
        let (queue, found) = taker(&crew);
        let pusher = thread::spawn({
            let queue = Arc::clone(&queue);
            move || [1, 2].map(|request| queue.push(request).is_ok())
        });
        let closer = thread::spawn(move || queue.close());
        work_off(crew);
        let accepted = pusher.join().unwrap();
        closer.join().unwrap();
        let expected: Vec<u8> = [1, 2]
            .into_iter()
            .zip(accepted)
            .filter(|(_, ok)| *ok)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(found.lock().requests, expected);
    });
}

#[test]
fn a_cursor_that_is_due_rouses_its_member() {
    loom::model(|| {
        let crew = crew(1);
        let (queue, found) = taker(&crew);
        let cell = Arc::new(CursorCell::new("ledger".into(), 1, 0));
        let stream = thread::spawn(move || {
            queue.hand_cursor(&cell, 5, Due::Now);
            queue
        });
        let closer = thread::spawn(move || {
            let queue = stream.join().unwrap();
            queue.close();
        });
        work_off(crew);
        closer.join().unwrap();
        assert_eq!(found.lock().cursors, [5]);
    });
}

#[test]
fn a_member_that_is_roused_while_it_takes_a_turn_takes_another_one() {
    loom::model(|| {
        let crew = crew(1);
        let (queue, found) = taker(&crew);
        let pusher = thread::spawn(move || {
            queue.push(1).unwrap();
            queue.push(2).unwrap();
            queue.close();
        });
        work_off(crew);
        pusher.join().unwrap();
        assert_eq!(found.lock().requests, [1, 2]);
    });
}

#[test]
fn of_two_members_on_two_threads_none_is_forgotten() {
    // With four threads all interleavings would take for ever; nearly all faults show with two or three preemptions.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(5);
    model.check(|| {
        let crew = crew(2);
        let [(first, of_first), (second, of_second)] = [taker(&crew), taker(&crew)];
        let yard = Arc::clone(&crew.yard);
        let other = thread::spawn(move || yard.work());
        first.push(1).unwrap();
        second.push(2).unwrap();
        first.close();
        second.close();
        work_off(crew);
        other.join().unwrap();
        assert_eq!(of_first.lock().requests, [1]);
        assert_eq!(of_second.lock().requests, [2]);
    });
}

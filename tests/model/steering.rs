//! Random interleavings of appending, handling, failing over and steering, against a model of a few lines (D9).
//!
//! The handler waits for a permit, so that the model knows at each step which call is under way. After each step the stream
//! has to come to where the model is: the calls that began, those that ended, the stored cursor, and whether it rests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::{
    Checkpoint, Durability, DurableStream, EventBatch, EventQuery, EventStream, HandleStream, NewEvent,
    Reset, SteerError, Store, StreamState,
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::run::Medium;
use crate::{config, try_all};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A batch of so many events.
    Append(u64, Interest),
    /// The call under way ends.
    Handle,
    Pause,
    Resume,
    /// To this part of the log, in percent.
    Reset(u64),
    Skip,
    /// The same with an expectation that does not hold.
    ResetWrongly,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interest {
    Selected,
    Passed,
}

/// The call under way.
#[derive(Clone, Copy, Debug)]
struct Call {
    last: u64,
    /// The cursor was moved meanwhile: what the call ends with is not stored.
    is_void: bool,
}

#[derive(Debug, Default)]
struct Model {
    /// The last sequence of each batch.
    batches: Vec<(u64, Interest)>,
    cursor: u64,
    is_paused: bool,
    call: Option<Call>,
    begun: Vec<u64>,
    ended: Vec<u64>,
}

impl Model {
    fn head(&self) -> u64 {
        self.batches.last().map_or(0, |(last, _)| *last)
    }

    /// The batch that the stream is given after a position.
    fn next(&self, after: u64) -> Option<u64> {
        let selected = self
            .batches
            .iter()
            .filter(|(_, interest)| *interest == Interest::Selected);
        selected.map(|(last, _)| *last).find(|last| *last > after)
    }

    /// Begins the next call, if one may begin.
    fn go_on(&mut self) {
        if self.is_paused || self.call.is_some() {
            return;
        }
        self.call = self.next(self.cursor).map(|last| Call { last, is_void: false });
        self.begun.extend(self.call.map(|call| call.last));
    }

    fn end_call(&mut self) {
        let Some(call) = self.call.take() else { return };
        self.ended.push(call.last);
        if !call.is_void {
            self.cursor = call.last;
        }
    }

    /// Whether the stream may have stored this: what its query does not select may be passed, and nothing else. A cursor
    /// that was moved while a call is under way stays where it was moved to.
    fn allows(&self, cursor: u64) -> bool {
        if self.call.is_some_and(|call| call.is_void) {
            return cursor == self.cursor;
        }
        cursor >= self.cursor && cursor <= self.head() && self.next(cursor) == self.next(self.cursor)
    }

    fn move_to(&mut self, position: u64) {
        self.cursor = position;
        if let Some(call) = &mut self.call {
            call.is_void = true;
        }
    }
}

/// What the handler does, and what it is let do.
#[derive(Clone)]
struct Strings {
    permits: Arc<Semaphore>,
    begun: Arc<Mutex<Vec<u64>>>,
    ended: Arc<Mutex<Vec<u64>>>,
}

impl Strings {
    fn handler(&self) -> HandleStream {
        let strings = self.clone();
        HandleStream::new(move |batch: EventBatch| {
            let strings = strings.clone();
            async move {
                strings.begun.lock().unwrap().push(batch.last_sequence());
                strings.permits.acquire().await.unwrap().forget();
                strings.ended.lock().unwrap().push(batch.last_sequence());
                Ok::<_, std::io::Error>(())
            }
        })
    }
}

struct World {
    medium: Medium,
    folder: TempDir,
    store: Store,
    stream: EventStream,
    strings: Strings,
    model: Model,
}

async fn register(store: &Store, strings: &Strings) -> EventStream {
    let name = DurableStream::new("steered").checkpoint(Checkpoint::Strict);
    let query = EventQuery::types(["selected"]);
    let registered = store.stream_to_durable(&name, &query, strings.handler()).await;
    registered.unwrap()
}

fn open(medium: Medium, folder: &TempDir) -> Store {
    let builder = Store::builder().durability(Durability::Relaxed).window_bytes(900);
    match medium {
        Medium::Memory => builder.in_memory().unwrap(),
        Medium::File => builder.open(folder.path().join("log.db")).unwrap(),
    }
}

impl World {
    async fn new(medium: Medium) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(medium, &folder);
        let strings = Strings {
            permits: Arc::new(Semaphore::new(0)),
            begun: Arc::default(),
            ended: Arc::default(),
        };
        Self {
            medium,
            stream: register(&store, &strings).await,
            folder,
            store,
            strings,
            model: Model::default(),
        }
    }

    async fn live(mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step).await;
            self.agree(step).await;
        }
        // Whatever is on its way to the log rides along.
        self.step(Step::Append(1, Interest::Passed)).await;
        self.agree(&"the end").await;
    }

    async fn step(&mut self, step: Step) {
        let control = self.store.stream("steered").await.unwrap();
        let model = &mut self.model;
        match step {
            Step::Append(count, interest) => {
                let event_type = match interest {
                    Interest::Selected => "selected",
                    Interest::Passed => "passed",
                };
                let events = (0..count).map(|number| NewEvent::new(event_type, number));
                let appended = self.store.append(events).await.unwrap();
                model.batches.push((appended.last_sequence, interest));
                model.go_on();
            }
            Step::Handle => {
                if model.call.is_some() {
                    self.strings.permits.add_permits(1);
                    model.end_call();
                    model.go_on();
                }
            }
            Step::Pause => {
                control.pause("the model").await.unwrap();
                model.is_paused = true;
            }
            Step::Resume => {
                control.resume().await.unwrap();
                model.is_paused = false;
                model.go_on();
            }
            Step::Reset(percent) => {
                let target = model.head() * percent / 100;
                let moved = control.reset(Reset::To(target), model.cursor).await.unwrap();
                assert_eq!(moved, target);
                model.move_to(target);
                model.go_on();
            }
            Step::ResetWrongly => {
                let refused = control.reset(Reset::Beginning, model.cursor + 1).await;
                assert!(
                    matches!(refused, Err(SteerError::CursorMoved { found, .. }) if found == model.cursor),
                    "{refused:?}"
                );
            }
            Step::Skip => {
                let skipped = control.skip_batch(model.cursor, "anna").await;
                match model.next(model.cursor) {
                    Some(last) => {
                        assert_eq!(skipped.unwrap().last_sequence, last);
                        model.move_to(last);
                        model.go_on();
                    }
                    None => assert!(
                        matches!(skipped, Err(SteerError::NothingToSkip { .. })),
                        "{skipped:?}"
                    ),
                }
            }
            Step::Restart => self.restart().await,
        }
    }

    async fn restart(&mut self) {
        self.stream.unsubscribe();
        let model = &mut self.model;
        if model.call.is_some() {
            self.strings.permits.add_permits(1);
            model.end_call();
        }
        self.stream.stopped().await;
        if self.medium == Medium::File {
            self.store.close().await.unwrap();
            self.store = open(self.medium, &self.folder);
        }
        self.stream = register(&self.store, &self.strings).await;
        let cursor = self.stream.started_after();
        assert!(model.allows(cursor), "went on at {cursor}: {model:?}");
        model.cursor = cursor;
        model.go_on();
    }

    async fn agree(&mut self, step: &dyn std::fmt::Debug) {
        let model = &mut self.model;
        let what = || format!("the stream did not agree after {step:?} with {model:?}");
        eventually(what, || {
            let status = self.stream.status();
            let rests = matches!(status.state, StreamState::Paused { .. });
            *self.strings.begun.lock().unwrap() == model.begun
                && *self.strings.ended.lock().unwrap() == model.ended
                && status.call_running_for.is_some() == model.call.is_some()
                && rests == (model.is_paused && model.call.is_none())
                && (model.call.is_some_and(|call| call.is_void) || model.allows(status.cursor.unwrap()))
        })
        .await;
        let stored = self
            .store
            .stream("steered")
            .await
            .unwrap()
            .status()
            .await
            .unwrap();
        let cursor = stored.cursor.unwrap();
        assert!(
            model.allows(cursor),
            "{cursor} is stored after {step:?}: {model:?}"
        );
        model.cursor = cursor;
    }
}

/// A history that hangs is to be found, and shortened, without long waits.
async fn eventually(what: impl Fn() -> String, is_there: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    let waiting = async {
        while !is_there() {
            looks.tick().await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(4), waiting).await;
    assert!(outcome.is_ok(), "{}", what());
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..4u64).prop_map(|count| Step::Append(count, Interest::Selected)),
        2 => (1..4u64).prop_map(|count| Step::Append(count, Interest::Passed)),
        6 => Just(Step::Handle),
        2 => Just(Step::Pause),
        2 => Just(Step::Resume),
        2 => (0..=100u64).prop_map(Step::Reset),
        1 => Just(Step::Skip),
        1 => Just(Step::ResetWrongly),
        1 => Just(Step::Restart),
    ]
}

fn check(medium: Medium) {
    let steps = prop::collection::vec(step(), 5..60);
    let config = ProptestConfig {
        max_shrink_iters: 60,
        ..config(120)
    };
    try_all(config, steps, async |steps: Vec<Step>| {
        World::new(medium).await.live(&steps).await;
    });
}

#[test]
fn d9_a_steered_stream_in_a_file_does_what_the_model_does() {
    check(Medium::File);
}

#[test]
fn d9_a_steered_stream_in_memory_does_what_the_model_does() {
    check(Medium::Memory);
}

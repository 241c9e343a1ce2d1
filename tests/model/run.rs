//! Lives a history through, on a store and on the list beside it, and compares the two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millstream::internals;
use millstream::{
    AppendError, Checkpoint, Durability, DurableStream, EventBatch, EventQuery, EventStream, ExpectedContext,
    HandleStream, Retry, Start, StopCause, Store, StreamError,
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::common::{Delivery, Recorder, read_all};
use crate::naive::{Event, Log, Query};
use crate::{Begin, Expected, History, LIVE, QUERIES, Slot, Step};

/// Where the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Memory,
    File,
}

/// Calls for one batch before its stream gives up.
const ATTEMPTS_MAX: u32 = 4;

/// What a test does to a handler from outside.
#[derive(Clone)]
struct Strings {
    recorder: Recorder,
    /// How many of the next calls fail.
    failures: Arc<AtomicU32>,
    pauses: watch::Sender<bool>,
}

/// A run of a stream, from its registration to its end.
struct Run {
    query: usize,
    started_after: u64,
    strings: Strings,
    stream: Option<EventStream>,
}

/// How the last run of a name ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// It runs, or was cut off with its cursor on the way.
    #[default]
    Unclean,
    /// Nobody waited for its end: clean, unless the store is cut off before it.
    Dropped,
    /// Its cursor is stored.
    Clean,
}

/// All runs of one durable name.
#[derive(Default)]
struct Name {
    runs: Vec<Run>,
    end: End,
}

pub(crate) struct World {
    medium: Medium,
    window_bytes: usize,
    page_batches: usize,
    folder: TempDir,
    store: Store,
    log: Log,
    queries: Vec<Query>,
    live: [Option<Run>; LIVE],
    names: [Name; QUERIES],
}

impl Strings {
    fn new() -> Self {
        Self {
            recorder: Recorder::new(),
            failures: Arc::default(),
            pauses: watch::Sender::new(false),
        }
    }

    fn handler(&self) -> HandleStream {
        let strings = self.clone();
        let handler = HandleStream::new(move |batch: EventBatch| {
            let strings = strings.clone();
            async move {
                let mut pauses = strings.pauses.subscribe();
                pauses
                    .wait_for(|pauses| !pauses)
                    .await
                    .expect("the sender is held by the handler");
                let left = |failures: u32| failures.checked_sub(1);
                if strings
                    .failures
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
                    .is_ok()
                {
                    return Err("so it was said");
                }
                strings.recorder.write(&batch);
                Ok(())
            }
        });
        let pause = Duration::from_millis(1);
        handler.retry(
            Retry::default()
                .attempts_max(ATTEMPTS_MAX)
                .delay_min(pause)
                .delay_max(pause),
        )
    }
}

impl Run {
    /// What was delivered is what the list says, from the start of the run on, as far as it got.
    fn check(&self, log: &Log, queries: &[Query], is_settled: bool) {
        let expected = log.select(&queries[self.query], self.started_after);
        let delivered = self.strings.recorder.deliveries();
        let expected: Vec<Delivery> = expected
            .into_iter()
            .map(|(first, last, sequences)| Delivery {
                first,
                last,
                sequences,
            })
            .collect();
        assert!(
            expected.starts_with(&delivered),
            "{delivered:?} delivered of {expected:?}"
        );
        if is_settled {
            assert_eq!(delivered, expected, "everything is delivered");
        }
    }

    /// The cursor is below everything that is not handled.
    fn check_cursor(&self, log: &Log, queries: &[Query], handled_before: &BTreeSet<u64>) {
        let Some(cursor) = self.stream.as_ref().and_then(|stream| stream.status().cursor) else {
            return;
        };
        // Taken after the cursor: what is handled only grows.
        let handled: BTreeSet<u64> = self.strings.recorder.sequences().into_iter().collect();
        let selected = log.sequences(&queries[self.query], self.started_after);
        let unsettled = selected
            .into_iter()
            .find(|sequence| !handled.contains(sequence) && !handled_before.contains(sequence));
        assert!(
            unsettled.is_none_or(|unsettled| cursor < unsettled),
            "the cursor {cursor} passed {unsettled:?}"
        );
        assert!(cursor <= log.head(), "the cursor {cursor} is ahead of the log");
    }
}

impl World {
    pub(crate) fn new(medium: Medium, history: &History) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (window_bytes, page_batches) = (history.window_bytes, history.page_batches);
        Self {
            medium,
            window_bytes,
            page_batches,
            store: open(medium, &folder, window_bytes, page_batches),
            folder,
            log: Log::default(),
            queries: history.queries.clone(),
            live: std::array::from_fn(|_| None),
            names: std::array::from_fn(|_| Name::default()),
        }
    }

    pub(crate) async fn live(mut self, steps: &[Step]) {
        for step in steps {
            self.step(step).await;
            self.check_running();
        }
        self.settle().await;
        self.reopen().await;
        for query in 0..QUERIES {
            self.check_query(query, 0).await;
            self.open_durable(query, Begin::Beginning, crate::Store::Coalesced)
                .await;
        }
        self.settle().await;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Append(events) => self.append(events).await,
            Step::AppendIf(events, query, expected) => self.append_if(events, *query, *expected).await,
            Step::Query(query, percent) => self.check_query(*query, self.log.head() * percent / 100).await,
            Step::OpenLive(slot, query) => self.open_live(*slot, *query).await,
            Step::OpenDurable(name, begin, store) => self.open_durable(*name, *begin, *store).await,
            Step::Fail(slot, times) => {
                if let Some(run) = self.run(*slot) {
                    run.strings.failures.store(*times, Ordering::SeqCst);
                }
            }
            Step::Pause(slot) => self.pause(*slot, true),
            Step::Resume(slot) => self.pause(*slot, false),
            Step::End(slot) => self.end(*slot).await,
            Step::Drop(slot) => self.drop_handle(*slot),
            Step::Settle => self.settle().await,
            Step::Reopen => self.reopen().await,
            Step::Crash => self.crash().await,
        }
    }

    /// The run of a slot, if its stream has not been ended.
    fn run(&self, slot: Slot) -> Option<&Run> {
        let run = match slot {
            Slot::Live(slot) => self.live[slot].as_ref(),
            Slot::Durable(name) => self.names[name].runs.last(),
        };
        run.filter(|run| run.stream.is_some())
    }

    fn take_stream(&mut self, slot: Slot) -> Option<EventStream> {
        match slot {
            Slot::Live(slot) => self.live[slot].as_mut()?.stream.take(),
            Slot::Durable(name) => self.names[name].runs.last_mut()?.stream.take(),
        }
    }

    fn pause(&self, slot: Slot, pauses: bool) {
        if let Some(run) = self.run(slot) {
            run.strings.pauses.send_replace(pauses);
        }
    }

    async fn append(&mut self, events: &[Event]) {
        let appended = self
            .store
            .append(events.iter().map(Event::to_append))
            .await
            .unwrap();
        assert_eq!(appended.first_sequence, self.log.head() + 1);
        self.log.append(events.to_vec());
        assert_eq!(appended.last_sequence, self.log.head());
    }

    async fn append_if(&mut self, events: &[Event], query: usize, expected: Expected) {
        let selected = self.log.sequences(&self.queries[query], 0);
        let version = selected.last().copied().unwrap_or(0);
        let (condition, holds) = match expected {
            Expected::TheVersion => (ExpectedContext::version(version), true),
            Expected::TheVersionBut(off) => {
                let other = version.saturating_add_signed(off);
                (ExpectedContext::version(other), other == version)
            }
            Expected::NothingAfterTheHeadBut(less) => {
                let head = self.log.head().saturating_sub(less);
                (ExpectedContext::nothing_after(head), version <= head)
            }
        };
        let query = self.queries[query].to_ask();
        let outcome = self
            .store
            .append_if(events.iter().map(Event::to_append), &query, condition)
            .await;
        match outcome {
            Ok(appended) => {
                assert!(holds, "{condition:?} holds not: {selected:?}");
                assert_eq!(appended.first_sequence, self.log.head() + 1);
                self.log.append(events.to_vec());
            }
            Err(AppendError::Conflict { .. }) => assert!(!holds, "{condition:?} holds: {selected:?}"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(self.store.head(), self.log.head());
    }

    /// What is read is what the list says, in every way of reading.
    async fn check_query(&self, query: usize, after: u64) {
        let naive = &self.queries[query];
        let asked = naive.to_ask();
        let found = self.store.query(&asked).await.unwrap();
        let selected = self.log.sequences(naive, 0);
        let sequences: Vec<u64> = found.events.iter().map(|event| event.sequence()).collect();
        assert_eq!(sequences, selected, "queried with {naive:?}");
        assert_eq!(found.context_version, selected.last().copied().unwrap_or(0));
        assert_eq!(found.head, self.log.head());
        for event in &found.events {
            let written = self.log.event(event.sequence());
            let tags: Vec<&str> = event.tags().collect();
            assert_eq!(
                (event.event_type(), tags),
                (written.event_type, written.tags.clone())
            );
            let payload: serde_json::Value = serde_json::from_str(written.payload).unwrap();
            assert_eq!(event.payload().json().unwrap(), &payload);
        }
        let read = read_all(self.store.read(&asked).after(after)).await;
        let read: Vec<_> = read
            .into_iter()
            .map(|batch| (batch.first, batch.last, batch.sequences))
            .collect();
        assert_eq!(read, self.log.select(naive, after), "read with {naive:?}");
        let all = self.store.query(&EventQuery::all()).await.unwrap();
        let matching = all
            .events
            .iter()
            .filter(|event| asked.matches(event))
            .map(|event| event.sequence());
        assert!(matching.eq(selected), "matched with {naive:?}");
    }

    async fn open_live(&mut self, slot: usize, query: usize) {
        self.end(Slot::Live(slot)).await;
        let strings = Strings::new();
        let stream = self
            .store
            .stream_to(&self.queries[query].to_ask(), strings.handler())
            .await
            .unwrap();
        assert_eq!(stream.started_after(), self.log.head());
        self.live[slot] = Some(Run {
            query,
            started_after: stream.started_after(),
            strings,
            stream: Some(stream),
        });
    }

    async fn open_durable(&mut self, name: usize, begin: Begin, store: crate::Store) {
        let head = self.log.head();
        let (start, expected) = match begin {
            Begin::Beginning => (Start::Beginning, 0),
            Begin::Now => (Start::Now, head),
            Begin::After(percent) => (Start::After(head * percent / 100), head * percent / 100),
        };
        let checkpoint = match store {
            crate::Store::Coalesced => Checkpoint::Coalesced,
            crate::Store::Strict => Checkpoint::Strict,
            crate::Store::Every(batches) => Checkpoint::Every {
                batches,
                within: Duration::from_millis(5),
            },
        };
        let strings = Strings::new();
        let durable = DurableStream::new(format!("name-{name}"))
            .start(start)
            .checkpoint(checkpoint);
        let query = self.queries[name].to_ask();
        let opened = self
            .store
            .stream_to_durable(&durable, &query, strings.handler())
            .await;
        let runs = &mut self.names[name];
        let runs_now = runs.runs.last().is_some_and(|run| run.stream.is_some());
        let stream = match opened {
            Ok(stream) => stream,
            Err(StreamError::NameActive { .. }) => {
                assert!(runs_now, "the name is free");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        // One that stopped by itself leaves its name, and its handle here.
        if let Some(run) = runs.runs.last_mut()
            && let Some(stream) = run.stream.take()
        {
            let cause = stream.stopped().await;
            assert!(matches!(cause, StopCause::HandlerFailed { .. }), "{cause:?}");
            runs.end = End::Clean;
        }
        let started_after = stream.started_after();
        if runs.runs.is_empty() {
            assert_eq!(started_after, expected);
        } else {
            runs.check_resumed(started_after, &self.log, &self.queries);
        }
        runs.end = End::Unclean;
        runs.runs.push(Run {
            query: name,
            started_after,
            strings,
            stream: Some(stream),
        });
    }

    /// Ends a stream and waits for its end.
    async fn end(&mut self, slot: Slot) {
        self.pause(slot, false);
        let Some(stream) = self.take_stream(slot) else {
            return;
        };
        stream.unsubscribe();
        let cause = stream.stopped().await;
        assert!(
            matches!(cause, StopCause::Unsubscribed | StopCause::HandlerFailed { .. }),
            "{cause:?}"
        );
        if let Slot::Durable(name) = slot {
            self.names[name].end = End::Clean;
        }
    }

    /// Ends a stream without waiting. Whoever registers the name next waits for it, so that the end is clean all the same.
    fn drop_handle(&mut self, slot: Slot) {
        self.pause(slot, false);
        let Some(stream) = self.take_stream(slot) else {
            return;
        };
        drop(stream);
        if let Slot::Durable(name) = slot {
            self.names[name].end = End::Dropped;
        }
    }

    fn slots() -> impl Iterator<Item = Slot> {
        (0..LIVE).map(Slot::Live).chain((0..QUERIES).map(Slot::Durable))
    }

    async fn settle(&mut self) {
        for slot in Self::slots() {
            self.pause(slot, false);
        }
        let head = self.log.head();
        let settled = self.store.settled().await;
        let mut has_stopped = false;
        for slot in Self::slots() {
            let Some(run) = self.run(slot) else { continue };
            let stream = run.stream.as_ref().unwrap();
            if stream.caught_up().await.is_ok() {
                run.check(&self.log, &self.queries, true);
                let status = stream.status();
                assert_eq!((status.position, status.lag), (head, 0));
            } else {
                has_stopped = true;
                run.check(&self.log, &self.queries, false);
                self.end(slot).await;
            }
        }
        assert!(settled.is_ok() || has_stopped, "{settled:?}");
    }

    /// Ends everything as it should be.
    async fn reopen(&mut self) {
        match self.medium {
            Medium::Memory => {
                for slot in Self::slots() {
                    self.end(slot).await;
                }
            }
            Medium::File => {
                for slot in Self::slots() {
                    self.pause(slot, false);
                }
                self.store.close().await.unwrap();
                for slot in Self::slots() {
                    let stream = self.take_stream(slot);
                    if let (Slot::Durable(name), Some(_)) = (slot, &stream) {
                        self.names[name].end = End::Clean;
                    }
                    if let (Slot::Live(slot), Some(stream)) = (slot, stream) {
                        // A live stream delivers what is committed before it ends.
                        let run = self.live[slot].as_ref().unwrap();
                        let is_done = matches!(stream.stopped().await, StopCause::Closed);
                        run.check(&self.log, &self.queries, is_done);
                    }
                }
                self.store = open(self.medium, &self.folder, self.window_bytes, self.page_batches);
            }
        }
        self.check_all();
    }

    /// Lets go of everything at once, with calls under way and cursors on their way.
    async fn crash(&mut self) {
        if self.medium == Medium::Memory {
            return self.reopen().await;
        }
        // The last handle ends the store. An empty one in memory stands in for it until the file is opened again.
        self.store = Store::in_memory().unwrap();
        for slot in Self::slots() {
            self.pause(slot, false);
            if let (Slot::Durable(name), Some(stream)) = (slot, self.take_stream(slot)) {
                drop(stream);
                self.names[name].end = End::Unclean;
            }
        }
        for name in &mut self.names {
            if name.end == End::Dropped {
                name.end = End::Unclean;
            }
        }
        self.store = open(self.medium, &self.folder, self.window_bytes, self.page_batches);
        assert_eq!(self.store.head(), self.log.head());
    }

    fn check_running(&self) {
        assert_eq!(self.store.head(), self.log.head());
        self.check_all();
        for name in &self.names {
            if let Some((run, earlier)) = name.runs.split_last() {
                run.check_cursor(&self.log, &self.queries, &handled(earlier));
            }
        }
    }

    fn check_all(&self) {
        let durable = self.names.iter().flat_map(|name| &name.runs);
        for run in self.live.iter().flatten().chain(durable) {
            run.check(&self.log, &self.queries, false);
        }
    }
}

impl Name {
    /// Nothing is skipped between two runs; and after a clean end, nothing is repeated.
    fn check_resumed(&self, resumed_after: u64, log: &Log, queries: &[Query]) {
        let Some(first) = self.runs.first() else { return };
        let handled = handled(&self.runs);
        let selected = log.sequences(&queries[first.query], first.started_after);
        for sequence in selected.iter().filter(|sequence| **sequence <= resumed_after) {
            assert!(
                handled.contains(sequence),
                "{sequence} was skipped: resumed after {resumed_after}"
            );
        }
        let Some(last) = self.runs.last() else { return };
        assert!(
            resumed_after >= last.started_after,
            "the cursor went back to {resumed_after}"
        );
        if self.end != End::Unclean {
            // What a run before the last one took, and could not store, may come again in any run after it.
            let newest = last.strings.recorder.sequences().last().copied().unwrap_or(0);
            assert!(
                newest <= resumed_after,
                "{newest} will be repeated: resumed after {resumed_after}"
            );
        }
    }
}

/// What the handlers of these runs took.
fn handled(runs: &[Run]) -> BTreeSet<u64> {
    runs.iter()
        .flat_map(|run| run.strings.recorder.sequences())
        .collect()
}

fn open(medium: Medium, folder: &TempDir, window_bytes: usize, page_batches: usize) -> Store {
    let builder = Store::builder()
        .window_bytes(window_bytes)
        .page_batches(page_batches)
        .durability(Durability::Relaxed)
        .poll_interval(Duration::from_millis(20));
    match medium {
        Medium::Memory => builder.in_memory().unwrap(),
        // The second path comes to a file that has events already.
        Medium::File => {
            let path = folder.path().join("log.db");
            let indexed = if path.exists() { "/s" } else { "/n" };
            let builder = internals::with_small_index(builder).index_payload(indexed);
            builder.open(path).unwrap()
        }
    }
}

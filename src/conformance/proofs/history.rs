//! S8: what is history to a run, and what is news.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Semaphore, watch};

use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::{append_types, by_type};
use crate::conformance::tools::{append, in_time, takes_all};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::steer::{ExpectedCursor, Reset};
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;
use crate::stream::policy::Retry;
use crate::stream::react::reaction::Reaction;
use crate::stream::react::reactor::Reactor;

/// Writes down of each event whether it came as history.
#[derive(Clone, Default)]
struct Historian {
    seen: watch::Sender<Vec<(u64, bool)>>,
}

impl Historian {
    fn write(&self, batch: &EventBatch) {
        let is_replay = batch.is_replay();
        let seen = batch.iter().map(|event| (event.sequence(), is_replay));
        self.seen.send_modify(|all| all.extend(seen));
    }

    fn handler(&self) -> HandleStream {
        let historian = self.clone();
        HandleStream::new(move |batch: EventBatch| {
            historian.write(&batch);
            async { Ok::<_, std::io::Error>(()) }
        })
    }

    /// What came since somebody asked last: the events that were history, and those that were news.
    fn split(&self) -> (Vec<u64>, Vec<u64>) {
        let mut seen = self.seen.send_replace(Vec::new());
        seen.sort_unstable();
        let of = |wanted| {
            let events = seen.iter().filter(move |(_, is_replay)| *is_replay == wanted);
            events.map(|(sequence, _)| *sequence).collect()
        };
        (of(true), of(false))
    }
}

pub async fn s8_what_was_committed_before_the_run_is_history(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    append(&store, "a", 1).await;
    let historian = Historian::default();
    let name = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&name, historian.handler())
        .await
        .unwrap();
    let live = Historian::default();
    let _live = store.stream_all(live.handler()).await.unwrap();
    append(&store, "a", 2).await;
    store.settled().await.unwrap();
    assert_eq!(historian.split(), (vec![1, 2, 3], vec![4, 5]));
    assert_eq!(live.split(), (vec![], vec![4, 5]));
    drop(_live);
    // Nobody runs it for a while: what comes then is history to the next run, although nobody handled it.
    stream.unsubscribe();
    stream.stopped().await;
    append(&store, "a", 1).await;
    let store = subject.reopen(store).await;
    let stream = store
        .stream_all_durable(&name, historian.handler())
        .await
        .unwrap();
    append(&store, "a", 1).await;
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(historian.split(), (vec![6], vec![7]));
    // Moved back while it runs, it has a new run.
    let control = store.stream("ledger").await.unwrap();
    control
        .reset(Reset::To(5), ExpectedCursor::anywhere())
        .await
        .unwrap();
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    append(&store, "a", 1).await;
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(historian.split(), (vec![6, 7], vec![8]));
}

pub async fn s8_news_that_falls_out_of_the_window_stays_news(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(1));
    append(&store, "a", 1).await;
    let (historian, gate) = (Historian::default(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (historian, gate) = (historian.clone(), Arc::clone(&gate));
        HandleStream::new(move |batch: EventBatch| {
            historian.write(&batch);
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.map(|permit| permit.forget()) }
        })
    };
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handler)
        .await
        .unwrap();
    for _ in 0..20 {
        append(&store, "a", 1).await;
    }
    gate.add_permits(100);
    in_time("the stream is at the head", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(historian.split(), (vec![1], (2..=21).collect()));
}

pub async fn s8_parts_groups_and_keys_know_it_too(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b", "free", "a"]).await;
    append(&store, "a", 1).await;
    append(&store, "b", 1).await;
    let keyed = Historian::default();
    let by_key = DurableStream::new("keyed")
        .partition_by(2, |event: &EventRecord| Some(event.event_type().to_owned()));
    let _keyed = store.stream_all_durable(&by_key, keyed.handler()).await.unwrap();
    let grouped = Historian::default();
    let group = {
        let grouped = grouped.clone();
        HandleStream::group(10, Duration::ZERO, move |batches: Vec<EventBatch>| {
            batches.iter().for_each(|batch| grouped.write(batch));
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    let _grouped = store
        .stream_all_durable(&DurableStream::new("grouped"), group)
        .await
        .unwrap();
    let reacting = Historian::default();
    let reactor = {
        let reacting = reacting.clone();
        Reactor::new(move |batch: EventBatch| {
            reacting.write(&batch);
            async { Ok::<_, std::io::Error>(Reaction::nothing()) }
        })
    };
    let _reactor = store
        .react(&DurableStream::new("reacting"), &EventQuery::all(), reactor)
        .await
        .unwrap();
    // Across the seam a group may have both.
    append_types(&store, &["a", "b"]).await;
    append(&store, "a", 1).await;
    store.settled().await.unwrap();
    for historian in [keyed, grouped, reacting] {
        assert_eq!(historian.split(), ((1..=6).collect(), vec![7, 8, 9]));
    }
}

pub async fn s8_a_letter_that_is_retried_is_history_when_its_events_are(subject: &Subject) {
    let store = subject.open();
    append_types(&store, &["a", "b"]).await;
    let (historian, is_mended) = (Historian::default(), Arc::new(AtomicBool::new(false)));
    let handler = {
        let (historian, is_mended) = (historian.clone(), Arc::clone(&is_mended));
        let handler = HandleStream::new(move |batch: EventBatch| {
            let is_taken = is_mended.load(Ordering::SeqCst);
            if is_taken {
                historian.write(&batch);
            }
            async move { if is_taken { Ok(()) } else { Err("not yet") } }
        });
        handler.retry(Retry::never())
    };
    let name = DurableStream::new("ledger").on_failure(by_type());
    let stream = store.stream_all_durable(&name, handler.clone()).await.unwrap();
    in_time("it is parked", stream.caught_up()).await.unwrap();
    append_types(&store, &["a", "c"]).await;
    in_time("it is parked", stream.caught_up()).await.unwrap();
    is_mended.store(true, Ordering::SeqCst);
    let letters = store.dead_letters("ledger");
    letters.retry(1).await.unwrap();
    letters.retry(3).await.unwrap();
    assert_eq!(historian.split(), (vec![1], vec![3]));
    assert!(letters.show(4).await.unwrap().1.is_replay());
    stream.unsubscribe();
    stream.stopped().await;
    let store = subject.reopen(store).await;
    let _stream = store.stream_all_durable(&name, handler).await.unwrap();
    let retried = store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!((retried.handled, historian.split()), (2, (vec![2, 4], vec![])));
}

pub async fn s8_to_a_reader_what_was_there_at_first_is_history(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    let _stream = store.stream_all(takes_all()).await.unwrap();
    let (mut read, mut follow) = (store.read(&EventQuery::all()), store.follow(&EventQuery::all()));
    assert!(read.next().await.unwrap().unwrap().is_replay());
    assert!(follow.next().await.unwrap().unwrap().is_replay());
    append(&store, "a", 1).await;
    assert!(!follow.next().await.unwrap().unwrap().is_replay());
    assert!(read.next().await.is_none());
}

//! S1 to S7: what every stream promises.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::{Semaphore, watch};

use crate::conformance::subject::Subject;
use crate::conformance::tools::{
    Delivery, Recorder, append, events, eventually, hasty, log, read_all, sequences, takes_all,
};
use crate::error::StopCause;
use crate::event::batch::EventBatch;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::fault::FaultPoint;
use crate::log::cursor::Start;
use crate::store::Store;
use crate::stream::handler::HandleStream;
use crate::stream::options::DurableStream;
use crate::stream::policy::Retry;
use crate::stream::status::StreamState;

fn whole(first: u64, last: u64) -> Delivery {
    Delivery {
        first,
        last,
        sequences: (first..=last).collect(),
    }
}

/// `[a, b, a]`, so that a filter selects a part of it.
fn mixed() -> [NewEvent; 3] {
    ["a", "b", "a"].map(|name| NewEvent::new(name, 1))
}

pub async fn s1_a_batch_is_delivered_as_one_with_its_selected_part(subject: &Subject) {
    let store = subject.open();
    let (all, some, none) = (Recorder::new(), Recorder::new(), Recorder::new());
    let streams = [
        store.stream_all(all.handler()).await.unwrap(),
        store
            .stream_to(&EventQuery::types(["a"]), some.handler())
            .await
            .unwrap(),
        store
            .stream_to(&EventQuery::types(["c"]), none.handler())
            .await
            .unwrap(),
    ];
    store.append(mixed()).await.unwrap();
    append(&store, "b", 2).await;
    store.append(mixed()).await.unwrap();
    store.settled().await.unwrap();
    assert_eq!(all.deliveries(), [whole(1, 3), whole(4, 5), whole(6, 8)]);
    let part = |first, sequences: [u64; 2]| Delivery {
        first,
        last: first + 2,
        sequences: sequences.to_vec(),
    };
    assert_eq!(some.deliveries(), [part(1, [1, 3]), part(6, [6, 8])]);
    assert_eq!(none.deliveries(), []);
    assert!(streams.iter().all(|stream| stream.status().lag == 0));
}

pub async fn s1_a_replayed_batch_shows_only_its_selected_part(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(0));
    for _ in 0..3 {
        store.append(mixed()).await.unwrap();
        append(&store, "b", 1).await;
    }
    let recorder = Recorder::new();
    let query = EventQuery::types(["a"]);
    let name = DurableStream::new("part");
    let stream = store
        .stream_to_durable(&name, &query, recorder.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    let parts: Vec<_> = recorder
        .deliveries()
        .into_iter()
        .map(|part| (part.first, part.last, part.sequences))
        .collect();
    assert_eq!(
        parts,
        [(1, 3, vec![1, 3]), (5, 7, vec![5, 7]), (9, 11, vec![9, 11])]
    );
    let found = store.query(&query).await.unwrap();
    assert!(found.events.iter().all(|event| event.event_type() == "a"));
    assert_eq!(found.events.len(), 6);
}

pub async fn s1_what_is_not_committed_is_not_delivered(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&fails);
    let store = subject.open_faulty(
        |builder| builder,
        move |point| point == FaultPoint::BeforeCommit && hook.load(Ordering::SeqCst),
    );
    let recorder = Recorder::new();
    let stream = store.stream_all(recorder.handler()).await.unwrap();
    append(&store, "a", 1).await;
    fails.store(true, Ordering::SeqCst);
    assert!(store.append(events("lost", 2)).await.is_err());
    fails.store(false, Ordering::SeqCst);
    assert!(
        store
            .append_if(events("lost", 2), &EventQuery::all(), 0)
            .await
            .is_err()
    );
    append(&store, "a", 1).await;
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.deliveries(), [whole(1, 1), whole(2, 2)]);
}

pub async fn s2_order_is_the_order_of_the_log(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(4_000).page_batches(3));
    append(&store, "a", 2).await;
    let (live, durable) = (Recorder::new(), Recorder::new());
    let _live = store.stream_all(live.handler()).await.unwrap();
    let name = DurableStream::new("order");
    let _durable = store.stream_all_durable(&name, durable.handler()).await.unwrap();
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..25 {
                append(&store, "a", 1 + (writer + round) % 3).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    store.settled().await.unwrap();
    let appended = log(&store, &EventQuery::all()).await;
    assert_eq!(appended.len(), 101);
    assert!(sequences(&appended).is_sorted());
    assert_eq!(durable.deliveries(), appended);
    assert_eq!(live.deliveries(), appended[1..]);
}

pub async fn s3_replay_becomes_live_without_a_seam(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(3_000).page_batches(2));
    for _ in 0..100 {
        append(&store, "a", 2).await;
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..200 {
                append(&store, "a", 1).await;
            }
        }
    });
    let recorders: Vec<_> = (0..4).map(|_| Recorder::new()).collect();
    let mut streams = Vec::new();
    for (index, recorder) in recorders.iter().enumerate() {
        let name = DurableStream::new(format!("seam-{index}"));
        streams.push(store.stream_all_durable(&name, recorder.handler()).await.unwrap());
    }
    writer.await.unwrap();
    store.settled().await.unwrap();
    for recorder in recorders {
        assert_eq!(recorder.sequences(), (1..=400).collect::<Vec<_>>());
    }
}

pub async fn s3_a_slow_stream_misses_nothing_of_a_burst(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(800).page_batches(2));
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let stream = store.stream_all(recorder.gated(&gate)).await.unwrap();
    for _ in 0..300 {
        append(&store, "a", 1).await;
    }
    assert!(recorder.sequences().is_empty());
    gate.add_permits(1);
    recorder.batches(1).await;
    assert!(stream.status().lag >= 298, "{:?}", stream.status());
    gate.add_permits(1_000);
    stream.caught_up().await.unwrap();
    append(&store, "a", 1).await;
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=301).collect::<Vec<_>>());
}

pub async fn s3_a_filter_misses_nothing(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(2_000).page_batches(2));
    let recorder = Recorder::new();
    let query = EventQuery::tags(["seventh"]);
    let name = DurableStream::new("sevenths");
    let tagged = |number: u64| {
        let event = NewEvent::new("a", number);
        if number.is_multiple_of(7) {
            event.tag("seventh")
        } else {
            event
        }
    };
    for number in 1..=70 {
        store.append([tagged(number)]).await.unwrap();
    }
    let _stream = store
        .stream_to_durable(&name, &query, recorder.handler())
        .await
        .unwrap();
    for number in 71..=140 {
        store.append([tagged(number)]).await.unwrap();
    }
    store.settled().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=20).map(|n| n * 7).collect::<Vec<_>>());
}

pub async fn s3_a_start_inside_a_batch_delivers_the_rest_of_it(subject: &Subject) {
    deliver_from_inside(subject.open_with(|builder| builder.window_bytes(0))).await;
}

pub async fn s3_a_start_inside_a_batch_of_the_window_delivers_the_rest_of_it(subject: &Subject) {
    deliver_from_inside(subject.open()).await;
}

async fn deliver_from_inside(store: Store) {
    append(&store, "a", 4).await;
    append(&store, "a", 5).await;
    for inside in [2, 4, 5, 6, 8, 9] {
        let recorder = Recorder::new();
        let name = DurableStream::new(format!("inside-{inside}")).start(Start::After(inside));
        let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
        stream.caught_up().await.unwrap();
        assert_eq!(recorder.sequences(), (inside + 1..=9).collect::<Vec<_>>());
        let reader = store.read(&EventQuery::all()).after(inside);
        assert_eq!(sequences(&read_all(reader).await), recorder.sequences());
    }
}

pub async fn s3_a_live_stream_misses_nothing(subject: &Subject) {
    let store = subject.open();
    let recorder = Recorder::new();
    let stream = store.stream_all(recorder.handler()).await.unwrap();
    for expected in 1..=200 {
        append(&store, "a", 1).await;
        if expected % 3 == 0 {
            recorder.batches(expected).await;
        }
    }
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=200).collect::<Vec<_>>());
    assert!(matches!(stream.status().state, StreamState::Live));
}

pub async fn s3_a_retry_repeats_one_batch_and_skips_none(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(1_000).page_batches(2));
    let recorder = Recorder::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let every_third_fails = move |_: &EventBatch| counted.fetch_add(1, Ordering::SeqCst) % 3 == 1;
    let stream = store
        .stream_all(recorder.failing(every_third_fails))
        .await
        .unwrap();
    for _ in 0..60 {
        append(&store, "a", 2).await;
    }
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=120).collect::<Vec<_>>());
    let status = stream.status();
    assert_eq!((status.handled_batches, status.handled_events), (60, 120));
    assert_eq!(status.failures, calls.load(Ordering::SeqCst) - 60);
    assert!(status.failures >= 29, "{status:?}");
}

pub async fn s3_a_query_over_replay_gives_what_it_gives_live(subject: &Subject) {
    let store = subject.open_with(|builder| builder.page_batches(2));
    let queries = [
        EventQuery::all(),
        EventQuery::types(["a", "c"]),
        EventQuery::tags(["x"]),
        EventQuery::any([]),
    ];
    let mut live = Vec::new();
    for query in &queries {
        let recorder = Recorder::new();
        let stream = store.stream_to(query, recorder.handler()).await.unwrap();
        live.push((recorder, stream));
    }
    for round in 0..30u64 {
        let name = ["a", "b", "c"][(round % 3) as usize];
        let batch = (0..1 + round % 4).map(|number| {
            let event = NewEvent::new(name, number);
            if number % 2 == 0 { event.tag("x") } else { event }
        });
        store.append(batch).await.unwrap();
    }
    store.settled().await.unwrap();
    for (index, (query, (recorder, _))) in queries.iter().zip(&live).enumerate() {
        let replayed = Recorder::new();
        let name = DurableStream::new(format!("replay-{index}"));
        let stream = store
            .stream_to_durable(&name, query, replayed.handler())
            .await
            .unwrap();
        stream.caught_up().await.unwrap();
        assert_eq!(replayed.deliveries(), recorder.deliveries(), "{query:?}");
        assert_eq!(log(&store, query).await, recorder.deliveries(), "{query:?}");
    }
}

pub async fn s3_commits_of_another_store_are_delivered(subject: &Subject) {
    let (here, there) = (subject.open(), subject.open());
    let recorder = Recorder::new();
    let stream = here.stream_all(recorder.handler()).await.unwrap();
    append(&there, "a", 2).await;
    recorder.batches(1).await;
    append(&there, "a", 1).await;
    append(&here, "a", 1).await;
    append(&there, "a", 3).await;
    recorder.batches(4).await;
    assert_eq!(
        recorder.deliveries(),
        [whole(1, 2), whole(3, 3), whole(4, 4), whole(5, 7)]
    );
    stream.caught_up().await.unwrap();
    assert_eq!((here.head(), stream.status().lag), (7, 0));
    here.close().await.unwrap();
    there.close().await.unwrap();
}

pub async fn s3_two_stores_that_append_at_once_deliver_everything_once(subject: &Subject) {
    let stores = [0, 1].map(|_| subject.open_with(|builder| builder.window_bytes(2_000).page_batches(4)));
    let mut recorders = Vec::new();
    let mut streams = Vec::new();
    for (index, store) in stores.iter().enumerate() {
        let recorder = Recorder::new();
        streams.push(store.stream_all(recorder.handler()).await.unwrap());
        recorders.push(recorder.clone());
        let recorder = Recorder::new();
        let name = DurableStream::new(format!("side-{index}"));
        streams.push(store.stream_all_durable(&name, recorder.handler()).await.unwrap());
        recorders.push(recorder);
    }
    let writers = stores.iter().map(|store| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..60 {
                append(&store, "a", 1 + round % 3).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    let expected = log(&stores[0], &EventQuery::all()).await;
    assert_eq!(expected.len(), 120);
    for stream in &streams {
        stream.wait_for(expected[119].last).await.unwrap();
    }
    for recorder in recorders {
        assert_eq!(recorder.deliveries(), expected);
    }
    for store in stores {
        store.close().await.unwrap();
    }
}

pub async fn s4_a_handler_that_never_returns_delays_nobody(subject: &Subject) {
    let store = subject.open_with(|builder| {
        builder
            .window_bytes(2_000)
            .drain_limit(Duration::from_millis(10))
            .queue_requests(4)
    });
    let stuck = HandleStream::new(|_| std::future::pending::<Result<(), std::io::Error>>());
    let stuck = store.stream_all(stuck).await.unwrap();
    let recorder = Recorder::new();
    let other = store.stream_all(recorder.handler()).await.unwrap();
    for _ in 0..100 {
        append(&store, "a", 1).await;
    }
    other.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=100).collect::<Vec<_>>());
    eventually("the call is seen to run", || {
        stuck.status().call_running_for.is_some()
    })
    .await;
    let status = stuck.status();
    assert_eq!((status.position, status.lag, status.handled_batches), (0, 100, 0));
    assert!(status.oldest_unhandled.is_some());
}

pub async fn s4_failing_and_panicking_handlers_delay_nobody(subject: &Subject) {
    let store = subject.open();
    let failing = HandleStream::new(|_| async { Err("no") }).retry(hasty());
    let failing = store.stream_all(failing).await.unwrap();
    let panicking = HandleStream::new(|batch: EventBatch| async move {
        assert!(batch.is_never_right(), "never right");
        Ok::<_, std::io::Error>(())
    });
    let panicking = store.stream_all(panicking.retry(Retry::never())).await.unwrap();
    let recorder = Recorder::new();
    let other = store.stream_all(recorder.handler()).await.unwrap();
    for _ in 0..50 {
        append(&store, "a", 1).await;
    }
    other.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), (1..=50).collect::<Vec<_>>());
    let cause = panicking.stopped().await;
    assert!(
        matches!(cause, StopCause::HandlerFailed { attempts: 1, .. }),
        "{cause:?}"
    );
    eventually("the failures are counted", || failing.status().failures > 2).await;
    assert_eq!(failing.status().position, 0);
}

trait NeverRight {
    fn is_never_right(&self) -> bool;
}

impl NeverRight for EventBatch {
    fn is_never_right(&self) -> bool {
        self.last_sequence() == 0
    }
}

pub async fn s5_many_streams_behind_no_window_get_everything(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(0).page_bytes(1).readers(2));
    let gate = Arc::new(Semaphore::new(0));
    let recorders: Vec<_> = (0..30).map(|_| Recorder::new()).collect();
    let mut streams = Vec::new();
    for recorder in &recorders {
        streams.push(store.stream_all(recorder.gated(&gate)).await.unwrap());
    }
    for _ in 0..20 {
        append(&store, "a", 2).await;
    }
    gate.add_permits(30 * 20);
    store.settled().await.unwrap();
    for recorder in recorders {
        assert_eq!(recorder.sequences(), (1..=40).collect::<Vec<_>>());
    }
}

pub async fn s6_a_live_stream_begins_with_the_call(subject: &Subject) {
    let store = subject.open();
    let is_over = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (store, is_over, begun) = (store.clone(), Arc::clone(&is_over), Arc::clone(&begun));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                begun.fetch_add(1, Ordering::SeqCst);
                append(&store, "a", 1).await;
            }
        }
    });
    for _ in 0..40 {
        let recorder = Recorder::new();
        let committed_before = store.query(&EventQuery::all()).await.unwrap().head;
        let stream = store.stream_all(recorder.handler()).await.unwrap();
        // The one writer appends one event at a time: whatever it begins from now on comes after these.
        let begun_before = begun.load(Ordering::SeqCst);
        stream.wait_for(begun_before + 2).await.unwrap();
        let seen: BTreeSet<u64> = recorder.sequences().into_iter().collect();
        let first = *seen.first().unwrap();
        assert!(first > committed_before, "{first} was committed before the call");
        assert!(
            first <= begun_before + 1,
            "{first} is not the first after {begun_before}"
        );
        assert!(seen.iter().copied().eq(first..first + seen.len() as u64));
    }
    is_over.store(true, Ordering::SeqCst);
    writer.await.unwrap();
}

pub async fn s7_no_call_starts_after_unsubscribe(subject: &Subject) {
    let store = subject.open();
    for round in 0..40 {
        let calls = Arc::new(AtomicUsize::new(0));
        let (seen, mut first_call) = watch::channel(());
        let counted = Arc::clone(&calls);
        let handler = HandleStream::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            seen.send_replace(());
            async { Ok::<_, std::io::Error>(()) }
        });
        let stream = store.stream_all(handler).await.unwrap();
        for _ in 0..5 {
            append(&store, "a", 1).await;
        }
        if round % 2 == 0 {
            first_call.changed().await.unwrap();
        }
        stream.unsubscribe();
        let started = calls.load(Ordering::SeqCst);
        append(&store, "a", 1).await;
        let cause = stream.stopped().await;
        assert!(matches!(cause, StopCause::Unsubscribed), "{cause:?}");
        append(&store, "a", 1).await;
        // A call that had begun to start when the stream was ended counts as started.
        let calls = calls.load(Ordering::SeqCst);
        assert!(
            calls <= started + 1 && calls <= 5,
            "{calls} calls after {started}"
        );
    }
    assert_eq!(store.streams_here().len(), 0);
}

pub async fn s7_no_call_runs_after_stopped(subject: &Subject) {
    let store = subject.open();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let running = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (recorder, gate, running) = (recorder.clone(), Arc::clone(&gate), Arc::clone(&running));
        HandleStream::new(move |batch: EventBatch| {
            let (recorder, gate, running) = (recorder.clone(), Arc::clone(&gate), Arc::clone(&running));
            async move {
                running.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                recorder.write(&batch);
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(())
            }
        })
    };
    let stream = store.stream_all(handler).await.unwrap();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    eventually("a call runs", || running.load(Ordering::SeqCst) == 1).await;
    stream.unsubscribe();
    assert!(matches!(
        stream.status().state,
        StreamState::CatchingUp | StreamState::Live
    ));
    let mut stopped = Box::pin(stream.stopped());
    assert!(stopped.as_mut().now_or_never().is_none());
    gate.add_permits(10);
    stopped.await;
    assert_eq!(running.load(Ordering::SeqCst), 0);
    assert_eq!(recorder.sequences(), [1]);
    assert_eq!(stream.status().position, 1);
    let again = store.stream_all(takes_all()).await.unwrap();
    drop(again);
    eventually("the dropped handle's stream has gone", || is_idle(&store)).await;
}

fn is_idle(store: &Store) -> bool {
    store.streams_here().is_empty()
}

//! From log to live: what used to be lost, doubled or never reached on the way.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use millstream::{
    DurableStream, EventQuery, EventStream, HandleStream, Start, Store, StreamState, WaitError,
};
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::common::{Recorder, append, events, eventually, in_time, log, read_all, sequences, takes_all};
use crate::{Place, write_by_hand};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_an_append_at_any_await_loses_nothing_that_was_committed() {
    let place = Place::new();
    // A queue of two makes appends wait for room as well.
    for store in [
        place.open(),
        Store::builder().queue_requests(2).in_memory().unwrap(),
    ] {
        let recorder = Recorder::new();
        let stream = store.stream_all(recorder.handler()).await.unwrap();
        for round in 0..120 {
            let mut dropped = Box::pin(store.append(events("dropped", 2)));
            for _ in 0..round % 6 {
                if futures::poll!(dropped.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(dropped);
            append(&store, "kept", 1).await;
        }
        let (_, last) = append(&store, "kept", 1).await;
        stream.wait_for(last).await.unwrap();
        let committed = log(&store, &EventQuery::all()).await;
        assert_eq!(sequences(&committed), (1..=last).collect::<Vec<_>>());
        assert_eq!(recorder.deliveries(), committed);
        assert_eq!(log(&store, &EventQuery::types(["kept"])).await.len(), 121);
        let dropped = log(&store, &EventQuery::types(["dropped"])).await;
        assert!(
            dropped.iter().all(|batch| batch.sequences.len() == 2),
            "a batch is there whole or not at all"
        );
        assert!(
            !dropped.is_empty(),
            "some of the dropped ones were queued already"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_far_beyond_the_window_reaches_a_slow_handler_whole() {
    let place = Place::new();
    let options = || Store::builder().window_bytes(800).page_batches(64);
    for store in [options().in_memory().unwrap(), place.open_with(options())] {
        let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
        let stream = store.stream_all(recorder.gated(&gate)).await.unwrap();
        for _ in 0..100 {
            let burst = join_all((0..200).map(|_| store.append(events("a", 1)))).await;
            assert!(burst.iter().all(Result::is_ok));
            gate.add_permits(20);
        }
        assert_eq!(store.head(), 20_000);
        gate.add_permits(18_000);
        stream.caught_up().await.unwrap();
        assert!(recorder.sequences().into_iter().eq(1..=20_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_ends_inside_a_batch_neither_cuts_nor_loses_it() {
    let place = Place::new();
    place.open().close().await.unwrap();
    // One page examines 100,000 events: it ends inside the batch of 10.
    let file = place.by_hand();
    write_by_hand(&file, "noise", 1..=99_995, 1);
    write_by_hand(&file, "wanted", 99_996..=100_005, 10);
    write_by_hand(&file, "noise", 100_006..=100_010, 1);
    let store = place.open();
    assert_eq!(store.head(), 100_010);
    let query = EventQuery::types(["wanted"]);
    let read = log(&store, &query).await;
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(read[0].sequences, (99_996..=100_005).collect::<Vec<_>>());
    assert_eq!(store.query(&query).await.unwrap().events.len(), 10);
    let recorder = Recorder::new();
    let name = DurableStream::new("wanted");
    let stream = store
        .stream_to_durable(&name, &query, recorder.handler())
        .await
        .unwrap();
    in_time("the head is reached", stream.caught_up()).await.unwrap();
    assert_eq!(recorder.deliveries(), read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_log_and_a_query_that_selects_nothing_are_caught_up_at_once() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let nothing = EventQuery::any([]);
        let streams = [
            store.stream_all(takes_all()).await.unwrap(),
            store
                .stream_all_durable(&DurableStream::new("all"), takes_all())
                .await
                .unwrap(),
            store.stream_to(&nothing, takes_all()).await.unwrap(),
            store
                .stream_to_durable(&DurableStream::new("none"), &nothing, takes_all())
                .await
                .unwrap(),
        ];
        for stream in &streams {
            in_time("the empty log is reached", stream.caught_up())
                .await
                .unwrap();
            in_time("0 is reached", stream.wait_for(0)).await.unwrap();
        }
        append(&store, "a", 3).await;
        for stream in &streams {
            in_time("the head is reached", stream.caught_up()).await.unwrap();
            in_time("3 is reached", stream.wait_for(3)).await.unwrap();
            assert_eq!(stream.status().lag, 0);
            assert!(matches!(stream.status().state, StreamState::Live));
        }
        in_time("all streams are settled", store.settled()).await.unwrap();
    }
}

/// Stands between the last look of a stream and its rest: it reports to its watchers in between.
struct BeforeRest {
    store: Store,
    stream: EventStream,
    watching: Mutex<Option<BoxFuture<'static, ()>>>,
    waiting: Mutex<Option<BoxFuture<'static, Result<(), WaitError>>>>,
}

impl BeforeRest {
    /// Asks to be woken by the next report.
    fn watch(self: &Arc<Self>) {
        let mut watch = self.stream.watch();
        let mut watching = async move { drop(watch.changed().await) }.boxed();
        let waker = Waker::from(Arc::clone(self));
        assert!(watching.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        *self.watching.try_lock().unwrap() = Some(watching);
    }
}

impl Wake for BeforeRest {
    fn wake(self: Arc<Self>) {
        // After a retry a stream counts as live no sooner than a look has found nothing more.
        let status = self.stream.status();
        let is_between = status.handled_batches == 1 && matches!(status.state, StreamState::Live);
        if !is_between {
            return self.watch();
        }
        // Nobody is woken by this one: the stream has had its look, and goes to rest.
        self.store.append_blocking(events("noise", 1)).unwrap();
        let waits = Arc::clone(&self);
        let mut waiting = async move { waits.stream.caught_up().await }.boxed();
        let polled = waiting.poll_unpin(&mut Context::from_waker(Waker::noop()));
        *self.waiting.try_lock().unwrap() = Some(match polled {
            Poll::Ready(told) => async { told }.boxed(),
            Poll::Pending => waiting,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_head_while_a_stream_goes_to_rest_is_told() {
    let store = Store::in_memory().unwrap();
    let query = EventQuery::types(["wanted"]);
    let calls = AtomicUsize::new(0);
    let fails_first = Recorder::new().failing(move |_| calls.fetch_add(1, Ordering::SeqCst) == 0);
    let stream = store.stream_to(&query, fails_first).await.unwrap();
    stream.caught_up().await.unwrap();
    let between = Arc::new(BeforeRest {
        store: store.clone(),
        stream,
        watching: Mutex::default(),
        waiting: Mutex::default(),
    });
    between.watch();
    append(&store, "wanted", 1).await;
    eventually("somebody waits before the rest", || {
        between.waiting.try_lock().is_ok_and(|waiting| waiting.is_some())
    })
    .await;
    let waiting = between.waiting.try_lock().unwrap().take().unwrap();
    in_time("the head is reached", waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_what_is_not_selected_and_came_during_the_last_call_is_told() {
    let store = Store::in_memory().unwrap();
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handle = HandleStream::new({
        let (entered, go_on) = (Arc::clone(&entered), Arc::clone(&go_on));
        move |_| {
            let (entered, go_on) = (Arc::clone(&entered), Arc::clone(&go_on));
            async move {
                entered.notify_one();
                go_on.notified().await;
                Ok::<(), Infallible>(())
            }
        }
    });
    let stream = store
        .stream_to(&EventQuery::types(["wanted"]), handle)
        .await
        .unwrap();
    append(&store, "wanted", 1).await;
    entered.notified().await;
    append(&store, "other", 1).await;
    let mut waiting = pin!(stream.caught_up());
    assert!(
        futures::poll!(&mut waiting).is_pending(),
        "it waits while the handler works"
    );
    go_on.notify_one();
    in_time("the head is reached", waiting).await.unwrap();
    assert_eq!(stream.status().lag, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_the_sequence_are_read_over() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..10 {
        append(&store, "a", 3).await;
    }
    let name = DurableStream::new("before").start(Start::After(12));
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    stream.caught_up().await.unwrap();
    store.close().await.unwrap();
    // The first batches, one in the middle, parts of others, and the newest events.
    let holes = "DELETE FROM event WHERE sequence <= 5 OR sequence BETWEEN 10 AND 12
        OR sequence BETWEEN 14 AND 16 OR sequence >= 29";
    place.by_hand().execute(holes, []).unwrap();
    let store = place.open_with(Store::builder().page_batches(2));
    let left: Vec<u64> = (6..=9).chain([13]).chain(17..=28).collect();
    let query = store.query(&EventQuery::all()).await.unwrap();
    let found: Vec<u64> = query.events.iter().map(|event| event.sequence()).collect();
    assert_eq!((&found, query.head, query.context_version), (&left, 30, 28));
    for after in [0, 3, 5, 11, 14, 28, 29, 30] {
        let recorder = Recorder::new();
        let name = DurableStream::new(format!("after-{after}")).start(Start::After(after));
        let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
        in_time("the head is reached", stream.caught_up()).await.unwrap();
        let rest: Vec<u64> = left
            .iter()
            .copied()
            .filter(|sequence| *sequence > after)
            .collect();
        assert_eq!(recorder.sequences(), rest, "after {after}");
        let read = read_all(store.read(&EventQuery::types(["a"])).after(after)).await;
        assert_eq!(sequences(&read), rest, "after {after}");
    }
    let recorder = Recorder::new();
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    assert_eq!(stream.started_after(), 30);
    assert_eq!(append(&store, "a", 2).await, (31, 32));
    in_time("the head is reached", store.settled()).await.unwrap();
    assert_eq!(recorder.sequences(), [31, 32]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_events_removed_beside_a_running_store_stop_nobody() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let recorder = Recorder::new();
    let live = here.stream_all(recorder.handler()).await.unwrap();
    append(&here, "a", 2).await;
    append(&there, "a", 2).await;
    live.wait_for(4).await.unwrap();
    place
        .by_hand()
        .execute("DELETE FROM event WHERE sequence >= 3", [])
        .unwrap();
    let now = DurableStream::new("now").start(Start::Now);
    let now = here.stream_all_durable(&now, takes_all()).await.unwrap();
    assert_eq!(now.started_after(), 4);
    assert_eq!(append(&there, "a", 1).await, (5, 5));
    assert_eq!(append(&here, "a", 1).await, (6, 6));
    live.wait_for(6).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3, 4, 5, 6]);
    in_time("all streams are settled", here.settled()).await.unwrap();
    assert_eq!(now.status().handled_events, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_shows_others_no_old_head() {
    let place = Place::new();
    let store = place.open_with(Store::builder().readers(2).page_batches(1));
    for _ in 0..5 {
        append(&store, "a", 1).await;
    }
    let everything = EventQuery::all();
    let mut standing = store.read(&everything);
    assert_eq!(standing.next().await.unwrap().unwrap().last_sequence(), 1);
    append(&store, "a", 1).await;
    for _ in 0..4 {
        assert_eq!(store.query(&everything).await.unwrap().head, 6);
        assert_eq!(log(&store, &everything).await.len(), 6);
    }
    assert_eq!(
        read_all(standing).await.len(),
        4,
        "a reader ends at the head of its first poll"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_goes_on_live_and_ends_with_the_store() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        append(&store, "a", 2).await;
        append(&store, "a", 2).await;
        let mut follower = store.follow(&EventQuery::all()).after(1);
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.extend(
                in_time("the log is read", follower.next())
                    .await
                    .unwrap()
                    .unwrap()
                    .iter()
                    .map(|event| event.sequence()),
            );
        }
        let next = tokio::spawn(async move {
            let batch = follower.next().await.unwrap().unwrap();
            (batch.last_sequence(), follower)
        });
        append(&store, "a", 1).await;
        let (last, mut follower) = in_time("the live batch comes", next).await.unwrap();
        assert_eq!((seen, last), (vec![2, 3, 4], 5));
        let end = tokio::spawn(async move { follower.next().await.is_none() });
        tokio::task::yield_now().await;
        store.close().await.unwrap();
        assert!(in_time("the follower ends", end).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_beyond_every_log_are_no_fault() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        append(&store, "a", 2).await;
        for after in [2, 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            assert!(
                read_all(store.read(&EventQuery::all()).after(after))
                    .await
                    .is_empty()
            );
            let mut follower = store.follow(&EventQuery::all()).after(after);
            assert!(futures::poll!(follower.next()).is_pending());
            let refused = store
                .append_if(events("a", 1), &EventQuery::all(), after.max(3))
                .await;
            assert!(refused.is_err());
        }
        assert_eq!(store.head(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_at_rest_are_not_woken() {
    let store = Store::in_memory().unwrap();
    let recorder = Recorder::new();
    let mut streams = Vec::new();
    for number in 0..3_000 {
        let query = EventQuery::tags([format!("order:{number}")]);
        streams.push(store.stream_to(&query, recorder.handler()).await.unwrap());
    }
    // In an empty log everybody is settled before the first look.
    append(&store, "noise", 1).await;
    store.settled().await.unwrap();
    let watches: Vec<_> = streams.iter().map(|stream| stream.watch()).collect();
    let order = millstream::NewEvent::new("placed", 1).tag("order:17");
    store.append([order]).await.unwrap();
    in_time("all streams are settled", store.settled()).await.unwrap();
    assert_eq!(recorder.sequences(), [2]);
    let mut stirred = 0;
    for mut watch in watches {
        stirred += usize::from(futures::poll!(Box::pin(watch.changed())).is_ready());
    }
    assert_eq!(stirred, 1, "only the one that was selected did anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_while_it_goes_to_rest_leaves_the_others_alone() {
    let store = Store::in_memory().unwrap();
    let mut last = 0;
    let mut others = Vec::new();
    for round in 0..6_000_u32 {
        let ends = store.stream_all(takes_all()).await.unwrap();
        // It handles this and goes to rest at about the time at which it is ended.
        last = append(&store, "a", 1).await.1;
        for _ in 0..round % 64 {
            std::hint::spin_loop();
        }
        let ending = tokio::spawn(async move { ends.unsubscribe() });
        // These may get the place that it leaves.
        for _ in 0..2 {
            others.push(store.stream_all(takes_all()).await.unwrap());
        }
        ending.await.unwrap();
        if others.len() > 16 {
            last = append(&store, "a", 1).await.1;
            for other in others.drain(..) {
                in_time("the others get everything", other.wait_for(last))
                    .await
                    .unwrap();
            }
        }
    }
    in_time("all streams are settled", store.settled()).await.unwrap();
    assert_eq!(store.head(), last);
}

//! Order and keys: two calls of one key, a key that holds up the others, a cursor per partition, workers that change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use millstream::{
    Checkpoint, CloseError, DurableStream, EventBatch, EventStream, FailurePolicy, HandleStream, NewEvent,
    Retry, StopCause, Store, StreamError,
};

use crate::Place;
use crate::common::hands::{Hands, key_of, keyed};
use crate::common::{append, eventually, hasty, in_time};

const KEYS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "free"];

/// An assigner that forgot what was in flight gave a key's next event to another worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_calls_of_a_key_are_under_way_however_calls_fail_and_are_retried() {
    let store = Store::builder()
        .window_bytes(4_000)
        .page_batches(8)
        .in_memory()
        .unwrap();
    let order = Arc::new(Mutex::new(vec![Vec::new(); KEYS.len()]));
    let (at_work, calls) = (
        Arc::new([const { AtomicUsize::new(0) }; KEYS.len()]),
        AtomicUsize::new(0),
    );
    let handler = {
        let order = Arc::clone(&order);
        HandleStream::new(move |events: EventBatch| {
            let number = calls.fetch_add(1, Ordering::SeqCst);
            let (order, at_work) = (Arc::clone(&order), Arc::clone(&at_work));
            async move {
                let first = events.iter().next().unwrap();
                let key = KEYS.iter().position(|key| *key == first.event_type()).unwrap();
                assert_eq!(
                    at_work[key].fetch_add(1, Ordering::SeqCst),
                    0,
                    "two calls of {}",
                    KEYS[key]
                );
                for _ in 0..number % 5 {
                    tokio::task::yield_now().await;
                }
                let fails = number % 7 == 3;
                if !fails {
                    let sequences = events.iter().map(|event| event.sequence());
                    order.lock().unwrap()[key].extend(sequences);
                }
                at_work[key].fetch_sub(1, Ordering::SeqCst);
                if fails { Err("now and then") } else { Ok(()) }
            }
        })
    };
    let stream = store
        .stream_all_durable(&keyed("ledger", 5), handler.retry(hasty()))
        .await
        .unwrap();
    let mut expected = vec![Vec::new(); KEYS.len()];
    for batch in 0..400_usize {
        let keys: Vec<usize> = (0..1 + batch % 4)
            .map(|event| (batch * 5 + event * 3) % KEYS.len())
            .collect();
        let events = keys.iter().map(|key| NewEvent::new(KEYS[*key], 1));
        let appended = store.append(events).await.unwrap();
        for (key, sequence) in keys.into_iter().zip(appended.first_sequence..) {
            expected[key].push(sequence);
        }
    }
    in_time("all is handled", stream.caught_up()).await.unwrap();
    assert_eq!(*order.lock().unwrap(), expected);
    // A panic of the handler, which two calls would be, is a failure of the stream.
    assert_eq!(stream.status().position, store.head());
}

/// Partitions with a cursor each lose or double events when their number changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_cursor_whatever_the_number_of_workers() {
    let place = Place::new();
    let hands = Hands::default();
    for (run, workers) in [16, 2, 7, 1].into_iter().enumerate() {
        let store = place.open();
        let stream = store
            .stream_all_durable(&keyed("ledger", workers), hands.handler())
            .await
            .unwrap();
        assert_eq!(stream.started_after(), 70 * run as u64);
        for number in 0..70 {
            append(&store, KEYS[number % KEYS.len()], 1).await;
        }
        stream.caught_up().await.unwrap();
        store.close().await.unwrap();
        let sql = "SELECT count(*), max(position) FROM cursor";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (cursors, position): (i64, i64) = place.by_hand().query_row(sql, [], row).unwrap();
        assert_eq!((cursors, position), (1, 70 * (run as i64 + 1)));
    }
    let mut taken = hands.taken();
    taken.sort_unstable();
    assert!(taken.into_iter().eq(1..=280), "each event was handled once");
}

/// A handler that computes, or blocks where it should not, holds up its key.
#[test]
fn a_call_that_blocks_its_thread_holds_up_no_other_key() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let taken = Arc::new(AtomicUsize::new(0));
    let handler = {
        let taken = Arc::clone(&taken);
        HandleStream::new(move |events: EventBatch| {
            if events.iter().any(|event| event.event_type() == "blocks") {
                let _ = blocked.lock().unwrap().recv();
            } else {
                taken.fetch_add(1, Ordering::SeqCst);
            }
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    runtime.block_on(async {
        let store = Store::in_memory().unwrap();
        let stream = store
            .stream_all_durable(&keyed("ledger", 2), handler)
            .await
            .unwrap();
        append(&store, "blocks", 1).await;
        for _ in 0..20 {
            append(&store, "goes on", 1).await;
        }
        eventually("the others are handled", || taken.load(Ordering::SeqCst) == 20).await;
        assert_eq!(stream.status().position, 0);
        drop(release);
        stream.caught_up().await.unwrap();
    });
}

/// Calls that were made ready together do not begin after the first of them has ended the stream.
#[tokio::test(flavor = "current_thread")]
async fn s7_calls_that_were_about_to_begin_do_not_begin_after_unsubscribe() {
    let store = Store::in_memory().unwrap();
    for key in KEYS {
        append(&store, key, 1).await;
    }
    let begun = Arc::new(AtomicUsize::new(0));
    let handle = Arc::new(Mutex::new(None::<EventStream>));
    let handler = {
        let (begun, handle) = (Arc::clone(&begun), Arc::clone(&handle));
        HandleStream::new(move |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            if let Some(stream) = &*handle.lock().unwrap() {
                stream.unsubscribe();
            }
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    let stream = store
        .stream_all_durable(&keyed("ledger", 3), handler)
        .await
        .unwrap();
    let mut watch = stream.watch();
    // Its task has not run yet: there is one thread, and this one has it.
    assert_eq!(begun.load(Ordering::SeqCst), 0);
    *handle.lock().unwrap() = Some(stream);
    while in_time("the stream stops", watch.changed()).await.is_some() {}
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    assert_eq!(watch.current().handled_batches, 1);
}

#[tokio::test]
async fn calls_under_way_are_dropped_when_the_drain_limit_is_over() {
    let store = Store::builder()
        .drain_limit(Duration::from_millis(50))
        .in_memory()
        .unwrap();
    let hands = Hands::default();
    for key in ["a", "b"] {
        hands.hold(key);
        append(&store, key, 1).await;
    }
    let stream = store
        .stream_all_durable(&keyed("ledger", 2), hands.handler())
        .await
        .unwrap();
    hands.begun(2).await;
    let closed = store.close().await;
    assert!(
        matches!(&closed, Err(CloseError::DrainLimit { streams, .. }) if streams == &["ledger"]),
        "{closed:?}"
    );
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Closed), "{cause:?}");
    assert_eq!(
        (stream.status().position, stream.status().calls_under_way),
        (0, 0)
    );
}

/// A call that hangs is dropped at its timeout, tried again and set aside, while the other keys go on.
#[tokio::test]
async fn a_call_that_hangs_is_set_aside_and_holds_up_no_other_key() {
    let store = Store::in_memory().unwrap();
    let hands = Hands::default();
    hands.hold("a");
    let handler = hands
        .handler()
        .timeout(Duration::from_millis(20))
        .retry(Retry::never());
    let name = keyed("ledger", 2).on_failure(FailurePolicy::park());
    let stream = store.stream_all_durable(&name, handler).await.unwrap();
    append(&store, "a", 1).await;
    append(&store, "b", 1).await;
    stream.caught_up().await.unwrap();
    let status = stream.status();
    assert_eq!((hands.taken(), status.position, status.parked), (vec![2], 2, 1));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let store = Store::in_memory().unwrap();
    let strict = keyed("ledger", 2).checkpoint(Checkpoint::Strict);
    let nobody = DurableStream::new("ledger").partition_by(0, key_of);
    for refused in [strict, nobody] {
        let outcome = store
            .stream_all_durable(&refused, Hands::default().handler())
            .await;
        assert!(
            matches!(outcome, Err(StreamError::InvalidOption { .. })),
            "{outcome:?}"
        );
    }
}

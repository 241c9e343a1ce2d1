//! Edges of the promises: rolled back types, foreign journal modes, streams that are let go while they fail, closing
//! beside stuck handlers, a committer that dies, cursors that wait for a group.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::future::join_all;
use millstream::internals::{FaultPoint, with_faults};
use millstream::{
    AppendError, Checkpoint, CloseError, DurableStream, EventFilter, EventQuery, HandleStream, NewEvent,
    OpenError, Retry, StopCause, Store, StreamState,
};
use tokio::sync::{Notify, Semaphore};

/// Long enough for every machine; nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn nothing() -> HandleStream {
    HandleStream::new(|_| async { Ok::<_, io::Error>(()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_type_of_a_group_that_failed_is_not_mistaken_for_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let hook = Arc::clone(&fails);
    let builder = with_faults(Store::builder(), move |point| {
        point == FaultPoint::BeforeCommit && hook.load(Ordering::SeqCst)
    });
    let store = builder.open(folder.path().join("log.db")).unwrap();
    let tagged = EventQuery::tags(["t"]);
    let appends = (0..50).map(|_| store.append_if([NewEvent::new("a", 1).tag("t")], &tagged, 0));
    assert!(join_all(appends).await.iter().all(Result::is_err));
    fails.store(false, Ordering::SeqCst);
    store.append([NewEvent::new("b", 1).tag("t")]).await.unwrap();
    let context: EventQuery = EventFilter::types(["b"]).tags(["t"]).into();
    let outcome = store
        .append_if([NewEvent::new("b", 2).tag("t")], &context, 0)
        .await;
    assert!(
        matches!(outcome, Err(AppendError::Conflict { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_copy_made_by_sqlite_gets_its_write_ahead_log_back() {
    let folder = tempfile::tempdir().unwrap();
    let (original, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
    let store = Store::open(&original).unwrap();
    store.append([NewEvent::new("a", 1)]).await.unwrap();
    let connection = rusqlite::Connection::open(&original).unwrap();
    connection
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    let store = Store::open(&copy).unwrap();
    assert_eq!(
        store
            .append([NewEvent::new("a", 2)])
            .await
            .unwrap()
            .first_sequence,
        2
    );
    let connection = rusqlite::Connection::open(&copy).unwrap();
    let mode: String = connection
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn what_is_no_file_is_refused_as_a_file() {
    for path in [":memory:", ""] {
        let error = Store::open(path).unwrap_err();
        assert!(
            matches!(error, OpenError::NoWriteAheadLog { .. }),
            "{path:?}: {error}"
        );
    }
}

#[test]
fn a_store_is_closed_without_a_runtime() {
    let store = Store::in_memory().unwrap();
    store.append_blocking([NewEvent::new("a", 1)]).unwrap();
    futures::executor::block_on(store.close()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_let_go_while_it_failed_is_forgotten() {
    let store = Store::in_memory().unwrap();
    let (called, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_called, handler_go) = (Arc::clone(&called), Arc::clone(&go));
    let handle = HandleStream::new(move |_| {
        let (called, go) = (Arc::clone(&handler_called), Arc::clone(&handler_go));
        async move {
            called.notify_one();
            go.notified().await;
            Err::<(), _>("no")
        }
    });
    let stream = store.stream_all(handle.retry(Retry::never())).await.unwrap();
    let mut watch = stream.watch();
    store.append([NewEvent::new("a", 1)]).await.unwrap();
    called.notified().await;
    drop(stream);
    go.notify_one();
    let ended = async { while watch.changed().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(store.streams_here().is_empty());
    store.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_names_only_the_streams_that_were_late() {
    // While a store is closed its cursors take longer to be stored than the drain limit allows calls to take.
    let (is_closing, (go, held)) = (Arc::new(AtomicBool::new(false)), mpsc::channel::<()>());
    let (hook, held) = (Arc::clone(&is_closing), Mutex::new(held));
    let builder = with_faults(Store::builder(), move |point| {
        if point == FaultPoint::BeforeCursor && hook.load(Ordering::SeqCst) {
            // Once released, it is not held again.
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        }
        false
    });
    let builder = builder.drain_limit(Duration::from_millis(50));
    let store = builder.in_memory().unwrap();
    let stuck = HandleStream::new(|_| std::future::pending::<Result<(), io::Error>>());
    let stuck = store
        .stream_all_durable(&DurableStream::new("stuck"), stuck)
        .await
        .unwrap();
    let stuck_live = HandleStream::new(|_| std::future::pending::<Result<(), io::Error>>());
    let stuck_live = store.stream_all(stuck_live).await.unwrap();
    let mut others = Vec::new();
    for number in 0..5 {
        let name = DurableStream::new(format!("slice-{number}"));
        others.push(store.stream_all_durable(&name, nothing()).await.unwrap());
        others.push(store.stream_all(nothing()).await.unwrap());
    }
    store.append([NewEvent::new("a", 1)]).await.unwrap();
    for stream in &others {
        stream.caught_up().await.unwrap();
    }
    for stream in [&stuck, &stuck_live] {
        let is_called = async {
            while stream.status().call_running_for.is_none() {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(PATIENCE, is_called).await.unwrap();
    }
    is_closing.store(true, Ordering::SeqCst);
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    // The limit is over when a call that is late is cancelled.
    let cancelled = tokio::time::timeout(PATIENCE, stuck_live.stopped());
    assert!(matches!(cancelled.await.unwrap(), StopCause::Closed));
    drop(go);
    let Err(CloseError::DrainLimit { mut streams, .. }) = closing.await.unwrap() else {
        panic!("two streams are stuck");
    };
    streams.sort();
    assert_eq!(streams, ["a stream without a name", "stuck"]);
    assert!(matches!(stuck.stopped().await, StopCause::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committer_that_dies_takes_its_streams_with_it() {
    let armed = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&armed);
    let builder = with_faults(Store::builder(), move |point| {
        assert!(
            !(point == FaultPoint::AfterCursor && hook.load(Ordering::SeqCst)),
            "the committer dies"
        );
        false
    });
    let store = builder.in_memory().unwrap();
    let strict = DurableStream::new("strict").checkpoint(Checkpoint::Strict);
    let strict = store.stream_all_durable(&strict, nothing()).await.unwrap();
    let live = store.stream_all(nothing()).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let _ = store.append([NewEvent::new("a", 1)]).await;
    tokio::time::timeout(PATIENCE, strict.stopped()).await.unwrap();
    tokio::time::timeout(PATIENCE, live.stopped()).await.unwrap();
    let error = store.append([NewEvent::new("a", 1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Storage(_)), "{error}");
    let _ = tokio::time::timeout(PATIENCE, store.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_a_sweep_does_not_wait_for_somebody_elses_checkpoint() {
    let store = Store::in_memory().unwrap();
    let patient = DurableStream::new("patient").checkpoint(Checkpoint::Every {
        batches: 1_000_000,
        within: Duration::from_secs(3600),
    });
    let _patient = store.stream_all_durable(&patient, nothing()).await.unwrap();
    let idle = DurableStream::new("idle");
    let idle = store
        .stream_to_durable(&idle, &EventQuery::types(["none"]), nothing())
        .await
        .unwrap();
    for _ in 0..600 {
        store
            .append((0..100).map(|number| NewEvent::new("a", number)))
            .await
            .unwrap();
    }
    assert!(idle.status().cursor >= Some(30_000), "{:?}", idle.status().cursor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_stream_goes_from_pages_read_ahead_over_to_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Store::builder().page_batches(1);
    let store = builder.open(folder.path().join("log.db")).unwrap();
    for number in 0..20 {
        store.append([NewEvent::new("a", number)]).await.unwrap();
    }
    store.close().await.unwrap();
    // The window of the store is empty, so the stream reads the log, page after page, and ahead.
    let store = Store::builder()
        .page_batches(1)
        .open(folder.path().join("log.db"))
        .unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let handler_gate = Arc::clone(&gate);
    let handle = HandleStream::new(move |_| {
        let gate = Arc::clone(&handler_gate);
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    });
    let stream = store
        .stream_all_durable(&DurableStream::new("slow"), handle)
        .await
        .unwrap();
    for number in 0..20 {
        store.append([NewEvent::new("a", number)]).await.unwrap();
    }
    gate.add_permits(40);
    tokio::time::timeout(PATIENCE, stream.caught_up())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stream.status().handled_events, 40);
}

/// The calls of a whole batch end in the moment in which the pause comes.
#[tokio::test]
async fn d9_what_ends_as_a_pause_comes_is_stored_with_it_and_holds_up_nothing_after_it() {
    let store = Store::in_memory().unwrap();
    for _ in 0..3 {
        let batch = ["a", "b"].map(|key| NewEvent::new(key, 1));
        store.append(batch).await.unwrap();
    }
    let (begun, let_go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = HandleStream::new({
        let (begun, let_go) = (Arc::clone(&begun), Arc::clone(&let_go));
        move |_| {
            let (begun, let_go) = (Arc::clone(&begun), Arc::clone(&let_go));
            async move {
                begun.add_permits(1);
                let_go.acquire().await.unwrap().forget();
                Ok::<_, io::Error>(())
            }
        }
    });
    let durable = DurableStream::new("ledger")
        .partition_by(2, |event| Some(event.event_type().to_owned()))
        .lookahead(1);
    let stream = store.stream_all_durable(&durable, handler).await.unwrap();
    begun.acquire_many(2).await.unwrap().forget();
    let_go.add_permits(2);
    let control = store.stream("ledger").await.unwrap();
    // This thread, which is the runtime's only one, waits until the stream was told: it hears of both at once.
    std::thread::scope(|scope| {
        let paused = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(control.pause("the test"))
        });
        paused.join().unwrap().unwrap();
    });
    let is_paused = || matches!(stream.status().state, StreamState::Paused { .. });
    tokio::time::timeout(PATIENCE, async {
        while !is_paused() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the stream heeds the pause");
    assert_eq!((stream.status().position, stream.status().cursor), (2, Some(2)));
    let_go.add_permits(4);
    control.resume().await.unwrap();
    tokio::time::timeout(PATIENCE, stream.caught_up())
        .await
        .expect("the stream goes on")
        .unwrap();
    assert_eq!(stream.status().handled_events, 6);
}

//! Slow, failing and dead handlers: what they must not stop, and where they are seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use millstream::internals::{Sabotage, with_broken_log};
use millstream::{CloseError, DurableStream, EventBatch, HandleStream, Retry, StopCause, Store, StreamState};
use tokio::sync::Semaphore;

use crate::common::{Recorder, append, events, eventually, in_time, takes_all};
use crate::{PanicsOnDrop, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_when_a_handlers_future_is_dropped_is_a_failed_call() {
    let store = Store::in_memory().unwrap();
    let handler = HandleStream::new(|_| async {
        let _guard = PanicsOnDrop;
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(())
    });
    let retry = Retry::default()
        .attempts_max(2)
        .delay_min(Duration::from_millis(1));
    let stream = store.stream_all(handler.retry(retry)).await.unwrap();
    append(&store, "a", 1).await;
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::HandlerFailed {
        attempts: 2, error, ..
    } = &cause
    else {
        panic!("expected a failed handler: {cause:?}");
    };
    assert!(
        error.contains("panicked") && error.contains("in the drop"),
        "{error}"
    );
    assert_eq!(stream.status().position, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_returns_is_seen_and_does_not_hold_up_the_end() {
    let place = Place::new();
    let builder = Store::builder().drain_limit(Duration::from_millis(50));
    let store = place.open_with(builder);
    let handler = HandleStream::new(|_| std::future::pending::<Result<(), std::io::Error>>());
    let stream = store
        .stream_all_durable(&DurableStream::new("stuck"), handler)
        .await
        .unwrap();
    append(&store, "a", 1).await;
    let is_seen = || stream.status().call_running_for > Some(Duration::from_millis(20));
    eventually("the call is seen to run", is_seen).await;
    assert_eq!((stream.status().lag, stream.status().handled_batches), (1, 0));
    let Err(CloseError::DrainLimit { streams, .. }) = in_time("the store closes", store.close()).await else {
        panic!("expected the stream to be named");
    };
    assert_eq!(streams, ["stuck"]);
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::Closed), "{cause:?}");
    let store = place.open();
    let recorder = Recorder::new();
    let name = DurableStream::new("stuck");
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [1], "what was cancelled is delivered again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_when_a_cancelled_call_is_dropped_does_not_hold_up_the_end() {
    let store = Store::builder()
        .drain_limit(Duration::from_millis(20))
        .in_memory()
        .unwrap();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (recorder, gate) = (recorder.clone(), Arc::clone(&gate));
        HandleStream::new(move |batch: EventBatch| {
            recorder.write(&batch);
            let gate = Arc::clone(&gate);
            async move {
                let _guard = PanicsOnDrop;
                gate.acquire().await.unwrap().forget();
                Ok::<_, std::io::Error>(())
            }
        })
    };
    let stream = store.stream_all(handler).await.unwrap();
    append(&store, "a", 1).await;
    recorder.batches(1).await;
    assert!(in_time("the store closes", store.close()).await.is_err());
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(stream.status().state, StreamState::Stopped(_)),
        "{cause:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_streams_own_loop_is_seen() {
    let builder = Store::builder().window_bytes(0);
    let store = with_broken_log(builder, Sabotage::Reorders).in_memory().unwrap();
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    let stream = store
        .stream_all_durable(&DurableStream::new("broken"), takes_all())
        .await
        .unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(matches!(cause, StopCause::LoopPanicked), "{cause:?}");
    assert!(store.settled().await.unwrap_err().to_string().contains("broken"));
    append(&store, "a", 1).await;
    assert_eq!(store.streams_here().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_always_fails_is_called_ten_times_and_no_more() {
    let store = Store::in_memory().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = HandleStream::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err("always") }
    });
    let stream = store.stream_all(handler).await.unwrap();
    store.append_blocking(events("a", 1)).unwrap();
    let begun = tokio::time::Instant::now();
    let cause = stream.stopped().await;
    assert!(
        matches!(cause, StopCause::HandlerFailed { attempts: 10, .. }),
        "{cause:?}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 10);
    assert!(
        begun.elapsed() > Duration::from_secs(20),
        "the pauses grow: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_ended_while_it_waits_for_a_retry_ends_at_once() {
    let store = Store::in_memory().unwrap();
    let an_hour = Duration::from_secs(3_600);
    let patient = Retry::default()
        .delay_min(an_hour)
        .delay_max(an_hour)
        .elapsed_max(an_hour * 24);
    let handler = HandleStream::new(|_| async { Err("no") }).retry(patient);
    let stream = store
        .stream_all_durable(&DurableStream::new("patient"), handler)
        .await
        .unwrap();
    append(&store, "a", 1).await;
    let is_retrying = || matches!(stream.status().state, StreamState::Retrying { attempt: 1, .. });
    eventually("the stream waits for its second attempt", is_retrying).await;
    stream.unsubscribe();
    in_time("the stream stops", stream.stopped()).await;
    assert_eq!(stream.status().cursor, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_appends_wait_and_loses_none() {
    let store = Store::builder()
        .queue_requests(1)
        .queue_bytes(1)
        .in_memory()
        .unwrap();
    let recorder = Recorder::new();
    let stream = store.stream_all(recorder.handler()).await.unwrap();
    let appended = join_all((0..200).map(|_| store.append(events("a", 2)))).await;
    assert!(appended.iter().all(Result::is_ok));
    stream.caught_up().await.unwrap();
    assert!(recorder.sequences().into_iter().eq(1..=400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_may_append_to_its_own_store() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let recorder = Recorder::new();
        let handler = {
            let (store, recorder) = (store.clone(), recorder.clone());
            HandleStream::new(move |batch: EventBatch| {
                let (store, recorder) = (store.clone(), recorder.clone());
                async move {
                    recorder.write(&batch);
                    if batch.last_sequence() < 50 {
                        store.append(events("echo", 1)).await?;
                    }
                    Ok::<_, millstream::AppendError>(())
                }
            })
        };
        let stream = store.stream_all(handler).await.unwrap();
        append(&store, "a", 1).await;
        in_time("the echoes end", store.settled()).await.unwrap();
        assert!(recorder.sequences().into_iter().eq(1..=50));
        drop(stream);
        in_time("the store closes", store.close()).await.unwrap();
    }
}

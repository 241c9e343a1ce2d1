//! Runtimes: there may be none, one thread, or one that is shut down under the streams.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use millstream::{
    DurableStream, EventQuery, HandleStream, Retry, StopCause, Store, StreamError, StreamState,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::Place;
use crate::common::{Recorder, append, events, in_time, log, takes_all};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn everything_but_streams_works_without_a_runtime() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let everything = EventQuery::all();
        assert_eq!(store.append_blocking(events("a", 2)).unwrap().last_sequence, 2);
        let found = store.query_blocking(&everything).unwrap();
        assert_eq!((found.events.len(), found.context_version, found.head), (2, 2, 2));
        store.append_if_blocking(events("a", 1), &everything, 2).unwrap();
        assert!(store.append_if_blocking(events("a", 1), &everything, 2).is_err());
        assert_eq!(block_on(log(&store, &everything)).len(), 2);
        assert_eq!(block_on(store.query(&everything)).unwrap().head, 3);
        for outcome in [
            block_on(store.stream_all(takes_all())),
            block_on(store.stream_all_durable(&DurableStream::new("nowhere"), takes_all())),
        ] {
            assert!(matches!(outcome, Err(StreamError::NoRuntime)), "{outcome:?}");
        }
        // The name is free for who has a runtime.
        one_thread().block_on(async {
            let name = DurableStream::new("nowhere");
            let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
            in_time("the head is reached", stream.caught_up()).await.unwrap();
        });
    }
}

#[test]
fn one_thread_is_enough_for_a_runtime() {
    let place = Place::new();
    one_thread().block_on(async {
        let store = place.open_with(Store::builder().window_bytes(500).page_batches(2));
        let recorders = [Recorder::new(), Recorder::new()];
        for _ in 0..20 {
            append(&store, "a", 2).await;
        }
        let name = DurableStream::new("durable");
        let _durable = store
            .stream_all_durable(&name, recorders[0].handler())
            .await
            .unwrap();
        let _live = store.stream_all(recorders[1].handler()).await.unwrap();
        for _ in 0..20 {
            append(&store, "a", 1).await;
        }
        in_time("all streams are settled", store.settled()).await.unwrap();
        assert!(recorders[0].sequences().into_iter().eq(1..=60));
        assert!(recorders[1].sequences().into_iter().eq(41..=60));
        in_time("the store closes", store.close()).await.unwrap();
    });
}

#[test]
fn a_runtime_that_is_shut_down_under_streams_at_work_is_seen() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let (short, long) = (two_threads(), one_thread());
        let gate = Arc::new(Semaphore::new(1));
        let recorder = Recorder::new();
        let name = DurableStream::new("cut off");
        let (waits, retries) = short.block_on(async {
            let waits = store
                .stream_all_durable(&name, recorder.gated(&gate))
                .await
                .unwrap();
            let an_hour = Duration::from_secs(3_600);
            let patient = Retry::default()
                .delay_min(an_hour)
                .delay_max(an_hour)
                .elapsed_max(an_hour * 9);
            let fails = HandleStream::new(|_| async { Err("no") }).retry(patient);
            let retries = store.stream_all(fails).await.unwrap();
            append(&store, "a", 1).await;
            append(&store, "a", 1).await;
            recorder.batches(1).await;
            crate::common::eventually("both are at work", || {
                waits.status().call_running_for.is_some() && retries.status().failures == 1
            })
            .await;
            (waits, retries)
        });
        drop(short);
        long.block_on(async {
            for stream in [waits, retries] {
                let cause = in_time("the stream stops", stream.stopped()).await;
                assert!(matches!(cause, StopCause::RuntimeShutDown), "{cause:?}");
            }
            append(&store, "a", 1).await;
            let again = Recorder::new();
            let stream = store.stream_all_durable(&name, again.handler()).await.unwrap();
            in_time("the head is reached", stream.caught_up()).await.unwrap();
            assert!(again.sequences().ends_with(&[2, 3]));
            in_time("the store closes", store.close()).await.unwrap();
        });
    }
}

#[test]
fn a_runtime_that_is_shut_down_under_streams_at_rest_is_seen_when_they_are_woken() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let (short, long) = (two_threads(), one_thread());
        let name = DurableStream::new("asleep");
        let streams = short.block_on(async {
            let streams = [
                store.stream_all_durable(&name, takes_all()).await.unwrap(),
                store.stream_all(takes_all()).await.unwrap(),
            ];
            append(&store, "a", 1).await;
            in_time("all streams are settled", store.settled()).await.unwrap();
            streams
        });
        drop(short);
        long.block_on(async {
            append(&store, "a", 1).await;
            for stream in &streams {
                let cause = in_time("the stream stops", stream.stopped()).await;
                assert!(matches!(cause, StopCause::RuntimeShutDown), "{cause:?}");
            }
            assert!(in_time("somebody says so", store.settled()).await.is_err());
            let again = Recorder::new();
            let stream = in_time(
                "the name is free",
                store.stream_all_durable(&name, again.handler()),
            )
            .await
            .unwrap();
            in_time("the head is reached", stream.caught_up()).await.unwrap();
            assert_eq!(again.sequences().last(), Some(&2));
            in_time("the store closes", store.close()).await.unwrap();
        });
    }
}

#[test]
fn a_stream_at_rest_on_a_runtime_that_is_gone_can_be_ended() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let (short, long) = (one_thread(), one_thread());
        let name = DurableStream::new("asleep");
        let (ended, closed) = short.block_on(async {
            let ended = store.stream_all_durable(&name, takes_all()).await.unwrap();
            let closed = store.stream_all(takes_all()).await.unwrap();
            append(&store, "a", 1).await;
            in_time("all streams are settled", store.settled()).await.unwrap();
            (ended, closed)
        });
        drop(short);
        long.block_on(async {
            ended.unsubscribe();
            in_time("the stream stops", ended.stopped()).await;
            assert!(matches!(ended.status().state, StreamState::Stopped(_)));
            let again = in_time("the name is free", store.stream_all_durable(&name, takes_all()))
                .await
                .unwrap();
            in_time("the head is reached", again.caught_up()).await.unwrap();
            in_time("the store closes", store.close()).await.unwrap();
            in_time("the other stream stops", closed.stopped()).await;
        });
    }
}

#[test]
fn what_outlives_its_runtime_is_dropped_without_harm() {
    let place = Place::new();
    for store in [place.open(), Store::in_memory().unwrap()] {
        let runtime = two_threads();
        let stream = runtime.block_on(async {
            let stream = store
                .stream_all_durable(&DurableStream::new("late"), takes_all())
                .await
                .unwrap();
            append(&store, "a", 1).await;
            stream
        });
        runtime.shutdown_background();
        store.append_blocking(events("a", 1)).unwrap();
        drop(store);
        drop(stream);
    }
}

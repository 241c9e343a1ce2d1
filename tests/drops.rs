//! Handles are dropped in every order, and then no thread of the store is left.
//!
//! The threads are those of the whole process, which is why this is one test in a process of its own.

#![cfg(target_os = "linux")]

mod common;

use std::any::Any;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use millstream::{DurableStream, EventBatch, EventQuery, HandleStream, Store};
use tokio::runtime::{Builder, Runtime};

use crate::common::{Recorder, append, eventually, in_time, takes_all};

/// How many threads of stores there are in this process.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "millstream").count()
}

/// A thread that was joined is listed by the kernel for a moment longer.
fn no_thread_is_left(when: &str) {
    let started = Instant::now();
    while threads() > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(25),
            "a thread is left, {when}"
        );
        std::thread::yield_now();
    }
}

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

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let longer = |order: &Vec<usize>| {
        let order = order.clone();
        (0..count).map(move |place| {
            let mut order = order.clone();
            order.insert(place, count - 1);
            order
        })
    };
    shorter.iter().flat_map(longer).collect()
}

fn open(folder: &Path, number: usize) -> Store {
    if number.is_multiple_of(2) {
        Store::in_memory().unwrap()
    } else {
        Store::open(folder.join(format!("{number}.db"))).unwrap()
    }
}

/// Everything that a program can hold of a store.
async fn handles(store: Store) -> Vec<Box<dyn Any>> {
    append(&store, "a", 2).await;
    let live = store.stream_all(takes_all()).await.unwrap();
    let durable = store
        .stream_all_durable(&DurableStream::new("durable"), takes_all())
        .await
        .unwrap();
    let detached = store.stream_all(takes_all()).await.unwrap();
    let watch = detached.watch();
    detached.detach();
    let mut follower = store.follow(&EventQuery::all());
    follower.next().await.unwrap().unwrap();
    append(&store, "a", 1).await;
    let other = store.clone();
    vec![
        Box::new(store),
        Box::new(live),
        Box::new(durable),
        Box::new(follower),
        Box::new((other, watch)),
    ]
}

#[test]
fn no_thread_is_left_whatever_is_dropped_first() {
    assert_eq!(threads(), 0);
    let folder = tempfile::tempdir().unwrap();
    for (number, order) in orders(5).into_iter().enumerate() {
        let runtime = if number % 3 == 0 {
            one_thread()
        } else {
            two_threads()
        };
        runtime.block_on(async {
            let mut handles: Vec<_> = handles(open(folder.path(), number))
                .await
                .into_iter()
                .map(Some)
                .collect();
            assert_eq!(threads(), 1);
            for index in &order {
                drop(handles[*index].take());
            }
            no_thread_is_left(&format!("dropped in the order {order:?}"));
        });
    }
    the_runtime_goes_first(folder.path());
    a_handler_owns_its_store(folder.path());
    the_last_handle_is_dropped_in_a_handler(folder.path());
    closing_is_enough(folder.path());
}

fn the_runtime_goes_first(folder: &Path) {
    for number in 1_000..1_004 {
        let runtime = two_threads();
        let handles = runtime.block_on(handles(open(folder, number)));
        drop(runtime);
        assert_eq!(threads(), 1);
        drop(handles);
        no_thread_is_left("after the runtime");
    }
}

fn a_handler_owns_its_store(folder: &Path) {
    for number in 2_000..2_004 {
        one_thread().block_on(async {
            let store = open(folder, number);
            let (recorder, owned) = (Recorder::new(), store.clone());
            let handler = {
                let recorder = recorder.clone();
                HandleStream::new(move |batch: EventBatch| {
                    assert!(owned.head() > 0);
                    recorder.write(&batch);
                    async { Ok::<_, std::io::Error>(()) }
                })
            };
            let stream = store.stream_all(handler).await.unwrap();
            append(&store, "a", 1).await;
            recorder.batches(1).await;
            drop(store);
            assert_eq!(threads(), 1, "the handler keeps the store open");
            drop(stream);
            eventually("the store ends with the stream", || threads() == 0).await;
        });
    }
}

fn the_last_handle_is_dropped_in_a_handler(folder: &Path) {
    for number in 3_000..3_004 {
        two_threads().block_on(async {
            let store = open(folder, number);
            let last = tokio::sync::watch::Sender::new(None);
            let dropping = last.clone();
            let handler = HandleStream::new(move |_| {
                dropping.send_replace(None);
                async { Ok::<_, std::io::Error>(()) }
            });
            let stream = store.stream_all(handler).await.unwrap();
            last.send_replace(Some(store.clone()));
            append(&store, "a", 1).await;
            drop(store);
            eventually("the handler let go of the store", || last.borrow().is_none()).await;
            eventually("the store ends", || threads() == 0).await;
            in_time("the stream ends", stream.stopped()).await;
        });
    }
}

fn closing_is_enough(folder: &Path) {
    for number in 4_000..4_004 {
        two_threads().block_on(async {
            let store = open(folder, number);
            let handles = handles(store.clone()).await;
            in_time("the store closes", store.close()).await.unwrap();
            no_thread_is_left("after closing");
            in_time("closing twice does nothing", store.close())
                .await
                .unwrap();
            assert!(store.append(common::events("a", 1)).await.is_err());
            assert!(store.query(&EventQuery::all()).await.is_err());
            assert!(store.stream_all(takes_all()).await.is_err());
            drop(handles);
        });
    }
}

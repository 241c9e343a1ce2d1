//! S5: what a store holds in memory is bounded, however far its streams are behind.
//!
//! The memory is that of the whole process, which is why this is one test in a process of its own.

#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;

use futures::StreamExt;
use millstream::{Durability, DurableStream, EventQuery, NewEvent, Store};
use tokio::sync::Semaphore;

use crate::common::{Recorder, in_time};

/// Pages of the process that are in memory, in bytes.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    resident * 4096
}

const PAYLOAD_BYTES: usize = 64 << 10;
const EVENTS: usize = 1_000;
const STREAMS: usize = 12;

/// 62 MiB are appended before 12 streams that stand still. They get a window of 2 MiB, and the same for their pages.
const GROWTH_MAX: usize = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_streams_that_stand_still_hold_no_more_than_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Store::builder()
        .window_bytes(2 << 20)
        .durability(Durability::Relaxed);
    let store = builder.open(folder.path().join("log.db")).unwrap();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let name = DurableStream::new(format!("slow-{number}"));
        streams.push(
            store
                .stream_all_durable(&name, recorder.gated(&gate))
                .await
                .unwrap(),
        );
    }
    let mut standing = store.follow(&EventQuery::all());
    let payload = "x".repeat(PAYLOAD_BYTES);
    // What the first appends cost is there whatever follows.
    for _ in 0..10 {
        store.append([NewEvent::new("a", &payload)]).await.unwrap();
    }
    standing.next().await.unwrap().unwrap();
    let before = resident_bytes();
    let mut most = before;
    for _ in 10..EVENTS {
        store.append([NewEvent::new("a", &payload)]).await.unwrap();
        most = most.max(resident_bytes());
    }
    // Now all of them replay at once.
    gate.add_permits(STREAMS * EVENTS);
    let mut waiting = Box::pin(store.settled());
    while futures::poll!(waiting.as_mut()).is_pending() {
        most = most.max(resident_bytes());
        tokio::task::yield_now().await;
    }
    in_time("all streams are settled", store.settled()).await.unwrap();
    assert_eq!(recorder.deliveries().len(), STREAMS * EVENTS);
    let growth = most - before;
    assert!(growth < GROWTH_MAX, "the process grew by {} MiB", growth >> 20);
}

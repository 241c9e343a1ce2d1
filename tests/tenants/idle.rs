//! When a tenant is closed by itself, and what that costs its streams: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::{DurableStream, OpenedTenant, Tenants};

use crate::common::{Recorder, eventually, in_time};
use crate::{append, open, patiently, texts};

#[tokio::test]
async fn a_tenant_that_is_held_is_not_idle() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    let clone = acme.clone();
    drop(acme);
    assert_eq!(tenants.close_idle().await, 0);
    append(&clone, "one").await;
    drop(clone);
    assert_eq!(tenants.close_idle().await, 1);
    assert_eq!(tenants.close_idle().await, 0);
    assert_eq!(open(&tenants), [""; 0]);
}

#[tokio::test]
async fn an_idle_tenant_is_closed_after_a_while_and_opened_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder()
        .idle_after(Duration::from_millis(20))
        .open(folder.path())
        .unwrap();
    // Twice, because who looks for idle tenants ends with the last of them.
    for round in 1..=2 {
        let acme = tenants.tenant("acme").await.unwrap();
        append(&acme, "noted").await;
        assert_eq!(texts(&acme).await.len(), round);
        drop(acme);
        eventually("it is closed", || tenants.status().tenants.is_empty()).await;
    }
}

#[tokio::test]
async fn a_tenant_without_an_idle_time_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder()
        .idle_after(Duration::ZERO)
        .never_idle()
        .open_max(1)
        .open(folder.path())
        .unwrap();
    drop(tenants.tenant("acme").await.unwrap());
    assert_eq!(open(&tenants), ["acme"]);
    drop(tenants.tenant("globex").await.unwrap());
    assert_eq!(open(&tenants), ["globex"], "it makes room all the same");
}

#[tokio::test]
async fn a_tenant_whose_stream_retries_is_not_idle_until_it_has_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, fails) = (Recorder::new(), Arc::new(AtomicBool::new(true)));
    let (recorded, failing) = (recorder.clone(), Arc::clone(&fails));
    let tenants = Tenants::builder()
        .on_open(move |tenant: OpenedTenant| {
            let failing = Arc::clone(&failing);
            let handler = recorded.failing(move |_| failing.load(Ordering::Relaxed));
            async move {
                tenant
                    .stream_all_durable(&DurableStream::new("ledger"), handler)
                    .await
            }
        })
        .open_max(1)
        .wait_max(Duration::from_millis(300))
        .open(folder.path())
        .unwrap();
    let acme = patiently(&tenants, "acme").await;
    append(&acme, "one").await;
    drop(acme);
    assert_eq!(tenants.close_idle().await, 0, "its stream has work");
    let refused = tenants.tenant("globex").await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("0 tenants are held and 1 have streams at work, of 1"),
        "{text}"
    );
    fails.store(false, Ordering::Relaxed);
    recorder.batches(1).await;
    drop(patiently(&tenants, "globex").await);
    assert_eq!(open(&tenants), ["globex"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_streams_lose_nothing_by_closes_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::new();
    let recorded = recorder.clone();
    let tenants = Tenants::builder()
        .on_open(move |tenant: OpenedTenant| {
            let handler = recorded.handler();
            async move {
                tenant
                    .stream_all_durable(&DurableStream::new("ledger"), handler)
                    .await
            }
        })
        .open(folder.path())
        .unwrap();
    let closing = {
        let tenants = tenants.clone();
        tokio::spawn(async move {
            let mut closed = 0;
            while closed < 20 {
                closed += tenants.close_idle().await;
                tokio::task::yield_now().await;
            }
        })
    };
    let mut appended = 0;
    while !closing.is_finished() {
        let acme = in_time("it is open", tenants.tenant("acme")).await.unwrap();
        append(&acme, "noted").await;
        appended += 1;
        drop(acme);
        tokio::task::yield_now().await;
    }
    closing.await.unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    acme.settled().await.unwrap();
    // Each close was in order, so each cursor was stored: nothing is repeated either.
    assert_eq!(recorder.sequences(), (1..=appended).collect::<Vec<u64>>());
}

//! Many logs in one folder: who gets which, how many are open, and what a close in between may cost, which is nothing.

#![cfg(feature = "sqlite")]

mod files;
mod idle;
mod model;
mod read_models;
mod room;

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Recorder, in_time};
use futures::future::join_all;
use millstream::{
    AppendError, DurableStream, EventQuery, EventStream, NewEvent, OpenedTenant, Tenant, TenantError,
    TenantState, Tenants,
};
use tokio::sync::Semaphore;

/// Appends an event to a tenant.
async fn append(tenant: &Tenant, text: &str) {
    tenant
        .append([NewEvent::new("noted", text)])
        .await
        .expect("it is open");
}

/// Asks again as long as only time is short: some tests set a short one, and the machine may be busy.
async fn patiently(tenants: &Tenants, name: &str) -> Tenant {
    let asking = async {
        loop {
            match tenants.tenant(name).await {
                Err(TenantError::NotInTime { .. } | TenantError::AllInUse { .. }) => {}
                outcome => return outcome.expect("it is opened"),
            }
        }
    };
    in_time("a tenant is there", asking).await
}

/// All that a tenant's log has.
async fn texts(tenant: &Tenant) -> Vec<String> {
    let found = tenant.query(&EventQuery::all()).await.expect("it is open");
    let events = found.events.iter();
    events
        .map(|event| event.decode::<String>().expect("a text"))
        .collect()
}

/// The names of those that are open.
fn open(tenants: &Tenants) -> Vec<String> {
    let status = tenants.status();
    let is_open = |tenant: &millstream::TenantStatus| tenant.state == TenantState::Open;
    status
        .tenants
        .into_iter()
        .filter(is_open)
        .map(|tenant| tenant.name)
        .collect()
}

#[tokio::test]
async fn nothing_of_a_tenant_is_reached_through_another() {
    let folder = tempfile::tempdir().unwrap();
    let recorders: [Recorder; 2] = Default::default();
    let [for_acme, for_globex] = recorders.clone();
    let tenants = Tenants::builder()
        .on_open(move |tenant: OpenedTenant| {
            let recorder = if tenant.name() == "acme" {
                for_acme.clone()
            } else {
                for_globex.clone()
            };
            async move {
                tenant
                    .stream_all_durable(&DurableStream::new("ledger"), recorder.handler())
                    .await
            }
        })
        .open(folder.path())
        .unwrap();
    let (acme, globex) = (
        tenants.tenant("acme").await.unwrap(),
        tenants.tenant("globex").await.unwrap(),
    );
    append(&acme, "a secret").await;
    append(&globex, "one").await;
    append(&globex, "two").await;
    acme.settled().await.unwrap();
    globex.settled().await.unwrap();
    assert_eq!(texts(&acme).await, ["a secret"]);
    assert_eq!(texts(&globex).await, ["one", "two"]);
    assert_eq!(
        recorders.each_ref().map(Recorder::sequences),
        [vec![1], vec![1, 2]]
    );
    assert_ne!(acme.log_id(), globex.log_id());
    assert_ne!(acme.path(), globex.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_ask_at_once_one_opens() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let tenants = Tenants::builder()
        .on_open(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::io::Error>(()) }
        })
        .open(folder.path())
        .unwrap();
    let asked = (0..50).map(|number| {
        let tenants = tenants.clone();
        tokio::spawn(async move {
            let tenant = tenants.tenant("acme").await.unwrap();
            append(&tenant, &number.to_string()).await;
            tenant
        })
    });
    let held = in_time("all have it", join_all(asked)).await;
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    assert_eq!(tenants.status().tenants[0].handles, 50);
    assert_eq!(texts(held[0].as_ref().unwrap()).await.len(), 50);
}

#[tokio::test]
async fn all_who_wait_for_an_opening_that_fails_get_its_error_and_the_next_tries_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gated) = (Arc::clone(&calls), Arc::clone(&gate));
    let tenants = Tenants::builder()
        .on_open(move |tenant: OpenedTenant| {
            let (call, gate) = (counted.fetch_add(1, Ordering::Relaxed), Arc::clone(&gated));
            async move {
                gate.acquire().await?.forget();
                match call {
                    0 => Err(format!("no views for {}", tenant.name()).into()),
                    1 => panic!("the second call"),
                    _ => Ok::<_, millstream::BoxError>("attached"),
                }
            }
        })
        .open(folder.path())
        .unwrap();
    let ask = || {
        let tenants = tenants.clone();
        tokio::spawn(async move { tenants.tenant("acme").await })
    };
    let (one, other) = (ask(), ask());
    while calls.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    for asked in [one, other] {
        let error = in_time("it failed", asked).await.unwrap().unwrap_err();
        assert!(matches!(error, TenantError::Setup { .. }), "{error}");
        assert!(error.to_string().ends_with("no views for acme"), "{error}");
    }
    assert_eq!(open(&tenants), [""; 0]);
    gate.add_permits(1);
    let error = ask().await.unwrap().unwrap_err();
    assert!(
        matches!(error, TenantError::SetupPanicked { ref panic, .. } if &**panic == "the second call"),
        "{error}"
    );
    gate.add_permits(1);
    let acme = ask().await.unwrap().unwrap();
    assert_eq!(acme.attached::<&str>(), Some(&"attached"));
    assert_eq!(acme.attached::<EventStream>().map(|_| ()), None);
    append(&acme, "works").await;
}

#[tokio::test]
async fn an_ask_that_is_dropped_leaves_an_idle_tenant_and_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder().open_max(1).open(folder.path()).unwrap();
    {
        let mut asking = Box::pin(tenants.tenant("acme"));
        assert!(futures::poll!(&mut asking).is_pending());
    }
    // There is room for one, so this waits for the opening that goes on.
    let globex = in_time("there is room", tenants.tenant("globex")).await.unwrap();
    assert_eq!(tenants.list().await.unwrap(), ["acme", "globex"]);
    {
        let mut asking = Box::pin(tenants.tenant("acme"));
        assert!(futures::poll!(&mut asking).is_pending());
    }
    append(&globex, "still open").await;
    drop(globex);
    in_time("nobody waits in front", tenants.tenant("acme"))
        .await
        .unwrap()
        .settled()
        .await
        .unwrap();
}

#[tokio::test]
async fn closed_tenants_are_handed_out_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "kept").await;
    tenants.close().await.unwrap();
    tenants.close().await.unwrap();
    let appended = acme.append([NewEvent::new("noted", "lost")]).await;
    assert!(matches!(appended, Err(AppendError::Closed)));
    assert!(matches!(tenants.tenant("acme").await, Err(TenantError::Closed)));
    assert!(matches!(tenants.delete("acme").await, Err(TenantError::Closed)));
    drop(acme);
    let tenants = Tenants::open(folder.path()).unwrap();
    assert_eq!(texts(&tenants.tenant("acme").await.unwrap()).await, ["kept"]);
}

#[tokio::test]
async fn a_tenant_whose_store_was_closed_by_hand_is_opened_anew_when_nobody_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "one").await;
    acme.store().close().await.unwrap();
    assert!(matches!(
        tenants.tenant("acme").await,
        Err(TenantError::StoreClosed { .. })
    ));
    drop(acme);
    let acme = tenants.tenant("acme").await.unwrap();
    assert_eq!(texts(&acme).await, ["one"]);
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let asked = futures::executor::block_on(tenants.tenant("acme"));
    assert!(matches!(asked, Err(TenantError::NoRuntime)));
}

#[test]
fn a_runtime_that_is_shut_down_takes_no_tenant_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let hangs = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let says = Arc::clone(&hangs);
    let tenants = Tenants::builder()
        .on_open(move |_| {
            let hangs = says.load(Ordering::Relaxed);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::io::Error>(())
            }
        })
        .open(folder.path())
        .unwrap();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(async {
        let mut asking = Box::pin(tenants.tenant("acme"));
        assert!(futures::poll!(&mut asking).is_pending());
        while !folder.path().join("acme/log.db").exists() {
            tokio::task::yield_now().await;
        }
    });
    drop(first);
    hangs.store(false, Ordering::Relaxed);
    runtime().block_on(async {
        let acme = in_time("it is opened anew", tenants.tenant("acme"))
            .await
            .unwrap();
        append(&acme, "works").await;
    });
}

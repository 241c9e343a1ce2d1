//! How many tenants are open at once.

use std::time::Duration;

use futures::future::join_all;
use millstream::{TenantError, Tenants};

use crate::common::in_time;
use crate::{append, open, patiently, texts};

#[tokio::test]
async fn the_one_used_longest_ago_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder().open_max(2).open(folder.path()).unwrap();
    for name in ["a", "b", "a", "c"] {
        let tenant = in_time("there is room", tenants.tenant(name)).await.unwrap();
        append(&tenant, name).await;
    }
    assert_eq!(open(&tenants), ["a", "c"]);
    assert_eq!(texts(&tenants.tenant("b").await.unwrap()).await, ["b"]);
    assert_eq!(open(&tenants), ["b", "c"]);
}

#[tokio::test]
async fn who_finds_no_room_waits_for_it_or_is_told_how_many_are_held() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder()
        .open_max(2)
        .wait_max(Duration::from_millis(50))
        .open(folder.path())
        .unwrap();
    let held = [patiently(&tenants, "a").await, patiently(&tenants, "b").await];
    match tenants.tenant("c").await {
        Err(TenantError::AllInUse {
            name,
            open_max: 2,
            held: 2,
            working: 0,
            waited,
        }) => {
            assert_eq!((name.as_str(), waited), ("c", Duration::from_millis(50)));
        }
        other => panic!("{other:?}"),
    }
    // Who holds one already gets another handle of it.
    drop(tenants.tenant("a").await.unwrap());
    drop(held);
    let tenants = Tenants::builder()
        .open_max(2)
        .open(folder.path().join("patient"))
        .unwrap();
    let patient = [
        tenants.tenant("a").await.unwrap(),
        tenants.tenant("b").await.unwrap(),
    ];
    let mut waiting = Box::pin(tenants.tenant("c"));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(patient);
    in_time("there is room", waiting)
        .await
        .unwrap()
        .settled()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_want_room_get_it_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder()
        .open_max(3)
        .wait_max(Duration::from_secs(25))
        .open(folder.path())
        .unwrap();
    let tasks = (0..60).map(|number| {
        let tenants = tenants.clone();
        tokio::spawn(async move {
            let tenant = tenants.tenant(&format!("t{}", number % 12)).await?;
            append(&tenant, "noted").await;
            assert!(tenants.status().tenants.len() <= 3);
            Ok::<_, TenantError>(())
        })
    });
    for done in in_time("all had room", join_all(tasks)).await {
        done.unwrap().unwrap();
    }
    for number in 0..12 {
        let tenant = tenants.tenant(&format!("t{number}")).await.unwrap();
        assert_eq!(texts(&tenant).await.len(), 5);
    }
}

#[test]
fn options_that_make_no_sense_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(25 * 60 * 60);
    let builders = [
        ("open_max", Tenants::builder().open_max(0)),
        ("open_max", Tenants::builder().open_max(10_001)),
        ("idle_after", Tenants::builder().idle_after(long)),
        ("wait_max", Tenants::builder().wait_max(long)),
    ];
    for (name, builder) in builders {
        match builder.open(folder.path()) {
            Err(TenantError::InvalidOption { option, .. }) => assert_eq!(option, name),
            other => panic!("{other:?}"),
        }
    }
}

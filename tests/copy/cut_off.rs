//! Copies that do not come to their end, and targets that are refused.

use std::path::Path;
use std::sync::mpsc;

use millstream::{CopyError, OpenError, Store};
use rusqlite::Connection;

use crate::common::append;
use crate::place::{Place, dump, long};

async fn refused_as_partial(path: &Path) {
    match Store::open(path) {
        Err(OpenError::PartialCopy { path: named, log_id }) => {
            assert_eq!((named.as_path(), log_id.len()), (path, 32));
        }
        other => panic!("{other:?}"),
    }
}

/// Copies until so many pages are there, and drops the copy then.
async fn cut_off(store: &Store, target: &Path, pages: u64) {
    let (reached, on) = (tokio::sync::oneshot::channel(), mpsc::channel::<()>());
    let (mut tell, mut seen) = (Some(reached.0), 0);
    let (go, wait) = on;
    {
        let copy = store.copy_with_progress(target, move |_| {
            seen += 1;
            if seen == pages {
                // The test may have failed meanwhile.
                let _ = tell.take().map(|tell| tell.send(()));
                let _ = wait.recv();
            }
        });
        tokio::select! {
            outcome = copy => panic!("it ended: {outcome:?}"),
            at = reached.1 => at.unwrap(),
        }
    }
    // The copy is dropped, and hears of it when it goes on.
    drop(go);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_cut_off_is_no_log_and_goes_on_where_it_was() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    let mut after = 0;
    // While events go over, and while both sides are compared.
    for pages in [1, 1, 3] {
        cut_off(&store, &place.target(), pages).await;
        refused_as_partial(&place.target()).await;
        let file = Connection::open(place.target()).unwrap();
        let head: i64 = file
            .query_row("SELECT max(sequence) FROM event", [], |row| row.get(0))
            .unwrap();
        assert!(head > after, "{head} after {after}");
        after = head;
    }
    append(&store, "later", 2).await;
    let copied = store.copy_to(place.target()).await.unwrap();
    assert_eq!(
        (copied.head, copied.resumed_after),
        (store.head(), Some(after as u64))
    );
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    assert_eq!(source, target);
    let at_once = store.copy_to(place.path("at-once.db")).await.unwrap();
    assert_eq!(at_once.checksum, copied.checksum);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_only_for_its_own_source() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    cut_off(&store, &place.target(), 1).await;
    let other = Store::in_memory().unwrap();
    append(&other, "a", 1).await;
    match other.copy_to(place.target()).await {
        Err(CopyError::TargetIsOfAnother { found, source_id, .. }) => {
            assert_eq!((&*found, &*source_id), (store.log_id(), other.log_id()));
        }
        other => panic!("{other:?}"),
    }
    store.copy_to(place.target()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_what_the_source_is_does_not_become_a_log() {
    for damage in [
        "DELETE FROM event WHERE sequence = 7",
        "DROP TRIGGER event_is_immutable; UPDATE event SET payload = '9' WHERE sequence = 7",
        "DROP TRIGGER event_is_immutable; UPDATE event SET recorded_at = recorded_at - 1 WHERE sequence = 1",
        "DELETE FROM idempotency_key WHERE first_sequence = 1",
        "UPDATE idempotency_key SET key = 'x' WHERE first_sequence = 1",
    ] {
        let place = Place::new();
        let store = long(&place, 1_200).await;
        cut_off(&store, &place.target(), 1).await;
        Connection::open(place.target())
            .unwrap()
            .execute_batch(damage)
            .unwrap();
        for _ in 0..2 {
            let refused = store.copy_to(place.target()).await;
            assert!(
                matches!(refused, Err(CopyError::Differs { .. })),
                "{damage}: {refused:?}"
            );
            refused_as_partial(&place.target()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_copies_to_one_target_one_goes_on() {
    let place = Place::new();
    let store = long(&place, 6_000).await;
    let both =
        futures::future::join_all([store.copy_to(place.target()), store.copy_to(place.target())]).await;
    let (whole, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    assert_eq!(whole.len(), 1, "{refused:?}");
    let is_told = matches!(
        refused[0],
        Err(CopyError::TargetInUse { .. } | CopyError::TargetIsALog { .. })
    );
    assert!(is_told, "{refused:?}");
    assert!(
        Store::open(place.target())
            .unwrap()
            .verify()
            .await
            .unwrap()
            .is_sound()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_is_at_the_target_is_refused_and_left_untouched() {
    let place = Place::new();
    let store = place.source();
    append(&store, "a", 5).await;
    let other = Store::open(place.path("other.db")).unwrap();
    append(&other, "b", 1).await;
    other.close().await.unwrap();
    std::fs::write(place.path("text.db"), "x".repeat(5_000)).unwrap();
    let foreign = Connection::open(place.path("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE other (a)").unwrap();
    drop(foreign);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::copy(fixtures.join("format-5.sqlite"), place.path("older.db")).unwrap();
    let copied = store.copy_to(place.path("copied.db")).await.unwrap();
    for (name, expected) in [
        ("other.db", "choose another target"),
        ("older.db", "choose another target"),
        ("copied.db", "a copy of it that is whole"),
        ("text.db", "not an SQLite database"),
        ("foreign.db", "another SQLite database"),
    ] {
        let before = std::fs::read(place.path(name)).unwrap();
        let refused = store.copy_to(place.path(name)).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{name}: {refused}");
        assert_eq!(std::fs::read(place.path(name)).unwrap(), before, "{name}");
    }
    match store.copy_to(place.path("source.db")).await {
        Err(CopyError::TargetIsALog {
            log_id, is_of_source, ..
        }) => {
            assert_eq!((log_id, is_of_source), (copied.log_id, true));
        }
        other => panic!("{other:?}"),
    }
    let missing = store.copy_to(place.path("no/such/folder.db")).await;
    assert!(matches!(missing, Err(CopyError::Open(_))), "{missing:?}");
    let server = store.copy_to("mysql://anna:secret@host/shop").await;
    match server {
        Err(CopyError::Open(OpenError::UnknownScheme { location, scheme })) => {
            assert_eq!((&*location, &*scheme), ("mysql://anna@host/shop", "mysql"));
        }
        other => panic!("{other:?}"),
    }
}

//! What an operator asks of a whole log, on the log in memory and on the one in a file.

#[path = "common/mod.rs"]
mod common;

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use millstream::{BackupError, EventBatch, EventQuery, EventReader, NewEvent, OpenError, Store, VerifyError};
use rusqlite::Connection;
use tempfile::TempDir;

use common::{append, eventually, in_time};

/// A log in memory, and one in a file.
fn both() -> (TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let stores = [
        Store::in_memory().unwrap(),
        Store::open(folder.path().join("log.db")).unwrap(),
    ];
    (folder, stores)
}

/// The batches that a reader gives, each of which has all its events after a sequence.
async fn ranges(reader: EventReader, after: u64) -> Vec<(u64, u64)> {
    let batches: Vec<EventBatch> = reader.try_collect().await.unwrap();
    for batch in &batches {
        let first = batch.first_sequence().max(after + 1);
        let sequences: Vec<u64> = batch.iter().map(|event| event.sequence()).collect();
        assert_eq!(sequences, (first..=batch.last_sequence()).collect::<Vec<_>>());
    }
    batches
        .iter()
        .map(|batch| (batch.first_sequence(), batch.last_sequence()))
        .collect()
}

#[tokio::test]
async fn both_logs_count_alike() {
    let (_folder, stores) = both();
    for store in stores {
        assert_eq!(store.statistics().await.unwrap().events, 0);
        append(&store, "often", 5).await;
        append(&store, "rare", 1).await;
        let _ = store.prune(4).await.unwrap();
        let all = store.statistics().await.unwrap();
        assert_eq!(
            (all.events, all.head, all.pruned_through),
            (6, 6, 0),
            "no batch is cut"
        );
        let _ = store.prune(6).await.unwrap();
        let left = store.statistics().await.unwrap();
        assert_eq!((left.events, left.head, left.pruned_through), (1, 6, 5));
        assert_eq!(left.types.len(), 1, "what is gone is not listed");
        assert_eq!(left.days.iter().map(|day| day.events).sum::<u64>(), 1);
        assert_eq!(left.first_recorded_at, left.last_recorded_at);
        assert!(left.bytes > 0);
        store.close().await.unwrap();
        assert!(store.statistics().await.is_err());
    }
}

#[tokio::test]
async fn events_are_counted_by_the_day_also_where_some_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let file = Connection::open(folder.path().join("log.db")).unwrap();
    // Days 0, 0, 1, 3, 3, 3.
    for (sequence, day) in [(1, 0), (2, 0), (3, 1), (4, 3), (5, 3), (6, 3_i64)] {
        file.execute_batch("INSERT OR IGNORE INTO event_type (id, name) VALUES (1, 'dated')")
            .unwrap();
        let written = file.execute(
            "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, payload) VALUES (?1, 0, 1, ?2, 1, '1')",
            [sequence, day * 86_400_000_000 + sequence],
        );
        assert_eq!(written.unwrap(), 1);
    }
    let counted = async || -> Vec<(u64, u64)> {
        let days = store.statistics().await.unwrap().days;
        let day = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
        days.iter()
            .map(|counted| (day(counted.start), counted.events))
            .collect()
    };
    assert_eq!(counted().await, [(0, 2), (1, 1), (3, 3)]);
    file.execute_batch("DELETE FROM event WHERE sequence = 5")
        .unwrap();
    assert_eq!(counted().await, [(0, 2), (1, 1), (3, 2)]);
}

#[tokio::test]
async fn a_time_is_found_between_batches_and_never_before_what_pruning_left() {
    let (_folder, stores) = both();
    for store in stores {
        let an_hour = Duration::from_secs(3600);
        assert_eq!(store.position_at(SystemTime::now()).await.unwrap(), 0);
        append(&store, "a", 2).await;
        append(&store, "a", 3).await;
        assert_eq!(store.position_at(SystemTime::now() - an_hour).await.unwrap(), 0);
        assert_eq!(store.position_at(SystemTime::now() + an_hour).await.unwrap(), 5);
        let events = store.query(&EventQuery::all()).await.unwrap().events;
        let second = events[2].recorded_at();
        let position = if events[1].recorded_at() == second { 0 } else { 2 };
        assert_eq!(store.position_at(second).await.unwrap(), position);
        let _ = store.prune(3).await.unwrap();
        assert_eq!(store.position_at(SystemTime::now() - an_hour).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_reader_ends_with_the_batch_it_was_told_to_whole() {
    let (_folder, stores) = both();
    for store in stores {
        for size in [1, 3, 2, 4] {
            append(&store, "a", size).await;
        }
        // An index serves the first query, which reads pages of its own as long as nobody read some to share.
        for query in [EventQuery::types(["a"]), EventQuery::all()] {
            for (through, expected) in [
                (0, &[][..]),
                (1, &[(1, 1)][..]),
                (2, &[(1, 1), (2, 4)]),
                (4, &[(1, 1), (2, 4)]),
                (5, &[(1, 1), (2, 4), (5, 6)]),
                (99, &[(1, 1), (2, 4), (5, 6), (7, 10)]),
            ] {
                let found = ranges(store.read(&query).through(through), 0).await;
                assert_eq!(found, expected, "through {through}");
            }
            let found = ranges(store.read(&query).after(2).through(5), 2).await;
            assert_eq!(found, [(2, 4), (5, 6)]);
        }
    }
}

#[tokio::test]
async fn a_follow_with_an_end_waits_for_it_and_ends() {
    let (_folder, stores) = both();
    for store in stores {
        append(&store, "a", 2).await;
        let following = tokio::spawn(ranges(store.follow(&EventQuery::all()).through(4), 0));
        append(&store, "a", 1).await;
        append(&store, "a", 2).await;
        append(&store, "a", 1).await;
        let found = in_time("the end", following).await.unwrap();
        assert_eq!(found, [(1, 2), (3, 3), (4, 5)]);
        // What lies behind the end is there already, and in the same page.
        let found = in_time("the end", ranges(store.follow(&EventQuery::all()).through(3), 0)).await;
        assert_eq!(found, [(1, 2), (3, 3)]);
    }
}

#[tokio::test]
async fn a_log_that_must_exist_is_not_made_of_an_empty_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.db");
    std::fs::write(&path, "").unwrap();
    let refused = Store::builder().must_exist().open(&path);
    assert!(
        matches!(refused, Err(OpenError::ForeignFile { .. })),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    Store::open(&path).unwrap().close().await.unwrap();
    Store::builder().must_exist().open(&path).unwrap();
}

#[tokio::test]
async fn a_log_in_memory_has_no_file_to_copy_or_verify() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let refused = store.backup_to(folder.path().join("copy.db")).await;
    assert!(matches!(refused, Err(BackupError::NotAFile)));
    assert!(matches!(store.verify().await, Err(VerifyError::NotAFile)));
}

#[tokio::test]
async fn a_backup_that_nobody_waits_for_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let text = "x".repeat(1000);
    for _ in 0..8 {
        let batch = (0..1000).map(|_| NewEvent::new("filled", &text));
        store.append(batch).await.unwrap();
    }
    let target = folder.path().join("copy.db");
    let (stepped, mut steps) = tokio::sync::mpsc::channel(1);
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let backup = store.backup_with_progress(&target, move |_| {
        if stepped.blocking_send(()).is_ok() {
            // Ends when the test has given the backup up.
            let _ = waits.recv();
        }
    });
    tokio::select! {
        done = backup => panic!("{done:?} before its first step was over"),
        step = steps.recv() => assert!(step.is_some()),
    }
    assert!(folder.path().join("copy.db.partial").exists());
    drop(go_on);
    eventually("the backup is given up", || {
        !folder.path().join("copy.db.partial").exists()
    })
    .await;
    assert!(!target.exists());
    // The name is free, and nothing stands in the way of the next one.
    let backed_up = store.backup_to(&target).await.unwrap();
    assert_eq!(backed_up.head, 8000);
    assert!(backed_up.bytes > 8_000_000);
    let copy = Store::builder().must_exist().open(&target).unwrap();
    assert_eq!((copy.head(), copy.log_id()), (8000, store.log_id()));
    assert!(copy.verify().await.unwrap().is_sound());
    let again = store.backup_to(&target).await;
    assert!(matches!(again, Err(BackupError::TargetExists { .. })));
}

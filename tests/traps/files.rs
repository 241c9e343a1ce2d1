//! SQLite files: what is refused, and what must not grow.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use millstream::{DurableStream, EventQuery, NewEvent, OpenError, Store};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

use crate::Place;
use crate::common::{Recorder, append};

fn refusal(path: &Path) -> OpenError {
    Store::open(path).expect_err("the file is refused")
}

#[tokio::test]
async fn a_file_that_is_no_log_is_refused_and_left_alone() {
    let place = Place::new();
    let folder = place.0.path();
    for (name, content) in [("short.db", b"hello".to_vec()), ("long.db", vec![7; 10_000])] {
        let path = folder.join(name);
        std::fs::write(&path, &content).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, OpenError::ForeignFile { .. }), "{error:?}");
        assert!(error.to_string().contains("not an SQLite database"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    let path = folder.join("shop.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE customer (id)")
        .unwrap();
    let error = refusal(&path);
    assert!(matches!(error, OpenError::ForeignFile { .. }), "{error:?}");
    assert!(error.to_string().contains("customer"), "{error}");
    let path = folder.join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA application_id=77; CREATE TABLE a (id)")
        .unwrap();
    let error = refusal(&path);
    assert!(matches!(error, OpenError::ForeignFile { .. }), "{error:?}");
    for path in ["shop.db", "other.db"] {
        let file = Connection::open(folder.join(path)).unwrap();
        let tables = file
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
        let journal = file
            .query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
            .unwrap();
        assert_eq!((tables, journal.as_str()), (1, "delete"));
    }
    for path in [folder.to_owned(), folder.join("no/such/folder.db")] {
        let error = refusal(&path);
        assert!(matches!(error, OpenError::Storage(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_log_of_a_newer_format_is_refused_and_left_alone() {
    let place = Place::new();
    let store = place.open();
    append(&store, "a", 1).await;
    store.close().await.unwrap();
    let format = |format: i64| {
        place
            .by_hand()
            .execute_batch(&format!("PRAGMA user_version={format}"))
            .unwrap()
    };
    let today = place
        .by_hand()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    format(99);
    let error = refusal(&place.path());
    assert!(
        matches!(error, OpenError::NewerFormat { found: 99, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("upgrade"), "{error}");
    format(today);
    assert_eq!(place.open().head(), 1);
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_by_name() {
    for (name, builder) in [
        ("page_batches", Store::builder().page_batches(0)),
        ("page_bytes", Store::builder().page_bytes(0)),
        ("readers", Store::builder().readers(0)),
        ("queue_requests", Store::builder().queue_requests(0)),
        ("queue_bytes", Store::builder().queue_bytes(usize::MAX)),
        (
            "poll_interval",
            Store::builder().poll_interval(std::time::Duration::ZERO),
        ),
    ] {
        let error = builder.in_memory().expect_err("the option is refused");
        assert!(
            matches!(&error, OpenError::InvalidOption { option, .. } if *option == name),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_replay_beside_appends_keeps_the_write_ahead_log_short() {
    let place = Place::new();
    let store = place.open_with(Store::builder().window_bytes(100_000).page_batches(4));
    let payload = "x".repeat(16_000);
    let batch = || [NewEvent::new("a", &payload), NewEvent::new("b", &payload)];
    for _ in 0..200 {
        store.append(batch()).await.unwrap();
    }
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let name = DurableStream::new("replay");
    let replay = store
        .stream_all_durable(&name, recorder.gated(&gate))
        .await
        .unwrap();
    let mut standing = store.read(&EventQuery::types(["a"]));
    standing.next().await.unwrap().unwrap();
    // 38 MB go through the write-ahead log while the replay and the reader are on their way.
    let log_bytes = || {
        std::fs::metadata(place.path().with_extension("db-wal"))
            .unwrap()
            .len()
    };
    let mut longest = 0;
    for round in 0..1_200 {
        store.append(batch()).await.unwrap();
        gate.add_permits(1);
        if round % 50 == 0 {
            standing.next().await.unwrap().unwrap();
        }
        longest = longest.max(log_bytes());
    }
    assert!(longest < 12 << 20, "the write-ahead log grew to {longest} bytes");
    gate.add_permits(10_000);
    replay.caught_up().await.unwrap();
    assert!(recorder.sequences().into_iter().eq(1..=2_800));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_overlap_without_a_gap_do_not_make_the_write_ahead_log_grow() {
    let place = Place::new();
    let store = place.open();
    let payload = "x".repeat(32_000);
    store.append([NewEvent::new("a", 0)]).await.unwrap();
    let (over, connections) = (
        Arc::new(AtomicBool::new(false)),
        [place.by_hand(), place.by_hand()],
    );
    let readers = std::thread::spawn({
        let over = Arc::clone(&over);
        let begin = |connection: &rusqlite::Connection| {
            let sql = "BEGIN; SELECT count(*) FROM cursor";
            connection.execute_batch(sql).unwrap();
        };
        move || {
            begin(&connections[0]);
            let mut turns = connections.iter().cycle();
            while !over.load(Ordering::Relaxed) {
                let leaving = turns.next().unwrap();
                begin(turns.clone().next().unwrap());
                leaving.execute_batch("COMMIT").unwrap();
            }
        }
    });
    let mut longest = 0;
    for _ in 0..1_200 {
        store.append([NewEvent::new("a", &payload)]).await.unwrap();
        let file = std::fs::metadata(place.path().with_extension("db-wal"));
        longest = longest.max(file.unwrap().len());
    }
    over.store(true, Ordering::Relaxed);
    readers.join().unwrap();
    assert!(longest < 12 << 20, "the write-ahead log grew to {longest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_append_to_one_file_keep_its_write_ahead_log_short() {
    let place = Place::new();
    let log_bytes = || {
        let file = std::fs::metadata(place.path().with_extension("db-wal"));
        file.unwrap().len()
    };
    let appends = async |store: Store| {
        let mut longest = 0;
        for number in 0..3_000 {
            store.append([NewEvent::new("counted", number)]).await.unwrap();
            longest = longest.max(log_bytes());
        }
        longest
    };
    let (one, other) = tokio::join!(appends(place.open()), appends(place.open()));
    let longest = one.max(other);
    assert!(longest < 3 << 20, "the write-ahead log grew to {longest} bytes");
}

/// Whoever appends all the time, and knows of somebody else who appends, has turns, by a lock on a file. Whoever stops gives its turn
/// back, though nothing wakes it.
#[tokio::test]
async fn a_turn_ends_when_nothing_is_appended_any_more() {
    let place = Place::new();
    let open = || place.open_with(Store::builder().poll_interval(Duration::from_secs(3_600)));
    let turn = place.0.path().join("log.db-turn");
    let is_taken = || match File::open(&turn) {
        Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    };
    let (here, elsewhere) = (open(), open());
    while !is_taken() {
        append(&elsewhere, "placed", 1).await;
        // So many that the index is kept up at once, and not when there is nothing else to do.
        append(&here, "placed", 150).await;
        for _ in 0..5 {
            append(&here, "placed", 1).await;
        }
    }
    let is_over = async {
        while is_taken() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), is_over).await;
    waited.expect("the turn ends");
    here.close().await.unwrap();
    elsewhere.close().await.unwrap();
    assert!(!turn.exists(), "who leaves tidies up");
}

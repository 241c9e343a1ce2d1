//! Files of every format that was ever released stay openable.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use millstream::{
    DeadLetterState, DurableStream, EventQuery, FailurePolicy, HandleStream, HandlerError, NewEvent, Retry,
    RetryLetters, RetryState, Store,
};
use serde_json::json;

/// Two batches of three events, the cursor of a durable stream behind the first of them, and a dead letter of another stream for
/// an event of the first, which was retried because somebody asked for it. The last event has a schema version of its own.
async fn write(path: &Path) {
    let store = Store::open(path).unwrap();
    let placed = NewEvent::new("order-placed", json!({"order": 7, "total": 1250}));
    let placed = placed
        .tags(["order:7", "grüße \"x\""])
        .correlation_id("checkout-19");
    store
        .append([placed, NewEvent::new("stock-reserved", json!({"sku": "KB-104"}))])
        .await
        .unwrap();
    let handle = HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handle)
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    stream.unsubscribe();
    stream.stopped().await;
    let by_tag = FailurePolicy::park_key(|event| event.tags().next().map(str::to_owned));
    let mailer = DurableStream::new("mailer").on_failure(by_tag);
    let handle = HandleStream::new(|_| async { Err(HandlerError::at(1, "no such address")) });
    let placed = EventQuery::types(["order-placed"]);
    let handle = handle.retry(Retry::never());
    let stream = store.stream_to_durable(&mailer, &placed, handle).await.unwrap();
    stream.caught_up().await.unwrap();
    let control = store.stream("mailer").await.unwrap();
    let asked = control.ask_for_retry(RetryLetters::All, "anna", Duration::from_secs(60));
    let ended = asked.await.unwrap().ended().await.unwrap();
    assert_eq!((ended.state, ended.failed), (RetryState::Ended, 1));
    stream.unsubscribe();
    stream.stopped().await;
    store
        .append([NewEvent::new("order-paid", json!(null))
            .tag("order:7")
            .schema_version(2)])
        .await
        .unwrap();
    store.close().await.unwrap();
}

/// What a format holds beyond those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Events,
    Letters,
    Retries,
    Versions,
}

async fn check(path: &Path, holds: Holds) {
    let store = Store::open(path).unwrap();
    let found: Vec<_> = store.dead_letters("mailer").list().try_collect().await.unwrap();
    assert_eq!(found.len(), usize::from(holds >= Holds::Letters));
    for letter in found {
        assert_eq!(
            (letter.first_sequence, letter.state),
            (1, DeadLetterState::Parked)
        );
        let attempts = 1 + u32::from(holds >= Holds::Retries);
        assert_eq!(
            (letter.key.as_deref(), letter.attempts),
            (Some("order:7"), attempts)
        );
        assert_eq!(letter.cause.as_deref(), Some("event 1: no such address"));
    }
    let batches: Vec<_> = store.read(&EventQuery::all()).try_collect().await.unwrap();
    let ranges: Vec<_> = batches
        .iter()
        .map(|batch| (batch.first_sequence(), batch.last_sequence()))
        .collect();
    assert_eq!(ranges, [(1, 2), (3, 3)]);
    let found = store.query(&EventQuery::tags(["order:7"])).await.unwrap();
    let types: Vec<_> = found.events.iter().map(|event| event.event_type()).collect();
    assert_eq!(types, ["order-placed", "order-paid"]);
    let versions: Vec<_> = found.events.iter().map(|event| event.schema_version()).collect();
    assert_eq!(versions, [1, 1 + u32::from(holds >= Holds::Versions)]);
    let paid = store.query(&EventQuery::types(["order-paid"])).await.unwrap();
    assert_eq!(paid.context_version, 3);
    let placed = &found.events[0];
    assert!(placed.has_tag("grüße \"x\""));
    assert_eq!(placed.payload().json().unwrap()["total"], 1250);
    assert_eq!(placed.metadata().unwrap().correlation_id(), Some("checkout-19"));
    let handle = HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handle)
        .await
        .unwrap();
    assert_eq!(stream.started_after(), 2);
    assert_eq!(
        store
            .append([NewEvent::new("order-paid", json!({})).schema_version(3)])
            .await
            .unwrap()
            .first_sequence,
        4
    );
    let paid = store.query(&EventQuery::types(["order-paid"])).await.unwrap();
    let sequences: Vec<_> = paid.events.iter().map(|event| event.sequence()).collect();
    assert_eq!(sequences, [3, 4]);
    store.close().await.unwrap();
    let log = rusqlite::Connection::open(path).unwrap();
    let version = "SELECT schema_version FROM events WHERE sequence = 4";
    assert_eq!(log.query_row(version, [], |row| row.get(0)), Ok(3));
    if holds >= Holds::Retries {
        let retry = "SELECT retry ->> '$.by', retry ->> '$.failed' FROM cursor WHERE name = 'mailer'";
        let found: (String, i64) = log
            .query_row(retry, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(found, ("anna".to_owned(), 1));
    }
}

/// The newest fixture is written anew when `MILLSTREAM_WRITE_FIXTURE` is set. Those of older formats never change.
#[tokio::test]
async fn files_of_all_formats_can_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    if std::env::var_os("MILLSTREAM_WRITE_FIXTURE").is_some() {
        write(&fixtures.join("format-6.sqlite")).await;
    }
    for (name, holds) in [
        ("format-1.sqlite", Holds::Events),
        ("format-2.sqlite", Holds::Events),
        ("format-3.sqlite", Holds::Letters),
        ("format-4.sqlite", Holds::Retries),
        ("format-5.sqlite", Holds::Versions),
        ("format-6.sqlite", Holds::Versions),
    ] {
        let path = folder.path().join(name);
        std::fs::copy(fixtures.join(name), &path).unwrap();
        check(&path, holds).await;
    }
}

#[tokio::test]
async fn a_file_of_today_holds_what_the_fixtures_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    write(&path).await;
    check(&path, Holds::Versions).await;
}

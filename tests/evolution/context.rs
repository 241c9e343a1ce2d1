//! What is read, folded and appended on a condition, by programs with upcasters; what is refused when a store is opened; and
//! what stands in the file.

use futures::TryStreamExt;
use millstream::{
    AppendError, EventBatch, EventQuery, EvolutionError, ExpectedContext, FoldError, InvalidEvent, NewEvent,
    OpenError, ReadError, Store, UpcastError,
};
use serde_json::{Value, json};

use crate::{placed, seen, today, written};

/// A log of each kind.
fn stores(folder: &tempfile::TempDir) -> [Store; 2] {
    [
        Store::in_memory().unwrap(),
        Store::open(folder.path().join("log.db")).unwrap(),
    ]
}

#[tokio::test]
async fn a_fold_is_the_context_of_the_append_that_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let account = EventQuery::tags(["account:3"]);
        let deposit = |amount: i64| NewEvent::new("deposited", amount).tag("account:3");
        let sum = |sum: i64, event: &millstream::EventRecord| sum + event.payload().decode::<i64>().unwrap();
        let empty = store.fold(&account, 5, sum).await.unwrap();
        assert_eq!(
            (empty.state, empty.events, empty.context_version, empty.head),
            (5, 0, 0, 0)
        );
        store
            .append([deposit(1), NewEvent::new("other", 7)])
            .await
            .unwrap();
        store
            .append([deposit(2), NewEvent::new("other", 7)])
            .await
            .unwrap();
        let folded = store.fold(&account, 0, sum).await.unwrap();
        assert_eq!(
            (folded.state, folded.events, folded.context_version, folded.head),
            (3, 2, 3, 4)
        );
        assert_eq!(store.fold_blocking(&account, 0, sum).unwrap(), folded);
        store
            .append_if([deposit(4)], &account, folded.context_version)
            .await
            .unwrap();
        let late = store
            .append_if([deposit(4)], &account, folded.context_version)
            .await;
        assert!(matches!(late, Err(AppendError::Conflict { .. })), "{late:?}");
        let pruned = store.prune(3).await.unwrap();
        assert_eq!(pruned.removed_events, 2);
        let left = store.fold(&account, 0, sum).await.unwrap();
        assert_eq!((left.state, left.pruned_through), (6, 2));
        store.close().await.unwrap();
        assert!(matches!(
            store.fold(&account, 0, sum).await,
            Err(ReadError::Closed)
        ));
    }
}

#[tokio::test]
async fn a_fold_goes_through_all_pages_and_ends_with_the_event_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        // More batches than one page takes.
        for _ in 0..50 {
            let batches = (0..100).map(|_| store.append([NewEvent::new("counted", 1)]));
            futures::future::try_join_all(batches).await.unwrap();
        }
        let all = EventQuery::all();
        let count = store.fold(&all, 0, |count, _| count + 1).await.unwrap();
        assert_eq!(
            (count.state, count.events, count.context_version),
            (5_000, 5_000, 5_000)
        );
        let refusing = |count: u64, _: &_| match count {
            4_500 => Err(std::io::Error::other("enough")),
            _ => Ok(count + 1),
        };
        for refused in [
            store.try_fold(&all, 0, refusing).await,
            store.try_fold_blocking(&all, 0, refusing),
        ] {
            let Err(FoldError::Refused { sequence: 4_501, .. }) = &refused else {
                panic!("{refused:?}");
            };
        }
    }
}

#[tokio::test]
async fn l3_a_condition_meets_events_as_they_are_today() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let [memory, file] = [today().in_memory().unwrap(), today().open(&path).unwrap()];
    for store in [memory, file] {
        store.append([placed(7)]).await.unwrap();
        let (old, new) = (
            EventQuery::types(["order-placed"]),
            EventQuery::types(["order-received"]),
        );
        let on = |query, expected: ExpectedContext| store.append_if([placed(8)], query, expected);
        let context = store.query(&new).await.unwrap();
        assert_eq!(context.context_version, 1);
        assert_eq!(store.query(&old).await.unwrap().context_version, 0);
        let conflict = on(&new, 0.into()).await;
        assert!(
            matches!(conflict, Err(AppendError::Conflict { .. })),
            "{conflict:?}"
        );
        on(&old, 0.into()).await.unwrap();
        let conflict = on(&new, 1.into()).await;
        assert!(
            matches!(conflict, Err(AppendError::Conflict { .. })),
            "{conflict:?}"
        );
        on(&new, 2.into()).await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_brought_up_is_named_to_whoever_reads_or_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let newer = NewEvent::new("order-received", json!({}))
        .schema_version(9)
        .tag("order:9");
    written(&path, [placed(1), newer, placed(2)]).await;
    let store = today().index_payload("/order").open(&path).unwrap();
    let all = EventQuery::all();
    let Err(ReadError::Undecodable(event)) = store.query(&all).await else {
        panic!("event 2 is newer than the program");
    };
    assert_eq!(
        (event.sequence(), event.event_type(), event.schema_version()),
        (2, "order-received", 9)
    );
    assert!(matches!(event.cause(), UpcastError::Newer { newest: 3, .. }));
    assert!(event.to_string().ends_with("upgrade the program"), "{event}");
    let mut reader = store.read(&all);
    let first: EventBatch = reader.try_next().await.unwrap().unwrap();
    assert_eq!(first.last_sequence(), 1);
    assert!(matches!(reader.try_next().await, Err(ReadError::Undecodable(_))));
    let rest: Vec<EventBatch> = store
        .read(&all)
        .after(event.sequence())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(rest[0].first_sequence(), 3);
    let by_tag = EventQuery::tags(["order:9"]);
    let decided = store.append_if([placed(9)], &by_tag, 0).await;
    let Err(AppendError::Undecodable(event)) = decided else {
        panic!("what event 2 means is not known: {decided:?}");
    };
    assert_eq!(event.sequence(), 2);
    let decided = store.append_if([placed(9)], &by_tag, 2).await;
    assert!(matches!(decided, Err(AppendError::Undecodable(_))), "{decided:?}");
    // Who does not select it is not concerned.
    let first = EventQuery::tags(["order:1"]);
    store.append_if([placed(1)], &first, 1).await.unwrap();
    let newer = NewEvent::new("order-received", 1).schema_version(4);
    let refused = store.append([placed(5), newer]).await;
    let Err(AppendError::InvalidEvent {
        index: 1,
        source: InvalidEvent::Undecodable(UpcastError::Newer { .. }),
    }) = refused
    else {
        panic!("nobody here could read it: {refused:?}");
    };
}

#[tokio::test]
async fn a_follow_meets_an_older_event_as_it_is_today_and_ends_at_one_that_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = today()
        .poll_interval(std::time::Duration::from_millis(5))
        .open(&path)
        .unwrap();
    let behind = Store::open(&path).unwrap();
    let mut follow = store.follow(&EventQuery::types(["order-received"])).after(0);
    behind.append([placed(1), placed(2)]).await.unwrap();
    let batch = crate::common::in_time("it comes", follow.try_next())
        .await
        .unwrap()
        .unwrap();
    let second = json!({"order": 2, "total": {"cents": 1200}, "open": true});
    assert_eq!(
        batch.iter().map(seen).nth(1),
        Some((2, "order-received".into(), 3, second))
    );
    behind.append([placed(3)]).await.unwrap();
    behind.append([placed(13)]).await.unwrap();
    let batch = crate::common::in_time("it comes", follow.try_next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(batch.last_sequence(), 3);
    let end = crate::common::in_time("it ends", follow.try_next()).await;
    assert!(matches!(end, Err(ReadError::Undecodable(_))), "{end:?}");
}

#[test]
fn upcasters_that_do_not_fit_together_open_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let same = |payload: Value| Ok::<_, std::convert::Infallible>(payload);
    let gap = Store::builder().upcast("a", 1, same).upcast("a", 3, same);
    let refused = gap.clone().open(&path).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::Evolution(EvolutionError::Gap { missing: 2, .. })
    ));
    assert!(
        refused.to_string().contains("register `upcast(\"a\", 2, ..)`"),
        "{refused}"
    );
    assert!(!path.exists());
    assert!(gap.in_memory().is_err());
    let circle = Store::builder().rename_type("a", "b").rename_type("b", "a");
    let refused = circle.in_memory().unwrap_err().to_string();
    assert!(refused.contains("a -> b -> a"), "{refused}");
}

#[tokio::test]
async fn the_file_holds_what_was_appended_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let received = |version| NewEvent::new("order-received", json!({"order": 2})).schema_version(version);
    let events = || [placed(1), received(3), placed(3), received(2)];
    let store = today().in_memory().unwrap();
    store.append(events()).await.unwrap();
    let in_memory = store.statistics().await.unwrap().types;
    let store = today().open(&path).unwrap();
    store.append(events()).await.unwrap();
    let statistics = store.statistics().await.unwrap();
    let counts: Vec<_> = statistics
        .types
        .iter()
        .map(|of| (&*of.event_type, of.events))
        .collect();
    assert_eq!(counts, [("order-placed", 2), ("order-received", 2)]);
    assert_eq!(statistics.types, in_memory);
    store.close().await.unwrap();
    let file = rusqlite::Connection::open(&path).unwrap();
    let mut rows = file
        .prepare("SELECT type, schema_version, payload ->> '$.total' FROM events")
        .unwrap();
    let rows = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    let rows: Vec<(String, u32, Option<u32>)> = rows.collect::<Result<_, _>>().unwrap();
    let expected = [
        ("order-placed", 1, Some(12)),
        ("order-received", 3, None),
        ("order-placed", 1, Some(12)),
        ("order-received", 2, None),
    ];
    let expected = expected.map(|(name, version, total)| (name.to_owned(), version, total));
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn l5_a_batch_that_its_upcasters_make_too_large_is_refused() {
    let large = |_: Value| Ok::<_, std::convert::Infallible>("x".repeat(2_000));
    let store = Store::builder()
        .upcast("a", 1, large)
        .limits(millstream::Limits::default().batch_bytes_max(20_000))
        .in_memory()
        .unwrap();
    store.append([NewEvent::new("a", 1)]).await.unwrap();
    let refused = store
        .append([
            NewEvent::new("a", 1),
            NewEvent::new("a", 1),
            NewEvent::new("a", 1),
        ])
        .await;
    let Err(AppendError::BatchTooLarge {
        index: 2,
        max: 20_000,
        ..
    }) = refused
    else {
        panic!("it is shown with more than the limit: {refused:?}");
    };
    assert_eq!(store.head(), 1);
}

#[tokio::test]
async fn the_index_holds_payloads_as_they_are_stored_whoever_appended_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let counted = |number: u64| NewEvent::new("counted", json!({ "n": number }));
    let next = |payload: Value| Ok::<_, String>(json!({"n": payload["n"].as_u64().map(|number| number + 1)}));
    let indexed = || millstream::internals::with_small_index(Store::builder()).index_payload("/n");
    let of = |number: u64| EventQuery::from(millstream::EventFilter::all().payload(json!({ "n": number })));
    let store = indexed().upcast("counted", 1, next).open(&path).unwrap();
    // So many that their entries leave the memory.
    for number in 0..200 {
        store.append([counted(number)]).await.unwrap();
    }
    assert_eq!(store.query(&of(7)).await.unwrap().context_version, 7);
    store.close().await.unwrap();
    let plain = indexed().open(&path).unwrap();
    assert_eq!(plain.query(&of(7)).await.unwrap().context_version, 8);
    assert!(plain.verify().await.unwrap().is_sound());
}

//! L1 to L5: what an append promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::json;

use crate::conformance::subject::{Subject, Tampering};
use crate::conformance::tools::{Recorder, append, events, log, sequences};
use crate::error::{AppendError, InvalidEvent};
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::query::{EventFilter, EventQuery};
use crate::fault::FaultPoint;
use crate::log::request::ExpectedContext;
use crate::store::Store;

pub async fn l1_an_append_is_one_consecutive_range(subject: &Subject) {
    let store = subject.open();
    let mut next = 1;
    for count in [1, 3, 2, 100] {
        let appended = store.append(events("a", count)).await.unwrap();
        assert_eq!(appended.first_sequence, next);
        assert_eq!(appended.last_sequence, next + count as u64 - 1);
        assert_eq!(appended.committed_count, count);
        next = appended.last_sequence + 1;
    }
    let batches = log(&store, &EventQuery::all()).await;
    let ranges: Vec<_> = batches.iter().map(|batch| (batch.first, batch.last)).collect();
    assert_eq!(ranges, [(1, 1), (2, 4), (5, 6), (7, 106)]);
    assert_eq!(sequences(&batches), (1..=106).collect::<Vec<_>>());
}

pub async fn l1_a_refused_append_leaves_no_trace_and_uses_no_sequence(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 2).await;
    let half_bad = [NewEvent::new("a", 1), NewEvent::new("", 2)];
    assert!(store.append(half_bad).await.is_err());
    let stale = store
        .append_if(events("a", 3), &EventQuery::types(["a"]), 1)
        .await;
    assert!(matches!(stale, Err(AppendError::Conflict { .. })), "{stale:?}");
    assert_eq!(store.head(), 2);
    assert_eq!(append(&store, "a", 1).await, (3, 3));
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [1, 2, 3]);
}

pub async fn l1_a_failed_commit_leaves_no_trace_and_uses_no_sequence(subject: &Subject) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&fails);
    let store = subject.open_faulty(
        |builder| builder,
        move |point| point == FaultPoint::BeforeCommit && hook.load(Ordering::SeqCst),
    );
    append(&store, "a", 2).await;
    fails.store(true, Ordering::SeqCst);
    let failed = join_all((0..3).map(|_| store.append(events("lost", 2)))).await;
    assert!(
        failed
            .iter()
            .all(|outcome| matches!(outcome, Err(AppendError::Storage(_))))
    );
    fails.store(false, Ordering::SeqCst);
    assert_eq!(store.head(), 2);
    assert_eq!(append(&store, "a", 1).await, (3, 3));
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [1, 2, 3]);
    assert!(log(&store, &EventQuery::types(["lost"])).await.is_empty());
}

pub async fn l2_an_append_is_readable_and_published_when_it_returns(subject: &Subject) {
    let store = subject.open();
    for _ in 0..20 {
        let (first, last) = append(&store, "a", 2).await;
        assert_eq!(store.head(), last);
        let found = store.query(&EventQuery::all()).await.unwrap();
        assert_eq!((found.head, found.last_returned_sequence), (last, Some(last)));
        assert_eq!(found.events.len() as u64, last);
        assert_eq!(
            sequences(&log(&store, &EventQuery::all()).await).last(),
            Some(&last)
        );
        let tail = crate::conformance::tools::read_all(store.read(&EventQuery::all()).after(first)).await;
        assert_eq!(sequences(&tail), [last]);
    }
}

pub async fn l3_an_append_is_refused_when_its_context_moved(subject: &Subject) {
    let store = subject.open();
    let account = EventQuery::tags(["account:3"]);
    let moved = |amount: i64| [NewEvent::new("moved", amount).tag("account:3")];
    assert_eq!(store.query(&account).await.unwrap().context_version, 0);
    store.append_if(moved(1), &account, 0).await.unwrap();
    append(&store, "other", 3).await;
    let context = store.query(&account).await.unwrap();
    assert_eq!((context.context_version, context.head), (1, 4));
    for wrong in [0, 2, 4, 5, 99] {
        let refused = store.append_if(moved(9), &account, wrong).await;
        assert!(
            matches!(refused, Err(AppendError::Conflict { .. })),
            "{wrong}: {refused:?}"
        );
    }
    assert_eq!(store.head(), 4);
    let appended = store
        .append_if(moved(2), &account, context.context_version)
        .await
        .unwrap();
    assert_eq!(appended.first_sequence, 5);
    let again = store.append_if(moved(3), &account, context.context_version).await;
    assert!(matches!(again, Err(AppendError::Conflict { .. })), "{again:?}");
    let by_payload = EventQuery::from(EventFilter::types(["moved"]).payload(json!(2)));
    store.append_if(moved(2), &by_payload, 5).await.unwrap();
    assert_eq!(store.head(), 6);
}

pub async fn l3_nothing_after_is_refused_when_something_matches(subject: &Subject) {
    let store = subject.open();
    let query = EventQuery::types(["a"]);
    let nothing_after = ExpectedContext::nothing_after;
    store
        .append_if(events("a", 1), &query, nothing_after(0))
        .await
        .unwrap();
    append(&store, "b", 2).await;
    let refused = store.append_if(events("a", 1), &query, nothing_after(0)).await;
    assert!(
        matches!(refused, Err(AppendError::Conflict { .. })),
        "{refused:?}"
    );
    for fine in [1, 2, 3] {
        let nobody = EventQuery::any([]);
        store
            .append_if(events("b", 1), &query, nothing_after(fine))
            .await
            .unwrap();
        store
            .append_if(events("b", 1), &nobody, nothing_after(0))
            .await
            .unwrap();
        store.append_if(events("b", 1), &nobody, 0).await.unwrap();
    }
    assert_eq!(store.head(), 12);
}

pub async fn l3_of_racing_appends_exactly_one_wins(subject: &Subject) {
    let store = subject.open();
    let seats = EventQuery::tags(["seat:1"]);
    for round in 0..20 {
        let version = store.query(&seats).await.unwrap().context_version;
        let racers = (0..8).map(|racer| {
            let (store, seats) = (store.clone(), seats.clone());
            tokio::spawn(async move {
                let events = [NewEvent::new("taken", racer).tag("seat:1")];
                match racer % 2 {
                    0 => store.append_if(events, &seats, version).await,
                    _ => {
                        let expected = ExpectedContext::nothing_after(version);
                        store.append_if(events, &seats, expected).await
                    }
                }
            })
        });
        let outcomes = join_all(racers).await;
        let won = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Ok(_))))
            .count();
        let lost = |outcome: &Result<_, AppendError>| matches!(outcome, Err(AppendError::Conflict { .. }));
        let lost = outcomes.iter().flatten().filter(|outcome| lost(outcome)).count();
        assert_eq!((won, lost), (1, 7), "round {round}");
    }
    assert_eq!(store.head(), 20);
}

pub async fn l4_what_was_read_once_is_read_again(subject: &Subject) {
    let store = subject.open();
    for count in [2, 1, 3] {
        append(&store, "a", count).await;
    }
    let facts = async |store: &Store| {
        let found = store.query(&EventQuery::all()).await.unwrap();
        let facts = found.events.iter().map(|event| {
            let tags: Vec<String> = event.tags().map(str::to_owned).collect();
            let payload = event.payload().as_str().to_owned();
            (
                event.sequence(),
                event.event_type().to_owned(),
                tags,
                payload,
                event.recorded_at(),
            )
        });
        facts.collect::<Vec<_>>()
    };
    let first = facts(&store).await;
    assert_eq!(first.len(), 6);
    assert!(first.is_sorted_by_key(|fact| fact.4), "time does not go back");
    append(&store, "b", 4).await;
    let store = subject.reopen(store).await;
    append(&store, "b", 4).await;
    let second = facts(&store).await;
    assert_eq!(second.len(), 14);
    assert_eq!(&second[..6], &first[..]);
}

pub async fn l4_what_was_delivered_is_what_was_appended(subject: &Subject) {
    let store = subject.open_with(|builder| builder.window_bytes(0));
    let written = [
        NewEvent::new("größe", json!({"n": 1.5, "text": "a\"b\\c\n\u{0}ü🙂"}))
            .tag("ü:\"1\"")
            .tag("a\\b"),
        NewEvent::raw("raw", " { \"a\" : [1, 1.0, 18446744073709551615] } ").metadata("key", [1, 2]),
        NewEvent::new("nothing", ())
            .correlation_id("c-1")
            .causation_id("e-7"),
    ];
    store.append(written).await.unwrap();
    for _ in 0..2 {
        let found = store.query(&EventQuery::all()).await.unwrap().events;
        let tags: Vec<&str> = found[0].tags().collect();
        assert_eq!((found[0].event_type(), tags), ("größe", vec!["ü:\"1\"", "a\\b"]));
        assert_eq!(found[0].payload().json().unwrap()["text"], "a\"b\\c\n\u{0}ü🙂");
        assert_eq!(found[1].payload().json().unwrap()["a"][2], u64::MAX);
        assert_eq!(found[1].metadata().unwrap().get("key"), Some(&json!([1, 2])));
        assert_eq!(found[2].payload().as_str(), "null");
        assert_eq!(found[2].metadata().unwrap().correlation_id(), Some("c-1"));
        assert_eq!(found[2].metadata().unwrap().causation_id(), Some("e-7"));
        assert_eq!(found[0].metadata().map(|data| data.as_str().to_owned()), None);
    }
    let tagged = store.query(&EventQuery::tags(["ü:\"1\"", "a\\b"])).await.unwrap();
    assert_eq!(tagged.context_version, 1);
}

pub async fn l4_sequences_of_removed_events_are_not_given_again(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 5).await;
    subject.tamper(Tampering::RemoveEventsAfter(3));
    assert_eq!(append(&store, "b", 1).await, (6, 6));
    subject.tamper(Tampering::RemoveEventsAfter(2));
    let store = subject.reopen(store).await;
    assert_eq!(store.head(), 6);
    let recorder = Recorder::new();
    let stream = store.stream_all(recorder.handler()).await.unwrap();
    assert_eq!(append(&store, "c", 2).await, (7, 8));
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences(), [7, 8]);
    subject.tamper(Tampering::RemoveEventsAfter(0));
    let store = subject.reopen(store).await;
    assert_eq!(append(&store, "d", 1).await, (9, 9));
    assert_eq!(sequences(&log(&store, &EventQuery::all()).await), [9]);
}

pub async fn l5_bad_input_is_refused_with_the_field_and_the_limit(subject: &Subject) {
    use InvalidEvent as Bad;
    let limits = Limits::default()
        .type_bytes_max(8)
        .tags_max(2)
        .tag_bytes_max(4)
        .payload_bytes_max(16)
        .metadata_bytes_max(24);
    let store = subject.open_with(|builder| builder.limits(limits));
    let event = || NewEvent::new("a", 1);
    let deep = "[".repeat(200) + &"]".repeat(200);
    type Check = fn(&InvalidEvent) -> bool;
    let cases: Vec<(NewEvent, Check, &str)> = vec![
        (
            NewEvent::new("", 1),
            |bad| matches!(bad, Bad::TypeEmpty),
            "event type is empty",
        ),
        (
            NewEvent::new("much-too-long", 1),
            |bad| matches!(bad, Bad::TypeTooLong { bytes: 13, max: 8 }),
            "at most 8",
        ),
        (
            NewEvent::new("a\nb", 1),
            |bad| {
                matches!(
                    bad,
                    Bad::ControlCharacter {
                        field: "event type",
                        ..
                    }
                )
            },
            "control character",
        ),
        (
            event().tag(""),
            |bad| matches!(bad, Bad::TagEmpty),
            "tag is empty",
        ),
        (
            event().tag("a\u{7f}"),
            |bad| matches!(bad, Bad::ControlCharacter { field: "tag", .. }),
            "control character",
        ),
        (
            event().tag("üüü"),
            |bad| matches!(bad, Bad::TagTooLong { bytes: 6, max: 4, .. }),
            "at most 4",
        ),
        (
            event().tags(["a", "b", "c"]),
            |bad| matches!(bad, Bad::TooManyTags { count: 3, max: 2 }),
            "at most 2",
        ),
        (
            NewEvent::new("a", "x".repeat(15)),
            |bad| matches!(bad, Bad::PayloadTooLarge { bytes: 17, max: 16 }),
            "at most 16",
        ),
        (
            event().metadata("key", "x".repeat(20)),
            |bad| matches!(bad, Bad::MetadataTooLarge { max: 24, .. }),
            "at most 24",
        ),
        (
            NewEvent::raw("a", "{"),
            |bad| matches!(bad, Bad::InvalidJson(_)),
            "not valid JSON",
        ),
        (
            NewEvent::raw("a", "1 2"),
            |bad| matches!(bad, Bad::InvalidJson(_)),
            "not valid JSON",
        ),
        (
            NewEvent::raw("a", ""),
            |bad| matches!(bad, Bad::InvalidJson(_)),
            "not valid JSON",
        ),
        (
            NewEvent::encode(&3),
            |bad| matches!(bad, Bad::NotAnEnum(_)),
            "enum",
        ),
        (NewEvent::raw("a", deep), |_| true, "at most"),
    ];
    for (bad, is_expected, text) in cases {
        let refused = store.append([event(), bad]).await.unwrap_err();
        let AppendError::InvalidEvent { index: 1, source } = &refused else {
            panic!("expected the second event to be refused: {refused:?}");
        };
        assert!(is_expected(source), "{source:?}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
    assert_eq!(store.head(), 0);
    assert_eq!(append(&store, "a", 1).await, (1, 1));
}

pub async fn l5_a_batch_over_a_limit_is_refused(subject: &Subject) {
    let limits = Limits::default().batch_events_max(3).batch_bytes_max(4_000);
    let store = subject.open_with(|builder| builder.limits(limits));
    let empty = store.append([]).await;
    assert!(matches!(empty, Err(AppendError::Empty)), "{empty:?}");
    let many = store.append(events("a", 4)).await;
    assert!(
        matches!(many, Err(AppendError::TooManyEvents { max: 3 })),
        "{many:?}"
    );
    let large = store
        .append([NewEvent::new("a", 1), NewEvent::new("a", "x".repeat(4_000))])
        .await;
    let Err(AppendError::BatchTooLarge {
        index: 1, max: 4_000, ..
    }) = large
    else {
        panic!("expected the batch to be too large: {large:?}");
    };
    assert_eq!(append(&store, "a", 3).await, (1, 3));
}

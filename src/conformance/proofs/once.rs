//! L6: an append under an idempotency key is made once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::builder::StoreBuilder;
use crate::conformance::subject::Subject;
use crate::conformance::tools::{append, log};
use crate::error::{AppendError, InvalidKey};
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::fault::FaultPoint;
use crate::log::once::AppendedOnce;
use crate::log::prune::Prune;
use crate::store::Store;

fn paid(cents: u32) -> [NewEvent; 2] {
    let paid = NewEvent::new("order-paid", json!({"order": 7, "cents": cents}));
    [
        paid.tag("order:7").correlation_id("checkout-19"),
        NewEvent::new("order-closed", 7),
    ]
}

async fn pay(store: &Store, key: &str, cents: u32) -> AppendedOnce {
    store.append_once(key, paid(cents)).await.unwrap()
}

/// How many batches of payments the log has.
async fn payments(store: &Store) -> usize {
    log(store, &EventQuery::types(["order-paid"])).await.len()
}

/// Opens the log with a point that fails as long as it is told to.
fn failing_at(subject: &Subject, point: FaultPoint) -> (Store, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&fails);
    let store = subject.open_faulty(
        |builder| builder,
        move |passed| passed == point && hook.load(Ordering::SeqCst),
    );
    (store, fails)
}

pub async fn l6_a_repeated_append_returns_the_first_result(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 3).await;
    let first = pay(&store, "payment:81", 1250).await;
    assert!(!first.is_repetition);
    assert_eq!(
        (first.appended.first_sequence, first.appended.last_sequence),
        (4, 5)
    );
    append(&store, "a", 3).await;
    let again = pay(&store, "payment:81", 1250).await;
    assert_eq!((again.appended, again.is_repetition), (first.appended, true));
    assert!(!pay(&store, "payment:82", 1250).await.is_repetition);
    let store = subject.reopen(store).await;
    let again = pay(&store, "payment:81", 1250).await;
    assert_eq!((again.appended, again.is_repetition), (first.appended, true));
    assert_eq!((store.head(), payments(&store).await), (10, 2));
    assert_eq!(store.statistics().await.unwrap().idempotency_keys, 2);
}

pub async fn l6_a_repetition_does_not_ask_for_its_condition_again(subject: &Subject) {
    let store = subject.open();
    let order = EventQuery::tags(["order:7"]);
    let once_if = async |key: &str, version: u64| {
        let appended = store.append_once_if(key, paid(1250), &order, version).await;
        appended.map(|once| (once.appended.first_sequence, once.is_repetition))
    };
    assert_eq!(once_if("one", 0).await.unwrap(), (1, false));
    // Its own events have moved the context.
    assert_eq!(once_if("one", 0).await.unwrap(), (1, true));
    assert_eq!(pay(&store, "one", 1250).await.appended.first_sequence, 1);
    // A conflict uses no key.
    let refused = once_if("two", 0).await;
    assert!(
        matches!(refused, Err(AppendError::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(once_if("two", 1).await.unwrap(), (3, false));
    assert_eq!(store.head(), 4);
}

pub async fn l6_other_events_under_a_key_are_refused_by_its_name(subject: &Subject) {
    let store = subject.open();
    append(&store, "a", 1).await;
    pay(&store, "payment:81", 1250).await;
    let other = [
        paid(99).to_vec(),
        paid(1250)[..1].to_vec(),
        paid(1250).map(|event| event.schema_version(2)).to_vec(),
        paid(1250).map(|event| event.tag("more")).to_vec(),
    ];
    for events in other {
        match store.append_once("payment:81", events).await {
            Err(AppendError::KeyReused {
                key,
                first_sequence,
                last_sequence,
            }) => assert_eq!((&*key, first_sequence, last_sequence), ("payment:81", 2, 3)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.head(), 3);
    // What says the same is the same: another order of members, and of tags.
    let said = |payload: &str, tags: [&str; 2]| [NewEvent::raw("said", payload).tags(tags)];
    let first = said(r#"{"a": 1, "b": [2]}"#, ["x", "y"]);
    let first = store.append_once("said", first).await.unwrap();
    let again = store
        .append_once("said", said(r#"{"b":[2],"a":1}"#, ["y", "x"]))
        .await;
    assert_eq!(again.unwrap().appended, first.appended);
}

pub async fn l6_of_calls_that_race_one_appends(subject: &Subject) {
    let store = subject.open();
    for round in 0..10 {
        let key = format!("round:{round}");
        let racing = (0..24).map(|number| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                if number % 3 == 0 {
                    append(&store, "a", 1).await;
                }
                pay(&store, &key, 5).await
            })
        });
        let outcomes: Vec<_> = join_all(racing).await.into_iter().map(Result::unwrap).collect();
        let news = outcomes.iter().filter(|once| !once.is_repetition);
        assert_eq!(news.count(), 1);
        assert!(
            outcomes.iter().all(|once| once.appended == outcomes[0].appended),
            "{outcomes:?}"
        );
    }
    assert_eq!(payments(&store).await, 10);
}

pub async fn l6_a_failed_commit_forgets_its_keys(subject: &Subject) {
    let (store, fails) = failing_at(subject, FaultPoint::BeforeCommit);
    fails.store(true, Ordering::SeqCst);
    // Of those that share a group, the later ones find the key of the first, with other events.
    let racing = (0..32).map(|cents| store.append_once("payment:81", paid(cents)));
    for outcome in join_all(racing).await {
        assert!(matches!(outcome, Err(AppendError::Storage(_))), "{outcome:?}");
    }
    fails.store(false, Ordering::SeqCst);
    let appended = pay(&store, "payment:81", 7).await;
    assert!(!appended.is_repetition);
    assert_eq!(appended.appended.first_sequence, 1);
    assert!(pay(&store, "payment:81", 7).await.is_repetition);
}

pub async fn l6_a_commit_that_was_reported_to_have_failed_is_found_by_the_retry(subject: &Subject) {
    let (store, fails) = failing_at(subject, FaultPoint::AfterCommit);
    fails.store(true, Ordering::SeqCst);
    let lost = store.append_once("payment:81", paid(5)).await;
    assert!(matches!(lost, Err(AppendError::Storage(_))), "{lost:?}");
    fails.store(false, Ordering::SeqCst);
    let found = pay(&store, "payment:81", 5).await;
    assert_eq!((found.is_repetition, found.appended.first_sequence), (true, 1));
    assert_eq!((payments(&store).await, store.head()), (1, 2));
}

pub async fn l6_a_bad_key_is_refused_before_it_is_queued(subject: &Subject) {
    let limits = Limits::default().key_bytes_max(9);
    let store = subject.open_with(|builder| builder.limits(limits));
    let refused = async |key: &str| match store.append_once(key, paid(1)).await {
        Err(AppendError::InvalidKey(problem)) => Some(problem),
        outcome => {
            outcome.unwrap();
            None
        }
    };
    assert_eq!(refused("").await, Some(InvalidKey::Empty));
    let too_long = InvalidKey::TooLong { bytes: 10, max: 9 };
    assert_eq!(refused("0123456789").await, Some(too_long));
    let key = Box::from("a\nb");
    assert_eq!(refused("a\nb").await, Some(InvalidKey::ControlCharacter { key }));
    assert_eq!(store.head(), 0);
    assert_eq!(refused("012345678").await, None);
}

pub async fn l6_a_key_is_remembered_as_long_as_its_events(subject: &Subject) {
    let (store, fails) = failing_at(subject, FaultPoint::BeforeCommit);
    for number in 1..=3 {
        pay(&store, &format!("payment:{number}"), 5).await;
    }
    fails.store(true, Ordering::SeqCst);
    assert!(store.prune(Prune::before(5)).await.is_err());
    fails.store(false, Ordering::SeqCst);
    assert!(
        pay(&store, "payment:1", 5).await.is_repetition,
        "a prune that failed took nothing"
    );
    let pruned = store.prune(Prune::before(5)).await.unwrap();
    assert_eq!(pruned.pruned_through, 4);
    assert_eq!(store.statistics().await.unwrap().idempotency_keys, 1);
    assert!(pay(&store, "payment:3", 5).await.is_repetition);
    // The others are forgotten with their events, and can be used again, for whatever it is.
    let again = pay(&store, "payment:1", 6).await;
    assert_eq!((again.is_repetition, again.appended.first_sequence), (false, 7));
    assert!(pay(&store, "payment:1", 6).await.is_repetition);
}

pub async fn l6_keys_of_another_store_are_seen(subject: &Subject) {
    let stores = [subject.open(), subject.open()];
    let racing = (0..40).flat_map(|number| {
        stores.iter().enumerate().map(move |(which, store)| async move {
            if which == 1 && number % 4 == 0 {
                append(store, "a", 1).await;
            }
            pay(store, &format!("payment:{number}"), number).await
        })
    });
    let outcomes = join_all(racing).await;
    for of_key in outcomes.chunks(2) {
        assert_eq!(of_key[0].appended, of_key[1].appended);
        assert_ne!(of_key[0].is_repetition, of_key[1].is_repetition);
    }
    assert_eq!(payments(&stores[0]).await, 40);
}

pub async fn l6_upcasters_that_came_meanwhile_change_no_key(subject: &Subject) {
    let store = subject.open();
    let old = || [NewEvent::new("order-paid", json!({"cents": 5}))];
    let first = store.append_once("payment:81", old()).await.unwrap();
    store.close().await.unwrap();
    let with_upcaster = |builder: StoreBuilder| {
        builder.upcast("order-paid", 1, |mut payload: Value| {
            payload["currency"] = json!("EUR");
            Ok::<_, String>(payload)
        })
    };
    let store = subject.open_with(with_upcaster);
    let again = store.append_once("payment:81", old()).await.unwrap();
    assert_eq!((again.appended, again.is_repetition), (first.appended, true));
    let under_new = store.append_once("payment:82", old()).await.unwrap();
    assert!(!under_new.is_repetition);
    assert_eq!(
        store.append_once("payment:82", old()).await.unwrap().appended,
        under_new.appended
    );
    // What would be stored otherwise is something else.
    let newest = json!({"cents": 5, "currency": "EUR"});
    let newest = NewEvent::new("order-paid", newest).schema_version(2);
    let refused = store.append_once("payment:81", [newest]).await;
    assert!(
        matches!(refused, Err(AppendError::KeyReused { .. })),
        "{refused:?}"
    );
}

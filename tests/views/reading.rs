//! What can be asked of a view's documents.

use std::sync::Arc;

use futures::TryStreamExt;
use millstream::{Condition, NewEvent, View, ViewError, ViewQuery};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixture::{Account, Place, Sabotage, accounts, moved, opened};
use crate::naive;

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever is asked of whatever documents, by whatever path, in whatever order and page: SQL finds what a plain walk finds.
    #[test]
    fn what_sql_finds_is_what_the_words_say(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        naive::check(&bytes);
    }
}

fn any_view() -> View<Value> {
    View::<Value>::new("any", 1)
        .key(|event| event.tags().next().map(str::to_owned))
        .try_evolve(|_, event| event.payload().decode::<Value>().map(Some))
}

#[tokio::test]
async fn documents_are_got_listed_found_and_counted() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let view = accounts(1, &Arc::new(Sabotage::default())).index("/owner");
    let documents = models.view(&store, view).await.unwrap();
    let events = (0..1_000).flat_map(|number| {
        let id = format!("account:{number:04}");
        let owner = ["anna", "ben", "chloe"][number % 3];
        [opened(&id, owner), moved(&id, number as i64)]
    });
    let appended = store.append(events).await.unwrap();
    documents.wait_for(appended).await.unwrap();
    let seven = Account {
        owner: "ben".to_owned(),
        cents: 7,
        moves: 1,
    };
    assert_eq!(documents.get("account:0007").await.unwrap(), Some(seven));
    assert_eq!(documents.get("account:7").await.unwrap(), None);
    let some = documents
        .get_many(["account:0002", "nobody", "account:0001"])
        .await
        .unwrap();
    assert_eq!(some.len(), 2);
    // More than is read at once.
    let listed: Vec<(String, Account)> = documents.list("account:0").try_collect().await.unwrap();
    let ids: Vec<String> = listed.into_iter().map(|(id, _)| id).collect();
    let all: Vec<String> = (0..1_000).map(|number| format!("account:{number:04}")).collect();
    assert_eq!(ids, all);
    let few: Vec<(String, Account)> = documents.list("account:001").try_collect().await.unwrap();
    assert_eq!(few.len(), 10);
    let of_anna = Condition::equals("/owner", "anna").and(Condition::at_least("/cents", 990));
    let query = ViewQuery::filter(of_anna).sort_by("/cents").descending().limit(3);
    let page = documents.query(&query).await.unwrap();
    let cents: Vec<i64> = page.documents.iter().map(|(_, account)| account.cents).collect();
    assert_eq!(cents, [999, 996, 993]);
    let page = documents.query(&query.clone().after(page.next)).await.unwrap();
    assert_eq!((page.documents[0].1.cents, page.next), (990, None));
    assert_eq!(documents.count(&query).await.unwrap(), 4);
}

#[tokio::test]
async fn numbers_texts_booleans_and_null_are_told_apart() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let documents = models.view_on_demand(&store, any_view()).await.unwrap();
    let values = [
        ("one", json!({ "v": 1 })),
        ("one-point", json!({ "v": 1.0 })),
        ("true", json!({ "v": true })),
        ("text", json!({ "v": "1" })),
        ("null", json!({ "v": null })),
        ("missing", json!({})),
        ("big", json!({ "v": u64::MAX })),
        ("list", json!({ "v": [1] })),
    ];
    let events = values.map(|(id, value)| NewEvent::new("set", value).tag(id));
    store.append(events).await.unwrap();
    documents.catch_up().await.unwrap();
    let find = async |condition: Condition| {
        let page = documents.query(&ViewQuery::filter(condition)).await.unwrap();
        let ids: Vec<String> = page.documents.into_iter().map(|(id, _)| id).collect();
        ids.join(" ")
    };
    assert_eq!(find(Condition::equals("/v", 1)).await, "one one-point");
    assert_eq!(find(Condition::equals("/v", 1.0)).await, "one one-point");
    assert_eq!(find(Condition::equals("/v", true)).await, "true");
    assert_eq!(find(Condition::equals("/v", "1")).await, "text");
    assert_eq!(find(Condition::equals("/v", Value::Null)).await, "null");
    assert_eq!(find(!Condition::exists("/v")).await, "missing");
    assert_eq!(find(Condition::equals("/v", u64::MAX)).await, "big");
    assert_eq!(
        find(Condition::greater("/v", 0)).await,
        "big one one-point",
        "no booleans, no texts"
    );
    assert_eq!(
        find(Condition::not_equals("/v", 1)).await,
        "big list missing null text true",
        "the opposite of equals"
    );
    let sorted = documents.query(&ViewQuery::all().sort_by("/v")).await.unwrap();
    let sorted: Vec<String> = sorted.documents.into_iter().map(|(id, _)| id).collect();
    assert_eq!(
        sorted,
        [
            "missing",
            "null",
            "true",
            "one",
            "one-point",
            "big",
            "text",
            "list"
        ]
    );
}

#[tokio::test]
async fn a_page_goes_on_where_the_last_one_ended_whatever_came_and_went() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let view = accounts(1, &Arc::new(Sabotage::default()));
    let documents = models.view_on_demand(&store, view).await.unwrap();
    // All have the same balance, so only the id tells them apart.
    let open = |ids: std::ops::Range<u32>| {
        ids.map(|number| opened(&format!("{number:02}"), "anna"))
            .collect::<Vec<_>>()
    };
    store.append(open(10..20)).await.unwrap();
    documents.catch_up().await.unwrap();
    let query = ViewQuery::all().sort_by("/cents").limit(4);
    let first = documents.query(&query).await.unwrap();
    assert_eq!(first.documents.last().unwrap().0, "13");
    // The last one of the page goes, others come before it.
    store.append(open(0..10)).await.unwrap();
    store.append([crate::fixture::closed("13")]).await.unwrap();
    documents.catch_up().await.unwrap();
    let second = documents.query(&query.clone().after(first.next)).await.unwrap();
    let ids: Vec<&str> = second.documents.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["14", "15", "16", "17"]);
    let other = query.clone().descending().after(second.next.clone());
    let refused = documents.query(&other).await;
    assert!(
        matches!(refused, Err(ViewError::InvalidPage { .. })),
        "{refused:?}"
    );
    let other = ViewQuery::filter(Condition::equals("/owner", "anna"))
        .sort_by("/cents")
        .after(second.next);
    let refused = documents.query(&other).await;
    assert!(
        matches!(refused, Err(ViewError::InvalidPage { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_what_is_wrong() {
    let place = Place::new();
    let (store, models) = (place.store(), place.models());
    let documents = models.view_on_demand(&store, any_view()).await.unwrap();
    let refused = async |query: ViewQuery| documents.query(&query).await.unwrap_err();
    for path in ["owner", "$.owner", "/a~", &"/long".repeat(100)] {
        let error = refused(ViewQuery::filter(Condition::exists(path))).await;
        assert!(matches!(&error, ViewError::InvalidPath { path: named, .. } if named == path));
        let error = refused(ViewQuery::all().sort_by(path)).await;
        assert!(matches!(&error, ViewError::InvalidPath { path: named, .. } if named == path));
    }
    let object = Condition::equals("/a", json!({ "b": 1 }));
    let error = refused(ViewQuery::filter(object)).await.to_string();
    assert!(error.contains("\"/a\"") && error.contains("object"), "{error}");
    let error = refused(ViewQuery::filter(Condition::less("/a", true)))
        .await
        .to_string();
    assert!(error.contains("true at \"/a\""), "{error}");
    for limit in [0, 10_001] {
        let error = refused(ViewQuery::all().limit(limit)).await;
        assert!(matches!(error, ViewError::InvalidLimit { value, max: 10_000, .. } if value == limit));
    }
    let ids = (0..10_001).map(|number| number.to_string());
    let error = documents.get_many(ids).await.unwrap_err();
    assert!(matches!(error, ViewError::InvalidLimit { value: 10_001, .. }));
    for token in ["", "x", "5b", "5b5d", "ä", "zz"] {
        let parsed = token.parse::<millstream::PageToken>();
        assert!(matches!(parsed, Err(ViewError::InvalidPage { .. })), "{token}");
    }
}

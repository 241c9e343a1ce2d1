//! Reactors: what they append is brought up as any append is, and what they cannot read costs no reaction.

use millstream::{
    DurableStream, EventBatch, EventQuery, FailureCategory, FailurePolicy, NewEvent, Reaction, Reactor,
    Retry, Store,
};
use serde_json::json;

use crate::common::in_time;
use crate::{placed, seen, today};

/// Asks for the payment of each order.
fn asking() -> Reactor {
    Reactor::new(|batch: EventBatch| async move {
        let asked = batch
            .iter()
            .map(|order| NewEvent::new("payment-asked", order.sequence()));
        Ok::<_, std::io::Error>(Reaction::events(asked))
    })
}

async fn asked(store: &Store) -> Vec<u64> {
    let found = store.query(&EventQuery::types(["payment-asked"])).await.unwrap();
    let orders = found.events.iter().map(|event| event.payload().decode().unwrap());
    orders.collect()
}

#[tokio::test]
async fn a1_what_a_reactor_appends_in_an_older_version_is_seen_as_it_is_today() {
    for folder in [None, Some(tempfile::tempdir().unwrap())] {
        let store = match &folder {
            None => today().in_memory().unwrap(),
            Some(folder) => today().open(folder.path().join("log.db")).unwrap(),
        };
        let again =
            Reactor::new(|_: EventBatch| async { Ok::<_, std::io::Error>(Reaction::from(placed(7))) });
        let wished = EventQuery::types(["order-wished"]);
        let stream = store
            .react(&DurableStream::new("ordering"), &wished, again)
            .await
            .unwrap();
        // It is there before, so what it is given is live.
        let shipping = DurableStream::new("shipping");
        let received = EventQuery::types(["order-received"]);
        let shipping = store.react(&shipping, &received, asking()).await.unwrap();
        store.append([NewEvent::new("order-wished", 7)]).await.unwrap();
        in_time("all is handled", store.settled()).await.unwrap();
        let orders = store.query(&received).await.unwrap().events;
        let open = json!({"order": 7, "total": {"cents": 1200}, "open": true});
        assert_eq!(seen(&orders[0]), (2, "order-received".into(), 3, open));
        assert_eq!(asked(&store).await, [2], "and live");
        drop((stream, shipping));
    }
}

#[tokio::test]
async fn a1_an_event_that_cannot_be_decoded_costs_no_reaction_to_those_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let plain = Store::open(&path).unwrap();
    plain.append([placed(1), placed(13), placed(2)]).await.unwrap();
    plain.append([placed(3)]).await.unwrap();
    plain.close().await.unwrap();
    let store = today().open(&path).unwrap();
    let payments = DurableStream::new("payments").on(FailureCategory::Undecodable, FailurePolicy::park());
    let stream = store
        .react(
            &payments,
            &EventQuery::types(["order-received"]),
            asking().retry(Retry::never()),
        )
        .await
        .unwrap();
    in_time("it goes on", stream.caught_up()).await.unwrap();
    // What cannot be decoded may be of any type, and so is looked at again by its letter.
    let waiting = store.dead_letters("payments");
    let (letter, _) = waiting.show(1).await.unwrap();
    assert_eq!(
        (letter.first_sequence, letter.last_sequence),
        (1, 3),
        "the whole batch"
    );
    assert_eq!(asked(&store).await, [4]);
    store.close().await.unwrap();
    // A program that can read it makes up for all three.
    let store = Store::open(&path).unwrap();
    let placed = EventQuery::types(["order-placed"]);
    let payments = payments.on_mismatch(millstream::OnMismatch::KeepCursor);
    let _stream = store.react(&payments, &placed, asking()).await.unwrap();
    store.dead_letters("payments").retry(1).await.unwrap();
    assert_eq!(asked(&store).await, [4, 1, 2, 3]);
}

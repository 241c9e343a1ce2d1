//! A2: reactions to reactions.

use crate::conformance::proofs::reactors::answers;
use crate::conformance::subject::Subject;
use crate::conformance::tools::poison::letters;
use crate::conformance::tools::{append, in_time};
use crate::error::{StopCause, WaitError};
use crate::event::new_event::NewEvent;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::store::Store;
use crate::stream::failure::FailurePolicy;
use crate::stream::handle::EventStream;
use crate::stream::options::DurableStream;

/// Starts a chain: `placed`, `asked`, `paid`, `sent`.
async fn chain(store: &Store) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for (name, from, to) in [
        ("ask", "placed", "asked"),
        ("pay", "asked", "paid"),
        ("send", "paid", "sent"),
    ] {
        let name = DurableStream::new(name);
        let stream = store.react(&name, &EventQuery::types([from]), answers(to)).await;
        streams.push(stream.unwrap());
    }
    streams
}

pub async fn a2_the_cause_travels_down_a_chain(subject: &Subject) {
    let store = subject.open();
    let _streams = chain(&store).await;
    let own = NewEvent::new("placed", 1).correlation_id("checkout-19");
    store.append([NewEvent::new("placed", 0), own]).await.unwrap();
    // Settled means that the chain has come to its end.
    store.settled().await.unwrap();
    let all = store.query(&EventQuery::all()).await.unwrap().events;
    let told = |event: &EventRecord| {
        let metadata = event.metadata().unwrap();
        let correlation = metadata.correlation_id().unwrap().to_owned();
        let (cause, depth) = (metadata.caused_by().unwrap(), metadata.reaction_depth());
        assert_eq!(metadata.causation_id(), Some(&*format!("event:{cause}")));
        (event.event_type().to_owned(), correlation, cause, depth)
    };
    let found: Vec<_> = all.iter().skip(2).map(told).collect();
    let expected = [
        ("asked", "event:1", 1, 1),
        ("asked", "checkout-19", 2, 1),
        ("paid", "event:1", 3, 2),
        ("paid", "checkout-19", 4, 2),
        ("sent", "event:1", 5, 3),
        ("sent", "checkout-19", 6, 3),
    ];
    let expected = expected.map(|(name, id, cause, depth)| (name.to_owned(), id.to_owned(), cause, depth));
    assert_eq!(found, expected);
}

pub async fn a2_reactors_that_answer_each_other_end_at_the_depth_limit(subject: &Subject) {
    let store = subject.open();
    append(&store, "ping", 1).await;
    let pinged = answers("pong").depth_max(6);
    let parks = DurableStream::new("pinged").on_failure(FailurePolicy::park());
    let _pinged = store
        .react(&parks, &EventQuery::types(["ping"]), pinged)
        .await
        .unwrap();
    let ponged = answers("ping").depth_max(9);
    let _ponged = store
        .react(
            &DurableStream::new("ponged"),
            &EventQuery::types(["pong"]),
            ponged,
        )
        .await
        .unwrap();
    let halted = in_time("a stream stops", store.settled()).await;
    let Err(WaitError::Stopped { name, cause, .. }) = halted else {
        panic!("a chain without end is ended: {halted:?}");
    };
    assert_eq!(name.as_deref(), Some("pinged"));
    let StopCause::ChainTooDeep {
        cause: 7,
        depth: 7,
        depth_max: 6,
    } = cause
    else {
        panic!("the chain is named: {cause:?}");
    };
    assert!(cause.to_string().contains("depth 7, at most 6"), "{cause}");
    assert_eq!(store.head(), 7, "nothing of the reaction is there");
    // No policy sets it aside, and with another limit it goes on.
    assert!(letters(&store, "pinged").await.is_empty());
    let deeper = answers("pong").depth_max(8);
    let stream = store
        .react(&parks, &EventQuery::types(["ping"]), deeper)
        .await
        .unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    assert!(
        matches!(
            cause,
            StopCause::ChainTooDeep {
                depth: 9,
                depth_max: 8,
                ..
            }
        ),
        "{cause:?}"
    );
    assert_eq!(store.head(), 9);
}

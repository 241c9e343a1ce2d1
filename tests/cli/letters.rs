//! `dead-letters`, beside the process that runs the stream.

use millstream::FailurePolicy;
use serde_json::{Value, json};

use crate::service::{Service, append, standing};
use crate::{Place, lines};

/// A stream that has parked the events 2 and 4 of five.
async fn with_letters(place: &Place) -> Service {
    for (number, event_type) in [(1, "good"), (2, "bad"), (3, "good"), (4, "bad"), (5, "good")] {
        append(place, event_type, number);
    }
    let service = Service::start(place, "ledger", FailurePolicy::park()).await;
    service.settle(5).await;
    assert_eq!(service.handled(), [1, 3, 5]);
    service
}

fn listed(place: &Place) -> Vec<Value> {
    lines(&place.ok(&["dead-letters", "list", "ledger", "--json"]))
}

fn first_sequences(place: &Place) -> Vec<u64> {
    let letters = listed(place);
    let sequences = letters
        .iter()
        .map(|letter| letter["first_sequence"].as_u64().unwrap());
    sequences.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_with_their_cause() {
    let place = Place::new();
    let _service = with_letters(&place).await;
    let letters = listed(&place);
    assert_eq!(first_sequences(&place), [2, 4]);
    let letter = &letters[0];
    assert_eq!(
        (&letter["last_sequence"], &letter["events"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&letter["state"], &letter["category"]),
        (&json!("parked"), &json!("error"))
    );
    assert_eq!(
        (&letter["cause"], &letter["attempts"]),
        (&json!("the bank is closed"), &json!(1))
    );
    let table = place.ok(&["dead-letters", "list", "ledger"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].trim_start().starts_with("sequence"), "{table}");
    assert!(
        rows[1].contains("parked") && rows[1].ends_with("the bank is closed"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_with_the_payloads_of_its_events() {
    let place = Place::new();
    let _service = with_letters(&place).await;
    let shown = &lines(&place.ok(&["dead-letters", "show", "ledger", "4", "--json"]))[0];
    assert_eq!(shown["letter"]["first_sequence"], 4);
    let events = lines(&place.ok(&["events", "--after", "3", "--through", "4", "--json"]));
    assert_eq!(shown["events"], json!(events));
    let shown = place.ok(&["dead-letters", "show", "ledger", "4"]);
    for part in ["the bank is closed", "bad", "account:7", "{\"number\":4}"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let outcome = place.run(&["dead-letters", "show", "ledger", "3"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(
        outcome.stderr.contains("no dead letter that begins with event 3"),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_dropped_one_by_one_or_all() {
    let place = Place::new();
    let service = with_letters(&place).await;
    append(&place, "bad", 6);
    service.settle(6).await;
    let drop = ["dead-letters", "drop", "ledger", "--reason", "booked by hand"];
    let dropping = |more: &[&str]| place.run(&[&drop[..], more].concat());
    for refused in [&["4"][..], &["--all"]] {
        let outcome = dropping(refused);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{outcome:?}");
        assert!(outcome.stderr.contains("give --yes"), "{outcome:?}");
    }
    let outcome = dropping(&["5", "--yes"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert_eq!(first_sequences(&place), [2, 4, 6]);
    let outcome = dropping(&["4", "--yes"]);
    assert_eq!(
        outcome.stdout,
        "dropped 1 dead letter of \"ledger\": booked by hand\n"
    );
    assert_eq!(first_sequences(&place), [2, 6]);
    let outcome = dropping(&["--all", "--yes", "--json"]);
    let expected = json!({"name": "ledger", "dropped": 2, "reason": "booked by hand"});
    assert_eq!(lines(&outcome.stdout), [expected]);
    assert_eq!(
        (listed(&place), &standing(&place, "ledger")["parked"]),
        (vec![], &json!(0))
    );
    // There is nothing to ask about any more, and the program finds nothing to retry.
    assert_eq!(dropping(&["--all"]).code, 0);
    let retried = service.store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!((retried.handled, retried.failed), (0, 0));
}

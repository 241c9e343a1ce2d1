//! Idempotency keys: `append --key` and `import --key`.

use std::fs;

use millstream::Store;
use serde_json::json;

use crate::{Place, lines, sequences};

const PAID: &str = r#"{"type":"order-paid","payload":{"order":7},"tags":["order:7"]}"#;
const SENT: &str = r#"{"type":"order-sent","payload":{"order":7},"tags":["order:7"]}"#;

#[test]
fn an_append_with_a_key_is_made_once_and_told_again() {
    let place = Place::new();
    place.append_batches(&[2]);
    let input = format!("{PAID}\n{SENT}\n");
    let first = place.feed(&["append", "--key", "payment:81"], &input);
    assert_eq!(
        first.stdout, "appended 2 events in 1 batch, sequences 3 to 4\n",
        "{first:?}"
    );
    let again = place.feed(&["append", "--key", "payment:81"], &input);
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (
            0,
            "appended nothing; there already: 2 events in 1 batch, sequences 3 to 4\n"
        ),
        "{again:?}"
    );
    let again = place.feed(&["append", "--key", "payment:81", "--json"], &input);
    let repeated = json!({"events": 2, "batches": 1, "first_sequence": 3, "last_sequence": 4});
    let expected = json!({
        "events": 0, "batches": 0, "first_sequence": null, "last_sequence": null, "repeated": repeated,
    });
    assert_eq!(lines(&again.stdout), [expected]);
    assert_eq!(sequences(&place.ok(&["events", "--json"])), [1, 2, 3, 4]);
    assert!(place.ok(&["stats"]).contains("keys      1\n"));
    let verified = place.ok(&["verify"]);
    assert!(verified.contains("1 idempotency key"), "{verified}");
}

#[test]
fn other_events_under_a_key_are_a_conflict_and_a_bad_key_is_refused() {
    let place = Place::new();
    place.feed(&["append", "--key", "payment:81"], PAID);
    let refused = place.feed(&["append", "--key", "payment:81"], SENT);
    assert_eq!(refused.code, 3, "{refused:?}");
    let said = "conflict: the key \"payment:81\" was used for other events, which are 1 to 1 of the log";
    assert!(refused.stderr.starts_with(said), "{refused:?}");
    let refused = place.feed(&["append", "--key", &"k".repeat(256)], SENT);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("256 bytes, at most 255"), "{refused:?}");
    let refused = place.feed(&["append", "--key", "k", "--batch", "2"], SENT);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert_eq!(sequences(&place.ok(&["events", "--json"])), [1]);
}

#[test]
fn a_decision_with_a_key_is_repeated_without_its_condition() {
    let place = Place::new();
    let decide = |key: &str| {
        let arguments = ["append", "--key", key, "--expect", "0", "--tag", "order:7"];
        place.feed(&arguments, PAID)
    };
    assert_eq!(decide("one").stdout, "appended 1 event in 1 batch, sequence 1\n");
    let again = decide("one");
    assert_eq!(
        again.stdout, "appended nothing; there already: 1 event in 1 batch, sequence 1\n",
        "{again:?}"
    );
    assert_eq!(decide("two").code, 3);
}

#[test]
fn an_import_that_was_cut_off_is_taken_up_again() {
    let source = Place::new();
    source.append_batches(&[2, 1, 3, 2]);
    let export = source.ok(&["export"]);
    let place = Place::new();
    let file = place.path("part.jsonl");
    let part: Vec<&str> = export.lines().take(5).collect();
    fs::write(&file, part.join("\n")).unwrap();
    let import = ["import", "--key", "move", file.to_str().unwrap()];
    let cut_off = place.run(&import);
    assert_eq!(cut_off.code, 1, "{cut_off:?}");
    fs::write(&file, &export).unwrap();
    assert_eq!(
        place.ok(&import),
        "imported 5 events in 2 batches, sequences 4 to 8; there already: 3 events in 2 batches, sequences 1 to 3\n"
    );
    assert_eq!(
        place.ok(&import),
        "imported nothing; there already: 8 events in 4 batches, sequences 1 to 8\n"
    );
    let store = Store::open(place.db()).unwrap();
    assert_eq!(store.head(), 8);
    // Another file under the same key is noticed where it differs.
    fs::write(&file, export.replacen("\"number\":3", "\"number\":4", 1)).unwrap();
    let refused = place.run(&import);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("line 3: the idempotency key \"move:3\" was used"),
        "{refused:?}"
    );
}

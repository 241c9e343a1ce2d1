//! `export`, `import` and `backup`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use millstream::{NewEvent, Store};
use serde_json::{Value, json};

use crate::{Place, command, lines, outcome, sequences};

/// A log with whatever an event can have.
fn varied() -> Place {
    let place = Place::new();
    let store = Store::open(place.db()).unwrap();
    store
        .append_blocking([
            NewEvent::new("order-placed", json!({"order": 7, "note": "grüße \"x\"\n\u{7}"}))
                .tags(["order:7", "ä \"b\" \\"]),
            NewEvent::raw("spaced", "{\n  \"n\": 1.0,\r\n  \"big\": 12345678901234567890\n}"),
            NewEvent::new("null", Value::Null)
                .correlation_id("c-1")
                .metadata("deep", json!([{"a": [1, 2.5]}])),
        ])
        .unwrap();
    let newer = NewEvent::new("alone", "text").schema_version(3);
    store.append_blocking([newer]).unwrap();
    store
        .append_blocking((0..50).map(|number| NewEvent::new("counted", number).tag(format!("n:{number}"))))
        .unwrap();
    place
}

/// What an event is, whatever log it is in: all but its time, and its place and batch counted from the first event.
fn contents(export: &str) -> Vec<Value> {
    let mut events = lines(export);
    let begin = events[0]["sequence"].as_u64().unwrap();
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        assert!(event.remove("recorded_at").is_some());
        for key in ["sequence", "batch_first_sequence", "batch_last_sequence"] {
            let number = event[key].as_u64().unwrap();
            event[key] = json!(number - begin);
        }
    }
    events
}

#[test]
fn what_is_exported_and_imported_is_the_same_events_in_the_same_batches() {
    let place = varied();
    let export = place.ok(&["export"]);
    assert_eq!(export.lines().count(), 54);
    let new = outcome(command(&place.path("new.db"), &["import"]), &export);
    assert_eq!(
        new.stdout, "imported 54 events in 3 batches, sequences 1 to 54\n",
        "{new:?}"
    );
    let again = outcome(command(&place.path("new.db"), &["export"]), "").stdout;
    assert_eq!(contents(&export), contents(&again));
    let versions: Vec<Value> = contents(&again)[2..5]
        .iter()
        .map(|event| event["schema_version"].clone())
        .collect();
    assert_eq!(versions, [Value::Null, json!(3), Value::Null]);
    // Into a log that holds something.
    let other = Place::new();
    other.append_batches(&[2]);
    let told = other.feed(&["import", "--json"], &export);
    let expected = json!({"events": 54, "batches": 3, "first_sequence": 3, "last_sequence": 56});
    assert_eq!(lines(&told.stdout), [expected], "{told:?}");
    let again = other.ok(&["export", "--after", "2"]);
    assert_eq!(contents(&export), contents(&again));
    assert_eq!(other.run(&["verify"]).code, 0);
    // The text of a payload stays, but for line breaks between its parts.
    let store = Store::open(place.path("new.db")).unwrap();
    let events = store
        .query_blocking(&millstream::EventQuery::types(["spaced"]))
        .unwrap()
        .events;
    let spaced = "{   \"n\": 1.0,    \"big\": 12345678901234567890 }";
    assert_eq!(events[0].payload().as_str(), spaced);
}

#[test]
fn an_export_of_a_part_has_whole_batches() {
    let place = varied();
    let part = place.ok(&["export", "--after", "3", "--through", "5"]);
    assert_eq!(sequences(&part), (4..=54).collect::<Vec<_>>());
    let file = place.path("part.jsonl");
    let told = place.ok(&["export", file.to_str().unwrap(), "--through", "1", "--json"]);
    assert_eq!(
        lines(&told),
        [json!({"events": 3, "batches": 1, "last_sequence": 3})]
    );
    assert_eq!(sequences(&fs::read_to_string(&file).unwrap()), [1, 2, 3]);
}

#[test]
fn an_import_takes_no_part_of_a_batch_and_says_how_far_it_got() {
    let place = varied();
    let export = place.ok(&["export"]);
    let all: Vec<&str> = export.lines().collect();
    let without = |lost: usize| [&all[..lost], &all[lost + 1..]].concat().join("\n");
    for (number, (input, line, missing, came)) in [
        (all[..20].join("\n"), 20, 21, "4 events in 2 batches"),
        (without(9), 10, 10, "4 events in 2 batches"),
        (without(4), 5, 5, "4 events in 2 batches"),
        (without(0), 1, 1, "nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        let db = place.path(&format!("{number}.db"));
        let told = outcome(command(&db, &["import"]), &input);
        assert_eq!(told.code, 1, "{told:?}");
        let expected = format!("error: line {line}: event {missing} of the batch");
        assert!(told.stderr.starts_with(&expected), "{expected}: {told:?}");
        assert!(
            told.stderr.contains(&format!("imported before: {came}")),
            "{came}: {told:?}"
        );
    }
}

#[test]
fn an_import_of_plain_events_makes_a_batch_of_each() {
    let place = Place::new();
    let input = "{\"type\":\"a\",\"payload\":1}\n{\"type\":\"b\",\"payload\":2,\"tags\":[\"t\"]}\n";
    let file = place.path("plain.jsonl");
    fs::write(&file, input).unwrap();
    let told = place.ok(&["import", file.to_str().unwrap()]);
    assert_eq!(told, "imported 2 events in 2 batches, sequences 1 to 2\n");
}

#[test]
fn files_are_not_overwritten_unasked_and_the_log_never() {
    let place = varied();
    let file = place.path("export.jsonl");
    let file = file.to_str().unwrap();
    fs::write(file, "something else").unwrap();
    let refused = place.run(&["export", file]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(fs::read_to_string(file).unwrap(), "something else");
    place.ok(&["export", file, "--yes"]);
    assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 54);
    let db = place.db();
    let before = fs::read(&db).unwrap();
    for arguments in [
        ["--yes", "export", db.to_str().unwrap()],
        ["--yes", "import", db.to_str().unwrap()],
    ] {
        let refused = place.run(&arguments);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(
            refused.stderr.contains("belongs to the log itself"),
            "{refused:?}"
        );
    }
    let refused = place.run(&["backup", file]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("exists already"), "{refused:?}");
    assert_eq!(fs::read(&db).unwrap(), before);
}

#[test]
fn a_backup_made_while_others_append_is_whole_up_to_its_head() {
    let place = Place::new();
    let store = Store::open(place.db()).unwrap();
    let text = "x".repeat(500);
    let batch = || (0..10).map(|_| NewEvent::new("filled", &text).tag("tag"));
    for _ in 0..1000 {
        store.append_blocking(batch()).unwrap();
    }
    let before = store.head();
    let is_over = Arc::new(AtomicBool::new(false));
    let appending = {
        let (store, is_over, text) = (store.clone(), Arc::clone(&is_over), text.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let batch = (0..3).map(|_| NewEvent::new("filled", &text).tag("tag"));
                store.append_blocking(batch).unwrap();
            }
        })
    };
    let target = place.path("backup.db");
    let told = place.ok(&["backup", target.to_str().unwrap(), "--json"]);
    let head = lines(&told)[0]["head"].as_u64().unwrap();
    assert!(head >= before, "{head} of {before}");
    while store.head() <= head {
        thread::yield_now();
    }
    is_over.store(true, Ordering::Relaxed);
    appending.join().unwrap();
    let verified = outcome(command(&target, &["verify", "--json"]), "");
    assert_eq!(verified.code, 0, "{verified:?}");
    let verified = &lines(&verified.stdout)[0];
    assert_eq!(
        (&verified["head"], &verified["events"]),
        (&json!(head), &json!(head))
    );
    let copied = outcome(command(&target, &["export"]), "").stdout;
    let through = head.to_string();
    assert_eq!(copied, place.ok(&["export", "--through", &through]));
    let mut left: Vec<_> = fs::read_dir(place.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.retain(|name| name.to_str().unwrap().contains("partial"));
    assert!(left.is_empty(), "{left:?}");
}
